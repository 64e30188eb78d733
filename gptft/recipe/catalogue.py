"""The recipes that ship with gptft."""

from __future__ import annotations

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


def copy_recipe(name: str, destination: Path) -> Path:
    """Copy a shipped recipe, the data that it names beside it and the JSON schema into the folder `destination`.

    Returns:
        The copied YAML file.

    Raises:
        UserError: when there is no such recipe, or a file of it is already there with other content.
        GptftError: when the disk refuses; nothing is then half copied.
    """
    recipes = {recipe.name: recipe.path for recipe in list_recipes()}
    recipe = recipes.get(name.removesuffix(".yaml"))
    if recipe is None:
        near = get_close_matches(name, recipes, 1)
        hint = f"did you mean {near[0]}?" if near else f"there are: {', '.join(recipes) or 'none'}"
        raise UserError(f"no recipe called {name} ships with gptft; {hint}")
    folder = recipe.parent
    shared = [path for path in (*_data_beside(recipe), folder / SCHEMA_FILE) if path.is_file()]
    # What several recipes share (the schema, a data set) may be there already. The recipe comes last.
    targets = {path: destination / path.relative_to(folder) for path in (*shared, recipe)}
    wanted = {path: target for path, target in targets.items() if path == recipe or not _same(path, target)}
    if taken := ", ".join(str(target) for target in wanted.values() if target.exists()):
        raise UserError(f"{taken} exists already and is not overwritten: move it away, or copy to another folder")
    with disk_errors(destination):
        destination.mkdir(parents=True, exist_ok=True)
        # All is on the disk before the first file takes its place.
        with tempfile.TemporaryDirectory(dir=destination, prefix=".copy.") as staging:
            staged = [Path(shutil.copyfile(path, Path(staging) / str(n))) for n, path in enumerate(wanted)]
            for copy, target in zip(staged, wanted.values(), strict=True):
                target.parent.mkdir(parents=True, exist_ok=True)
                copy.replace(target)
    return targets[recipe]


def _same(source: Path, target: Path) -> bool:
    return target.is_file() and source.read_bytes() == target.read_bytes()


def _data_beside(recipe: Path) -> list[Path]:
    """The files below a recipe's folder that its sources stand for; none for what lies elsewhere."""
    files: list[Path] = []
    for _, text in data_sources(Document(recipe.read_text(encoding="utf-8")).value.get("data")):
        with suppress(SourceError):
            files += find_files(text, recipe.parent) or []
    return [file for file in dict.fromkeys(files) if file.is_relative_to(recipe.parent)]
