"""From a YAML file to a checked Recipe, and back."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from gptft.recipe import sources
from gptft.recipe.checks import check, model_folders
from gptft.recipe.explain import report_errors
from gptft.recipe.lines import KeyPath, to_yaml
from gptft.recipe.reading import Reading
from gptft.recipe.schema import Recipe, Source

_MAY_BE_EMPTY: tuple[KeyPath, ...] = (
    ("training",), ("evaluation",), ("evaluation", "generation"), ("evaluation", "metrics"), ("model", "config"),
    ("data", "columns"), ("data", "cleaning"), ("name",),
)  # fmt: skip


def load_recipe(path: Path | str, overrides: Iterable[str] = ()) -> Recipe:
    """Read a recipe, apply overrides, and check all that can be checked without loading a model or data.

    Paths in the file are relative to the file. Paths in overrides are relative to the current folder, or to the file
    where the current folder has no such thing; so is a base or tokenizer folder in either. In the recipe that is
    returned, all of them are absolute.

    Args:
        path: the YAML file.
        overrides: `section.key=value`, the value in YAML; `data.train.0.weight=2` reaches into a list.

    Raises:
        RecipeError: with every problem found, each with file and line (or `command line`).
    """
    reading = Reading(Path(path), overrides)
    for key in _MAY_BE_EMPTY:
        # A section whose keys are all commented out says nothing; it is not an error.
        parent = reading.get(*key[:-1])
        if isinstance(parent, dict) and key[-1] in parent and parent[key[-1]] is None:
            del parent[key[-1]]
    stem = re.sub(r"[^A-Za-z0-9._-]+", "-", Path(path).stem).strip("-._")[:80]
    if not reading.get("name") and isinstance(reading.data, dict):
        reading.data["name"] = stem or "recipe"
    recipe = _validated(reading)
    check(reading)
    reading.raise_problems()
    assert recipe is not None  # otherwise there were problems
    _make_absolute(recipe, reading)
    recipe._source = Path(path).absolute()
    return recipe


def _validated(reading: Reading) -> Recipe | None:
    for attempt in range(2):
        try:
            return Recipe.model_validate(reading.data)
        except ValidationError as error:
            texts = [detail["loc"] for detail in error.errors() if detail["type"] == "string_type"]
            if attempt == 0 and any([reading.use_text(location) for location in texts]):
                continue
            report_errors(reading, error, (), list(Recipe.model_fields))
    return None


def _make_absolute(recipe: Recipe, reading: Reading) -> None:
    for split in ("train", "validation", "test"):
        value: Any = getattr(recipe.data, split)
        for index, source in enumerate(value if isinstance(value, list) else []):
            listed = isinstance(reading.get("data", split), list)
            key = ("data", split, index, "path") if listed else ("data", split, "path")
            source.path = sources.resolve(source.path, reading.folders(key))
    for name in ("base", "tokenizer"):
        if text := getattr(recipe.model, name):
            setattr(recipe.model, name, sources.resolve_model(text, model_folders(reading)))


def dump_recipe(recipe: Recipe) -> str:
    """The recipe as YAML with all defaults of gptft written out; loading it gives an equal recipe."""
    values = recipe.model_dump()
    for split in ("train", "validation", "test"):
        if isinstance(values["data"][split], list):
            values["data"][split] = [_shortest(source) for source in getattr(recipe.data, split)]
    return to_yaml(values)


def _shortest(source: Source) -> Any:
    values = source.model_dump(exclude_defaults=True)
    return values if len(values) > 1 else source.path
