"""A recipe in a model card: written so that it is of use on other machines, and read back from there."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from gptft.errors import RecipeError, UserError
from gptft.recipe.catalogue import recipes_folder
from gptft.recipe.lines import to_yaml
from gptft.recipe.loading import load_recipe
from gptft.recipe.schema import Recipe

MARK = "<!-- gptft recipe -->"
IN_CARD = re.compile(re.escape(MARK) + r"\s*(`{3,})yaml\n(?P<recipe>.*?)\n\1", re.DOTALL)
SOURCES = ("train", "validation", "test")


def portable_recipe(text: str) -> str:
    """A run's recipe without the folders of this machine.

    A file below the current folder or the shipped recipes keeps its way from there, another its name alone.
    """
    return to_yaml(_with_paths(yaml.safe_load(text), _portable))


def read_card(folder: Path) -> dict[str, Any]:
    """What the recipe in the model card of a folder says, unchecked; empty where there is none."""
    card = folder / "README.md"
    found = IN_CARD.search(card.read_text(encoding="utf-8")) if card.is_file() else None
    return yaml.safe_load(found["recipe"]) if found else {}


def recipe_of_card(folder: Path, name: str) -> Recipe:
    """The recipe in the model card of a folder; its files are looked for here, then among the shipped recipes.

    Args:
        folder: where README.md is.
        name: what to call the model in errors.

    Raises:
        UserError: there is no card, or no recipe in it; a recipe that cannot be used here (`RecipeError`).
    """
    written = read_card(folder)
    if not written:
        raise UserError(
            f"{name} is not a run and has no gptft recipe in its model card, so it brings no data to score on. Name a "
            f"recipe: gptft eval {name} --recipe RECIPE"
        )
    value = _with_paths(written, _here)
    with tempfile.TemporaryDirectory() as temporary:
        file = Path(temporary) / f"{value.get('name', 'recipe')}.yaml"
        file.write_text(to_yaml(value), encoding="utf-8")
        try:
            return load_recipe(file)
        except RecipeError as error:
            where = f"the recipe in the card of {name}"
            raise RecipeError([replace(problem, where=where) for problem in error.problems]) from error


def _with_paths(recipe: dict[str, Any], change: Callable[[str], str]) -> dict[str, Any]:
    data, model = dict(recipe.get("data") or {}), dict(recipe.get("model") or {})
    for key in SOURCES:
        if isinstance(data.get(key), list):
            data[key] = [{**source, "path": change(source["path"])} for source in data[key]]
    for key in ("base", "tokenizer"):
        if isinstance(model.get(key), str):
            model[key] = change(model[key])
    return {**recipe, "data": data, "model": model}


def _portable(path: str) -> str:
    if not Path(path).is_absolute():
        return path
    for folder in (recipes_folder().resolve(), Path.cwd()):
        if Path(path).is_relative_to(folder):
            return Path(path).relative_to(folder).as_posix()
    return Path(path).name


def _here(path: str) -> str:
    # A glob has a folder before its first star.
    places = [folder / path for folder in (Path.cwd(), recipes_folder())]
    return next((str(place) for place in places if _stands_for_something(place)), path)


def _stands_for_something(place: Path) -> bool:
    return place.exists() or any(place.parent.glob(place.name))
