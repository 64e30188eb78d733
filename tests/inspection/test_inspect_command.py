"""`gptft inspect` as a user runs it, and the checks that `gptft finetune` begins with."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from commands import in_process
from test_planted_faults import pairs


@pytest.fixture
def recipe(write_recipe, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A clean recipe in the current folder."""
    made = write_recipe(pairs(), data={"accept": ["foreign_tokenizer"]}, training={"num_train_epochs": 10})
    monkeypatch.chdir(made.folder)
    monkeypatch.setenv("COLUMNS", "120")
    return made.source


def test_it_shows_examples_tables_and_that_nothing_is_wrong(recipe: Path):
    done = in_process("inspect", recipe)
    assert done.code == 0, done.err
    for words in (
        "Do you sell a red hat",
        "<|endoftext|>",
        "The prompt at inference:",
        "60 prompts compared: each",
        "prompt, completion",
        "60 of 60",
        "peak memory",
        "150 (15 an epoch",
        "Nothing to warn of.",
    ):
        assert words in done.out, words
    assert not (recipe.parent / "runs").exists()


def test_json_is_all_that_is_printed(recipe: Path):
    found = json.loads(in_process("inspect", recipe, "--json").out)
    assert found["findings"] == [] and found["accepted"] == ["foreign_tokenizer"]
    assert found["lengths"]["train"]["answers_ended"] == found["lengths"]["train"]["answers"] == 60
    pieces = found["examples"][0]["pieces"]
    assert "".join(text for text, _ in pieces) == (
        "User:\nDo you sell a red hat for my coat?\n"
        "Assistant:\nWe have 2 kinds of hat, the blue one is best.<|endoftext|>"
    )
    assert pieces[-1] == ["<|endoftext|>", "supervised special"]
    assert "".join(text for text, kind in pieces if kind == "context") == found["examples"][0]["prompt"]


def test_the_page_needs_nothing_else(recipe: Path):
    done = in_process("inspect", recipe, "training.learning_rate=0.5", "--html", "page.html", "--png", "lengths.png")
    page = Path("page.html").read_text()
    assert done.code == 0, done.err
    assert "prefers-color-scheme: dark" in page and "learning_rate_high" in page
    assert re.findall(r"(?:src|href)=\"(?!data:image/png;base64,)", page) == []
    assert Path("lengths.png").read_bytes().startswith(b"\x89PNG")


def test_strict_makes_warnings_errors_and_a_recipe_accepts_them(recipe: Path):
    high = "training.learning_rate=0.5"
    assert in_process("inspect", recipe, high).code == 0
    refused = in_process("inspect", recipe, high, "--strict")
    assert refused.code == 2 and "data.accept=[learning_rate_high]" in refused.message
    accepted = in_process("inspect", recipe, high, "data.accept=[learning_rate_high]", "--strict")
    assert accepted.code == 0 and "learning_rate_high" not in accepted.out


def test_an_unknown_name_to_accept_is_an_error_of_the_recipe(recipe: Path):
    done = in_process("inspect", recipe, "data.accept=[learning_rate_hihg]")
    assert done.code == 2 and "did you mean 'learning_rate_high'?" in done.message


def test_finetune_warns_and_stops_at_errors(write_recipe, monkeypatch: pytest.MonkeyPatch):
    rows = [{**row, "completion": "I do not know."} for row in pairs()]
    recipe = write_recipe(rows, training={"max_steps": 1, "learning_rate": 0.5, "save_strategy": "no"})
    monkeypatch.chdir(recipe.folder)
    stopped = in_process("finetune", recipe.source)
    assert stopped.code == 2 and "one_answer: 60 of 60 (100.0%) answers are the same" in stopped.message
    assert not Path("runs").exists()
    done = in_process("finetune", recipe.source, "data.accept=[one_answer]")
    assert done.code == 0, done.err
    assert "Warning: learning_rate_high: " in done.message and "one_answer" not in done.message


def test_the_probe_measures_steps(recipe: Path):
    found = json.loads(in_process("inspect", recipe, "--probe", "--json").out)
    assert found["probe"]["seconds"] > 0 and found["probe"]["tokens_per_second"] > 0
    assert not (recipe.parent / "runs").exists()
