"""The recipes that ship with gptft."""

from __future__ import annotations

import os
import shutil
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from gptft.errors import UserError
from gptft.files import disk_errors
from gptft.recipe.checks import data_sources
from gptft.recipe.lines import Document
from gptft.recipe.sources import SourceError, find_files

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
    folder, own = recipe.path.parent, Path(recipe.path.name)
    shared = [path for path in (*_data_beside(recipe.path), Path(SCHEMA_FILE)) if (folder / path).is_file()]
    # What several recipes share (the schema, a data set) may be there already.
    wanted = [*(path for path in shared if not _same(folder / path, destination / path)), own]
    taken = [str(destination / path) for path in wanted if (destination / path).exists()]
    if taken:
        names = ", ".join(taken)
        raise UserError(f"{names} exists already and is not overwritten: move it away, or copy to another folder")
    with disk_errors(destination):
        destination.mkdir(parents=True, exist_ok=True)
        # All is on the disk before the first file takes its place; the recipe comes last.
        with tempfile.TemporaryDirectory(dir=destination, prefix=".copy.") as staging:
            for path in wanted:
                (Path(staging) / path).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(folder / path, Path(staging) / path)
            for path in wanted:
                (destination / path).parent.mkdir(parents=True, exist_ok=True)
                os.replace(Path(staging) / path, destination / path)
    return destination / own


def _same(source: Path, target: Path) -> bool:
    return target.is_file() and source.read_bytes() == target.read_bytes()


def _data_beside(recipe: Path) -> list[Path]:
    """The files that a recipe's sources stand for, relative to its folder; none for what lies elsewhere."""
    value = Document(recipe.read_text(encoding="utf-8")).value
    files: list[Path] = []
    for _, text in data_sources(value.get("data")):
        with suppress(SourceError):
            files += find_files(text, recipe.parent) or []
    return [file.relative_to(recipe.parent) for file in dict.fromkeys(files) if file.is_relative_to(recipe.parent)]
