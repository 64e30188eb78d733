from __future__ import annotations

import importlib.metadata
import json
import re

import pytest

from gptft.errors import GptftError, UserError
from gptft.recipe import catalogue, copy_recipe, json_schema, list_recipes, load_recipe
from gptft.recipe.schema import Recipe, Section

EDITOR_LINE = "# yaml-language-server: $schema=./recipe.schema.json"


@pytest.fixture
def shipped(tmp_path, monkeypatch):
    """A folder of shipped recipes with one in it."""
    folder = tmp_path / "shipped"
    (folder / "data" / "shop").mkdir(parents=True)
    (folder / "data" / "shop" / "train.jsonl").write_text('{"prompt": "a", "completion": "b"}\n')
    (folder / "recipe.schema.json").write_text("{}")
    recipe = "description: A bot\n  of a shop.\ntask: dialogue\nmodel: {base: starter}\ndata: {train: data/shop}\n"
    (folder / "shop.yaml").write_text(f"{EDITOR_LINE}\n{recipe}")
    monkeypatch.setattr(catalogue, "recipes_folder", lambda: folder)
    return folder


def test_recipes_are_listed_with_their_description(shipped):
    (recipe,) = list_recipes()
    assert (recipe.name, recipe.description, recipe.path) == ("shop", "A bot of a shop.", shipped / "shop.yaml")


def test_a_copied_recipe_brings_its_data_and_schema_and_loads(shipped, tmp_path):
    copied = copy_recipe("shop", tmp_path / "mine")
    assert load_recipe(copied).data.train[0].path == str(tmp_path / "mine" / "data" / "shop")
    files = {str(path.relative_to(tmp_path / "mine")) for path in (tmp_path / "mine").rglob("*") if path.is_file()}
    assert files == {"shop.yaml", "recipe.schema.json", "data/shop/train.jsonl"}


def test_copying_never_overwrites(shipped, tmp_path):
    mine = tmp_path / "data" / "shop" / "train.jsonl"
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    with pytest.raises(UserError, match=re.escape(f"{mine} exists already")):
        copy_recipe("shop", tmp_path)
    assert mine.read_text() == "mine" and not (tmp_path / "shop.yaml").exists()
    mine.unlink()
    copy_recipe("shop", tmp_path)
    with pytest.raises(UserError, match="exists already"):
        copy_recipe("shop.yaml", tmp_path)


def test_a_full_disk_leaves_nothing_half_copied(shipped, tmp_path, monkeypatch):
    def full(source, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(catalogue.shutil, "copyfile", full)
    with pytest.raises(GptftError, match="No space left"):
        copy_recipe("shop", tmp_path / "mine")
    assert list((tmp_path / "mine").iterdir()) == []


def test_an_unknown_recipe_is_answered_with_the_nearest(shipped, tmp_path):
    with pytest.raises(UserError, match="did you mean shop"):
        copy_recipe("shopp", tmp_path)


@pytest.mark.parametrize("recipe", list_recipes(), ids=lambda recipe: recipe.name)
def test_each_shipped_recipe_has_a_description_and_points_editors_at_the_schema(recipe):
    assert recipe.path.read_text(encoding="utf-8").splitlines()[0] == EDITOR_LINE
    assert recipe.description


def test_the_committed_schema_is_in_step():
    committed = json.loads((catalogue.recipes_folder() / catalogue.SCHEMA_FILE).read_text(encoding="utf-8"))
    for name in ("transformers", "peft"):
        if f"{name} {importlib.metadata.version(name)}" not in committed["$comment"]:
            pytest.skip(f"the committed schema was made with another version of {name}: {committed['$comment']}")
    assert committed == json_schema(), "write it anew: gptft recipes schema > recipes/recipe.schema.json"


def test_the_schema_knows_the_keys_of_hugging_face():
    schema = json_schema()
    training = schema["properties"]["training"]
    assert training["properties"]["learning_rate"]["type"] == "number" and not training["additionalProperties"]
    assert "output_dir" not in training["properties"]
    definitions = schema["$defs"]
    assert "max_new_tokens" in definitions["EvaluationSection"]["properties"]["generation"]["properties"]
    assert "n_embd" in definitions["ModelSection"]["properties"]["config"]["properties"]
    assert "lora" in definitions["AdapterSection"]["properties"]["type"]["enum"]


def test_every_key_has_a_description():
    sections = [Recipe, *Section.__subclasses__()]
    assert all(field.description for section in sections for field in section.model_fields.values())
