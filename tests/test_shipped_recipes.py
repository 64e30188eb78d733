"""The recipes that ship load, point editors at the schema, and have honest data beside them."""

import json
import os
import re
from pathlib import Path

import pytest

from gptft.recipe import load_recipe
from gptft.recipe.catalogue import SCHEMA_FILE, list_recipes, recipes_folder

RECIPES = {recipe.name: recipe for recipe in list_recipes()}
SHOP = recipes_folder() / "data" / "customer_service"
SHARED = Path(__file__).parent.parent.parent / "shared" / "data"


def test_the_recipes_of_the_manual_are_there():
    assert {"customer_service", "continue_pretraining", "starter"} <= RECIPES.keys()


@pytest.mark.parametrize("name", RECIPES)
def test_a_shipped_recipe_loads(name, monkeypatch):
    recipe = RECIPES[name]
    first = recipe.path.read_text(encoding="utf-8").splitlines()[0]
    assert first == f"# yaml-language-server: $schema=./{SCHEMA_FILE}"
    assert (recipe.path.parent / SCHEMA_FILE).is_file()
    assert recipe.description
    if "GPTFT_DATA" in recipe.path.read_text(encoding="utf-8") and "GPTFT_DATA" not in os.environ:
        if not SHARED.is_dir():
            pytest.skip("its data is not here: set GPTFT_DATA")
        monkeypatch.setenv("GPTFT_DATA", str(SHARED))
    loaded = load_recipe(recipe.path)
    assert loaded.name == name
    for source in loaded.data.train:
        assert Path(source.path).exists()


def rows(split: str) -> list[list[dict[str, str]]]:
    return [json.loads(line)["messages"] for line in (SHOP / f"{split}.jsonl").open(encoding="utf-8")]


def plain(text: str) -> str:
    """A user's words without what does not count as other words: case, punctuation, spaces, which number."""
    return " ".join(re.findall(r"[a-z]+", re.sub(r"\d+", "number", text.lower())))


def questions(split: str) -> set[str]:
    return {plain(message["content"]) for messages in rows(split) for message in messages if message["role"] == "user"}


def test_the_shops_dialogues_are_many_short_and_well_formed():
    counts = {split: rows(split) for split in ("train", "validation", "test")}
    assert sum(map(len, counts.values())) >= 600 and len(counts["train"]) >= 600
    for messages in [one for split in counts.values() for one in split]:
        roles = [message["role"] for message in messages]
        turns = roles[1:] if roles[0] == "system" else roles
        assert turns == ["user", "assistant"] * (len(turns) // 2)
        assert 1 <= len(turns) // 2 <= 4
        assert all(message["content"].strip() for message in messages)
    lengths = {sum(message["role"] == "user" for message in messages) for messages in counts["train"]}
    assert lengths == {1, 2, 3, 4}


def test_held_out_questions_are_in_other_words():
    train, validation, test = (questions(split) - {""} for split in ("train", "validation", "test"))
    assert train & validation == set()
    assert (train | validation) & test == set()


def test_held_out_answers_are_facts_of_the_training_data():
    def answers(split: str) -> set[str]:
        said = (
            message["content"] for messages in rows(split) for message in messages if message["role"] == "assistant"
        )
        return {re.sub(r"\d{5}", "N", text) for text in said}

    known = answers("train")
    assert answers("validation") - known == set()
    assert answers("test") - known == set()
    assert len(known) >= 60
