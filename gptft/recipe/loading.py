"""From a YAML file to a checked Recipe, and back."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import partial
from pathlib import Path

from pydantic import ValidationError

from gptft.recipe.checks import SECTION_TASKS, check
from gptft.recipe.explain import report_errors
from gptft.recipe.lines import to_yaml
from gptft.recipe.ranges import check_sweep
from gptft.recipe.reading import Reading
from gptft.recipe.schema import Recipe


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
    overrides = list(overrides)
    reading = Reading(Path(path), overrides)
    if not reading.get("name"):
        stem = re.sub(r"[^A-Za-z0-9._-]+", "-", Path(path).stem).strip("-._")[:80]
        reading.data["name"] = stem or "recipe"
    recipe = _examined(reading)
    if reading.get("sweep"):
        check_sweep(reading, partial(_problems, Path(path), overrides))
    reading.raise_problems()
    assert recipe is not None  # otherwise there were problems
    recipe._source = Path(path).absolute()
    return recipe


def _examined(reading: Reading) -> Recipe | None:
    check(reading)
    return _validated(reading)


def _problems(path: Path, overrides: list[str], override: str) -> set[tuple[str, str]]:
    reading = Reading(path, [*overrides, override])
    _examined(reading)
    return reading.problems


def _validated(reading: Reading) -> Recipe | None:
    try:
        return Recipe.model_validate(reading.data)
    except ValidationError as error:
        texts = [detail["loc"] for detail in error.errors() if detail["type"] == "string_type"]
        if any([reading.use_text(location) for location in texts]):
            return _validated(reading)
        report_errors(reading, error)
        return None


def dump_recipe(recipe: Recipe) -> str:
    """The recipe as YAML with all defaults of gptft written out; loading it gives an equal recipe."""
    unread = {section for section, tasks in SECTION_TASKS.items() if recipe.task not in tasks}
    return to_yaml(recipe.model_dump(exclude=unread))
