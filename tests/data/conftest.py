import gzip
import json
from pathlib import Path

import datasets
import datasets.config
import pytest

from gptft.recipe.schema import Recipe


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    datasets.disable_progress_bars()
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))


@pytest.fixture
def recipe(tmp_path, monkeypatch):
    """Make a recipe in Python whose relative paths start in tmp_path; `sections` are those beside `data`."""
    monkeypatch.chdir(tmp_path)

    def make(task="pretraining", sections=None, **data):
        return Recipe.model_validate({"task": task, "model": {"base": "starter"}, "data": data, **(sections or {})})

    return make


@pytest.fixture
def write(tmp_path):
    """Write a file below tmp_path: bytes, text, or rows as JSON lines; compressed when its name ends in .gz."""

    def write_file(name: str, content: bytes | str | list) -> Path:
        if isinstance(content, list):
            content = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in content)
        if isinstance(content, str):
            content = content.encode()
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
        return path

    return write_file
