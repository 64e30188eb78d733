"""Try a recipe with many values: `gptft sweep`."""

from __future__ import annotations

from typing import Annotated

import typer

from gptft.cli.app import RecipeArgument, app


@app.command()
def sweep(
    recipe: RecipeArgument,
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Settings over the recipe's.")
    ] = None,
    trials: Annotated[int, typer.Option(min=1, help="How many there are in the end.")] = 20,
    storage: Annotated[
        str | None, typer.Option(envvar="GPTFT_STORAGE", help="URL of a database that several machines share.")
    ] = None,
) -> None:
    """Try what a recipe's `sweep` says and write the best as a recipe; the same command goes on after a stop."""
    from gptft.recipe import load_recipe

    load_recipe(recipe, overrides or [])  # its mistakes are told before anything heavy is imported
    from gptft.sweeps import sweep as run_sweep

    print(run_sweep(recipe, trials, overrides or [], storage=storage))
