"""From a recipe to a run: `gptft finetune`, `gptft recipes`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from gptft.cli.app import RecipeArgument, app

recipes_app = typer.Typer(help="List the recipes that ship with gptft, copy one, or print the schema.")
app.add_typer(recipes_app, name="recipes")


@app.command()
def finetune(
    recipe: RecipeArgument,
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE]...", help="Settings over the recipe's: training.learning_rate=1e-4"),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue the newest unfinished run of this recipe.")
    ] = False,
    no_fallback: Annotated[
        bool, typer.Option("--no-fallback", help="Fail when the base cannot be had, in place of using the starter.")
    ] = False,
    launch: Annotated[
        str | None,
        typer.Option(help="Train in several processes: how many on this machine, or a file of `accelerate config`."),
    ] = None,
) -> None:
    """Fine-tune what a recipe says; the result is a folder in runs/."""
    from gptft.recipe import load_recipe

    changes = [*(overrides or []), *(["model.fallback=null"] if no_fallback else [])]
    loaded = load_recipe(recipe / "recipe.yaml" if (recipe / "recipe.yaml").is_file() else recipe, changes)
    from gptft.training.processes import launch as run_launcher
    from gptft.training.processes import rank

    if launch:
        flags = [*(["--resume"] if resume else []), *(["--no-fallback"] if no_fallback else [])]
        run_launcher(launch, ["finetune", str(recipe), *(overrides or []), *flags])
    from gptft.training.finetune import finetune as run_finetune

    run = run_finetune(loaded, resume=resume)
    if rank() > 0:
        return
    if run.manifest["state"] == "stopped":
        raise typer.Exit(128 + run.manifest["stopped_by"])
    has_held_out = loaded.data.test is not None or loaded.data.validation is not None
    print(run.folder)
    hints = [*(["gptft eval"] if has_held_out else []), *(["gptft chat"] if loaded.task == "dialogue" else [])]
    hints += ['gptft predict "TEXT"'] if loaded.task in ("classification", "completion") else []
    if hints:
        Console(stderr=True).print("Next: " + ", ".join(hints), highlight=False)


@recipes_app.callback(invoke_without_command=True)
def list_recipes(context: typer.Context) -> None:
    """List the recipes that ship with gptft."""
    if context.invoked_subcommand:
        return
    from rich.table import Table

    from gptft.recipe import list_recipes as shipped

    table = Table("recipe", "what it is for", box=None)
    for recipe in shipped():
        table.add_row(recipe.name, recipe.description)
    Console().print(table)
    print("\nTake one with: gptft recipes copy NAME")


@recipes_app.command("copy")
def copy_recipe(
    name: Annotated[str, typer.Argument(help="Its name in `gptft recipes`.")],
    to: Annotated[Path, typer.Option(help="The folder to copy it to.")] = Path("."),
) -> None:
    """Write a recipe and its data to the current folder."""
    from gptft.recipe import copy_recipe as run_copy

    print(run_copy(name, to))


@recipes_app.command("schema")
def print_schema() -> None:
    """Print the JSON schema of recipes, for editors."""
    from gptft.recipe import json_schema

    print(json.dumps(json_schema(), indent=2, ensure_ascii=False))
