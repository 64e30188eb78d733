"""Try a recipe with many values: `gptft sweep`."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console

from gptft.cli.app import RecipeArgument, app
from gptft.errors import GptftError


@app.command()
def sweep(
    recipe: RecipeArgument,
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Settings over the recipe's.")
    ] = None,
    trials: Annotated[int, typer.Option(min=1, help="How many trials there are in the end.")] = 20,
    storage: Annotated[
        str | None,
        typer.Option(envvar="GPTFT_STORAGE", help="URL of a database that several machines share: postgresql://..."),
    ] = None,
) -> None:
    """Try what the recipe's `sweep` says, and write the recipe of the best; the same command goes on where it stopped."""
    from gptft.recipe import load_recipe

    load_recipe(recipe, overrides or [])  # its mistakes are told before anything heavy is imported
    from gptft.sweeps import sweep as run_sweep

    done = run_sweep(recipe, trials, overrides or [], storage=storage)
    Console(stderr=True).print(done.table())
    if done.stopped:
        Console(stderr=True).print("Stopped. The same command goes on.")
        raise typer.Exit(130)
    if not done.best.is_file():
        raise GptftError("No trial has finished, so there is no best one.")
    print(done.best)
