from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from gptft.errors import Problem, RecipeError
from gptft.recipe import Recipe, load_recipe

GOOD = """\
task: dialogue
model:
  base: starter
data:
  train: train.jsonl
  validation: 0.1
"""


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Write a recipe (and beside it a small train.jsonl and test.jsonl)."""
    for name in ("train.jsonl", "test.jsonl"):
        (tmp_path / name).write_text('{"prompt": "a", "completion": "b"}\n', encoding="utf-8")

    def write_recipe(text: str = GOOD, name: str = "bot.yaml") -> Path:
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return path

    return write_recipe


@pytest.fixture
def load(write: Callable[..., Path]) -> Callable[..., Recipe]:
    return lambda text=GOOD, *overrides: load_recipe(write(text), overrides)


@pytest.fixture
def problems(load: Callable[..., Recipe]) -> Callable[..., list[Problem]]:
    """The problems that loading reports."""

    def collect(text: str = GOOD, *overrides: str) -> list[Problem]:
        with pytest.raises(RecipeError) as caught:
            load(text, *overrides)
        return caught.value.problems

    return collect
