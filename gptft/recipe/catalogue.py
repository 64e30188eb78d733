"""The recipes that ship with gptft."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from gptft.errors import UserError
from gptft.files import disk_errors, folder_written_atomically
from gptft.recipe.checks import data_sources
from gptft.recipe.lines import Document

SCHEMA_FILE = "recipe.schema.json"


@dataclass(frozen=True)
class ShippedRecipe:
    """A recipe that ships with gptft."""

    name: str
    description: str
    path: Path


def recipes_folder() -> Path:
    """The folder of the shipped recipes: inside the installed package, or beside it in a checkout."""
    package = Path(__file__).parent.parent
    installed = package / "_recipes"
    return installed if installed.is_dir() else package.parent / "recipes"


def list_recipes() -> list[ShippedRecipe]:
    """All recipes that ship with gptft, by name."""
    recipes = []
    for path in sorted(recipes_folder().glob("*.yaml")):
        value = Document(path.read_text(encoding="utf-8")).value
        recipes.append(ShippedRecipe(path.stem, " ".join(str(value.get("description") or "").split()), path))
    return recipes


def find_recipe(name: str) -> ShippedRecipe:
    """The shipped recipe called `name`.

    Raises:
        UserError: when there is none.
    """
    recipes = {recipe.name: recipe for recipe in list_recipes()}
    name = name.removesuffix(".yaml")
    if name not in recipes:
        near = get_close_matches(name, recipes, 1)
        hint = f"did you mean {near[0]}?" if near else f"there are: {', '.join(recipes) or 'none'}"
        raise UserError(f"no recipe called {name} ships with gptft; {hint}")
    return recipes[name]


def copy_recipe(name: str, destination: Path) -> Path:
    """Copy a shipped recipe, the data that it names beside it and the JSON schema into the folder `destination`.

    Returns:
        The copied YAML file.

    Raises:
        UserError: when there is no such recipe, or a file of it is already there with other content.
        GptftError: when the disk refuses; nothing is then half copied.
    """
    recipe = find_recipe(name)
    folder = recipe.path.parent
    relative = [Path(recipe.path.name), *_data_beside(recipe.path)]
    if (folder / SCHEMA_FILE).exists():
        relative.append(Path(SCHEMA_FILE))
    # What several recipes share (the schema, a data set) may be there already.
    missing = [path for path in relative if not _same(folder / path, destination / path)]
    taken = [path for path in missing if (destination / path).exists()]
    if taken:
        names = ", ".join(str(destination / path) for path in taken)
        raise UserError(f"{names} exists already and is not overwritten: move it away, or copy to another folder")
    if Path(recipe.path.name) not in missing:
        raise UserError(f"{destination / recipe.path.name} exists already: nothing to copy")
    # All files are complete beside their places before the first takes its place, the recipe last.
    with disk_errors(destination), folder_written_atomically(destination / f".{recipe.name}.copy") as staging:
        for path in missing:
            (staging / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(folder / path, staging / path)
    staged = destination / f".{recipe.name}.copy"
    with disk_errors(destination):
        try:
            for path in reversed(missing):
                (destination / path).parent.mkdir(parents=True, exist_ok=True)
                os.replace(staged / path, destination / path)
        finally:
            shutil.rmtree(staged, ignore_errors=True)
    return destination / recipe.path.name


def _same(source: Path, target: Path) -> bool:
    return target.is_file() and source.read_bytes() == target.read_bytes()


def _data_beside(recipe: Path) -> list[Path]:
    """The files that a recipe's sources stand for, relative to its folder."""
    from gptft.recipe.sources import find_files

    value = Document(recipe.read_text(encoding="utf-8")).value
    files: list[Path] = []
    for _, text in data_sources(value.get("data")):
        files += find_files(text, recipe.parent) or []
    return [file.relative_to(recipe.parent) for file in dict.fromkeys(files) if file.is_relative_to(recipe.parent)]
