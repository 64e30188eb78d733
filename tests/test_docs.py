from __future__ import annotations

import importlib.metadata
import importlib.util
from pathlib import Path

import pytest

from gptft.recipe.fields import fields_of
from gptft.recipe.schema import Recipe, Section

DOCS = Path(__file__).parent.parent / "docs"


def script(name: str):
    specification = importlib.util.spec_from_file_location(name, DOCS / f"{name}.py")
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def generator():
    return script("generate_reference")


@pytest.fixture(scope="module")
def page(generator) -> str:
    return generator.reference()


def test_the_committed_reference_is_in_step(generator, page):
    committed = generator.PAGE.read_text(encoding="utf-8")
    for name in ("transformers", "peft"):
        if f"{name} {importlib.metadata.version(name)}" not in committed:
            pytest.skip(f"the committed page was made with another version of {name}")
    assert committed == page, "write it anew: make reference"


def test_every_key_that_a_recipe_may_have_is_on_the_page(page):
    own = {name for section in (Recipe, *Section.__subclasses__()) for name in section.model_fields}
    theirs = {name for section in ("training", "evaluation.generation", "model.config") for name in fields_of(section)}
    lora = set(fields_of("adapter", "lora"))
    assert [name for name in sorted(own | theirs | lora) if f"| `{name}` |" not in page] == []


def test_the_training_table_shows_the_default_that_gptft_uses(page):
    (row,) = (line for line in page.splitlines() if line.startswith("| `save_total_limit` | whole"))
    assert row.startswith("| `save_total_limit` | whole number at least 1 | `2` |")


def test_a_default_without_a_reason_cannot_be_documented(generator, monkeypatch):
    monkeypatch.setitem(generator.DEFAULTS, "weight_decay", 0.5)
    with pytest.raises(SystemExit, match="weight_decay"):
        generator.reference()


def test_a_page_never_has_a_broken_table(page):
    for line in page.splitlines():
        if line.startswith("|"):
            assert line.replace("\\|", "").count("|") in (3, 4, 5) and line.endswith(" |")


def test_the_committed_command_reference_is_in_step():
    commands = script("generate_commands")
    assert commands.PAGE.read_text(encoding="utf-8") == commands.reference(), "write it anew: make reference"


def test_every_command_and_option_is_on_its_page():
    page = script("generate_commands").reference()
    for words in ("## gptft finetune", "### gptft recipes copy", "--resume", "RECIPE [KEY=VALUE]...", "env var: GPTFT"):
        assert words in page
