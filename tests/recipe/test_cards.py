"""A recipe in a model card: without the folders of the machine that wrote it, and of use on another."""

import json

import pytest
import yaml

from gptft.errors import RecipeError, UserError
from gptft.recipe import dump_recipe, load_recipe
from gptft.recipe.cards import MARK, portable_recipe, read_card, recipe_of_card
from gptft.recipe.catalogue import recipes_folder


@pytest.fixture
def recipe_text(tmp_path, monkeypatch):
    """A resolved recipe, whose data lies below the current folder, elsewhere, and among the shipped recipes."""
    home = tmp_path / "home"
    (home / "data").mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    row = json.dumps({"prompt": "```", "completion": "b"}) + "\n"
    for file in (home / "data" / "train.jsonl", tmp_path / "elsewhere" / "validation.jsonl"):
        file.write_text(row)
    monkeypatch.chdir(home)
    shipped = str(recipes_folder() / "data" / "customer_service" / "test.jsonl")
    data = {"train": "data/*.jsonl", "validation": "../elsewhere/validation.jsonl", "test": shipped}
    recipe = {"name": "bot", "task": "dialogue", "model": {"base": "starter"}, "data": data}
    (home / "bot.yaml").write_text(json.dumps(recipe))
    return dump_recipe(load_recipe(home / "bot.yaml"))


def card(folder, text):
    folder.mkdir(exist_ok=True)
    (folder / "README.md").write_text(f"# Bot\n\n```yaml\nother: yaml\n```\n{MARK}\n````yaml\n{text}\n````\n")
    return folder


def test_no_folder_of_the_machine_is_in_it(recipe_text, tmp_path):
    text = portable_recipe(recipe_text)
    assert str(tmp_path) not in text and str(recipes_folder()) not in text
    data = yaml.safe_load(text)["data"]
    assert [data[key][0]["path"] for key in ("train", "validation", "test")] == [
        "data/*.jsonl",
        "validation.jsonl",
        "data/customer_service/test.jsonl",
    ]


def test_read_back_it_is_the_same_recipe_where_the_files_are(recipe_text, tmp_path):
    text = portable_recipe(recipe_text)
    folder = card(tmp_path / "model", text)
    with pytest.raises(RecipeError) as caught:
        recipe_of_card(folder, "me/bot")
    (problem,) = caught.value.problems
    assert (problem.where, problem.key) == ("the recipe in the card of me/bot", "data.validation.0.path")
    (tmp_path / "home" / "validation.jsonl").write_text((tmp_path / "elsewhere" / "validation.jsonl").read_text())
    found = yaml.safe_load(dump_recipe(recipe_of_card(folder, "me/bot")))
    meant = yaml.safe_load(recipe_text)
    meant["data"]["validation"][0]["path"] = str(tmp_path / "home" / "validation.jsonl")
    assert found == meant


def test_a_card_without_one(tmp_path):
    assert read_card(tmp_path) == {}
    with pytest.raises(UserError, match="no gptft recipe in its model card"):
        recipe_of_card(tmp_path, "me/bot")
