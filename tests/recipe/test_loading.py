from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gptft.errors import RecipeError
from gptft.recipe import Recipe, dump_recipe, load_recipe
from gptft.recipe.lines import to_yaml

from .conftest import GOOD


def test_a_good_recipe_is_read_with_defaults(load, tmp_path):
    recipe = load()
    assert recipe.name == "bot"
    assert recipe.data.train[0].path == str(tmp_path / "train.jsonl")
    assert recipe.data.validation == 0.1
    assert recipe.evaluation.metrics == ["bleu", "chrf", "exact_match", "stop_rate", "perplexity"]
    assert (recipe.source, recipe.folder) == (tmp_path / "bot.yaml", tmp_path)


def test_sections_without_keys_are_as_if_left_out(load):
    recipe = load(GOOD + "training:\nevaluation:\n  # max_rows: 3\n")
    assert recipe.training == {} and "bleu" in recipe.evaluation.metrics


def test_numbers_and_words_follow_yaml_1_2(load):
    training = load(GOOD + "training: {learning_rate: 5e-5, save_strategy: no, max_steps: 10_000}\n").training
    assert training == {"learning_rate": 5e-5, "save_strategy": "no", "max_steps": 10_000}


def test_overrides_are_typed_by_the_schema(load, tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "other.jsonl").write_text("{}\n")
    monkeypatch.chdir(tmp_path / "here")
    overrides = ["name=2024", "training.learning_rate=1e-4", "data.test=other.jsonl", "adapter={type: lora, r: 4}"]
    recipe = load(GOOD, *overrides, "adapter.lora_alpha=8", "data.train=test.jsonl", "evaluation.metrics=[bleu]")
    assert recipe.name == "2024"
    assert recipe.training == {"learning_rate": 1e-4}
    assert isinstance(recipe.data.test, list) and recipe.data.test[0].path == str(tmp_path / "here" / "other.jsonl")
    assert recipe.data.train[0].path == str(tmp_path / "test.jsonl"), "not here, so beside the recipe"
    assert recipe.adapter and recipe.adapter.settings == {"r": 4, "lora_alpha": 8}
    assert recipe.evaluation.metrics == ["bleu"]


def test_an_override_reaches_into_a_list(load):
    text = GOOD.replace("train: train.jsonl", "train: [train.jsonl, {path: test.jsonl, weight: 2}]")
    assert load(text, "data.train.1.weight=3").data.train[1].weight == 3


@pytest.mark.parametrize(
    ("override", "key", "message"),
    [
        ("training.learning_rate", "training.learning_rate", "expected section.key=value"),
        ("training.learning_rate=fast", "training.learning_rate", "found the text 'fast', expected a number"),
        ("training.lerning_rate=1", "training.lerning_rate", "did you mean `learning_rate`"),
        ("data.train.path=x", "data.train.path", "set it as a whole"),
        ("data.train=[a: b", "data.train", "not valid YAML"),
        ("data.test=nothing.jsonl", "data.test", "no such file"),
        ("adapter.r=4", "adapter.type", "is missing"),
    ],
)
def test_a_wrong_override_names_the_command_line(problems, override, key, message):
    (problem,) = problems(GOOD, override)
    assert (problem.where, problem.key) == ("command line", key)
    assert message in problem.message


def test_a_dumped_recipe_is_equal_wherever_it_lies(load, tmp_path):
    text = GOOD.replace("train: train.jsonl", "train: ['*.jsonl', {path: owner/data, name: en, weight: 0.5}]")
    recipe = load(text + "training: {eval_strategy: 'no', learning_rate: 1e-4}\nadapter: {type: lora, r: 3}\n")
    (tmp_path / "run").mkdir()
    copy = tmp_path / "run" / "recipe.yaml"
    copy.write_text(dump_recipe(recipe), encoding="utf-8")
    assert load_recipe(copy).model_dump() == recipe.model_dump()
    assert load_recipe(copy).name == "bot"


def test_a_base_folder_is_found_beside_the_recipe_and_here(load, tmp_path, monkeypatch):
    (tmp_path / "elsewhere" / "mine").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert load(GOOD, "model.base=mine").model.base == str(tmp_path / "elsewhere" / "mine")
    (tmp_path / "mine").mkdir()
    assert load(GOOD.replace("starter", "mine")).model.base == str(tmp_path / "mine")
    assert load(GOOD, "model.base=openai-community/gpt2").model.base == "openai-community/gpt2"


TEXT = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=30)
CLOSE = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@CLOSE
@given(
    description=st.none() | TEXT,
    seed=st.integers(0, 2**31),
    share=st.floats(0.01, 0.49),
    rate=st.floats(1e-12, 1.0),
    columns=st.dictionaries(st.sampled_from(["prompt", "completion", "messages"]), TEXT),
    stop=st.lists(TEXT),
    cleaning=st.booleans(),
    weight=st.floats(0.01, 1e6),
)
def test_round_trip(write, description, seed, share, rate, columns, stop, cleaning, weight):
    path = write()
    data = {"train": [{"path": "train.jsonl", "columns": columns, "weight": weight}], "validation": share, "seed": seed}
    value = {
        "description": description,
        "task": "dialogue",
        "model": {"base": None, "config": {"n_layer": 2}},
        "data": {**data, "cleaning": {"empties": cleaning}},
        "training": {"learning_rate": rate, "run_name": description},
        "evaluation": {"generation": {"stop_strings": stop}},
    }
    path.write_text(to_yaml(value), encoding="utf-8")
    recipe = load_recipe(path)
    assert (recipe.description, recipe.data.columns, recipe.training["learning_rate"]) == (description, {}, rate)
    dumped = dump_recipe(recipe)
    path.write_text(dumped, encoding="utf-8")
    assert load_recipe(path).model_dump() == recipe.model_dump()
    # YAML 1.1 readers agree, except on numbers such as 1e-4 that they take for text.
    assert yaml.safe_load(dumped)["description"] == description


SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12)
KEYS = SCALARS | st.sampled_from([*Recipe.model_fields, "base", "train", "test", "path", "config", "type", "metrics"])
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4))


def read_somewhere(content: bytes, overrides: list[str]) -> None:
    """Any input gives a recipe or a RecipeError with problems that can be printed."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "any.yaml"
        path.write_bytes(content)
        try:
            assert isinstance(load_recipe(path, overrides), Recipe)
        except RecipeError as error:
            assert error.problems and str(error)


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=60) | st.text(max_size=60).map(lambda text: text.encode("utf-8", "replace")))
def test_any_bytes_end_in_a_message(content):
    read_somewhere(content, [])


@settings(max_examples=150, deadline=None)
@given(st.dictionaries(KEYS, VALUES, max_size=5), st.lists(st.text(max_size=15), max_size=2))
def test_any_values_end_in_a_message(value, overrides):
    read_somewhere(yaml.safe_dump(value, allow_unicode=True).encode(), overrides)


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(["model.base", "data.train", "training", "data", "adapter", "evaluation.metrics"]), VALUES)
def test_any_value_of_a_key_ends_in_a_message(key, value):
    read_somewhere(GOOD.encode(), [f"{key}={yaml.safe_dump(value, default_flow_style=True)}"])


def test_reading_a_recipe_imports_no_heavy_package(write):
    path = write(GOOD + "training: {learning_rat: 1}\nadapter: {type: lora}\n")
    code = f"""
import sys
from gptft.recipe import load_recipe, RecipeError
try:
    load_recipe({str(path)!r})
except RecipeError as error:
    print(error, [name for name in ("torch", "transformers", "peft", "datasets", "numpy") if name in sys.modules])
""".replace("load_recipe, RecipeError", "load_recipe\nfrom gptft.errors import RecipeError")
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "learning_rat: unknown key" in result.stdout and result.stdout.strip().endswith("[]")
