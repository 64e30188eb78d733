"""Labels: probabilities, choices, thresholds, weights; and models that give them, loaded from folders."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import make_model
from torch.nn import functional

from gptft.errors import UserError
from gptft.models.classes import Classes, class_weights
from gptft.models.loading import load_for_training, load_model, save_model

SEVERAL, NUMBER = "multi_label_classification", "regression"
IDS = torch.arange(12).reshape(2, 6)


@settings(deadline=None)
@given(st.lists(st.integers(0, 4), min_size=5, max_size=60).map(lambda rows: [*range(5), *rows]))
def test_balanced_weights_are_scikit_learns(labels):
    from sklearn.utils.class_weight import compute_class_weight

    names = [f"l{number}" for number in range(5)]
    counts = np.bincount(labels, minlength=5).tolist()
    weights = class_weights("balanced", counts, names)
    assert weights is not None
    np.testing.assert_allclose(weights, compute_class_weight("balanced", classes=np.arange(5), y=labels), rtol=1e-6)
    given_weights = class_weights({"l1": 3.0, "l4": 0.5}, counts, names)
    assert given_weights is not None
    np.testing.assert_allclose(given_weights / given_weights[0], [1, 3, 1, 1, 0.5], rtol=1e-5)
    for chosen in (weights, given_weights):
        # The learning rate means the same with and without weights.
        assert float(chosen[labels].mean()) == pytest.approx(1, rel=1e-5)


def test_weights_of_labels_without_rows_and_of_no_label():
    weights = class_weights("balanced", [2, 0, 4], ["a", "b", "c"])
    assert weights is not None and weights.tolist() == [1.0, 0.0, 0.5]
    assert class_weights(None, [1, 2], ["a", "b"]) is None
    with pytest.raises(UserError, match=r"class_weights: c: no such label in a, b"):
        class_weights({"c": 2.0}, [1, 2], ["a", "b"])


def test_probabilities_are_a_softmax_or_a_sigmoid_a_label_or_the_numbers():
    logits = torch.tensor([[1.0, -2.0, 0.5]])
    names = ("a", "b", "c")
    torch.testing.assert_close(Classes(names).probabilities(logits), functional.softmax(logits, -1))
    torch.testing.assert_close(Classes(names, SEVERAL).probabilities(logits), 1 / (1 + (-logits).exp()))
    assert torch.equal(Classes(("x",), NUMBER).probabilities(logits[:, :1]), logits[:, :1])


@pytest.mark.parametrize(
    ("probabilities", "scope", "expected"),
    [
        ([0.2, 0.5, 0.3], None, ("b", 0.5)),
        ([0.2, 0.5, 0.3], ("other", 0.5), ("b", 0.5)),  # it reaches the threshold
        ([0.2, 0.4, 0.4], ("other", 0.5), ("other", 0.6)),
        ([0.1, 0.2, 0.7], ("c", 0.5), ("c", 0.7)),  # a label of its own, chosen as such
        ([0.3, 0.4, 0.3], ("c", 0.5), ("c", 0.6)),
        ([0.3, 0.26, 0.44], ("c", 0.5), ("c", 0.56)),
    ],
)
def test_one_label_is_the_likeliest_or_what_is_out_of_scope(probabilities, scope, expected):
    name, threshold = scope or (None, None)
    chosen, sure = Classes(("a", "b", "c"), out_of_scope=name, threshold=threshold).choose(probabilities)
    assert (chosen, sure) == (expected[0], pytest.approx(expected[1]))


def test_several_labels_are_those_that_reach_the_threshold():
    names, probabilities = ("a", "b", "c"), [0.5, 0.4, 0.1]
    assert Classes(names, SEVERAL).choose(probabilities) == (["a"], pytest.approx(0.5 * 0.6 * 0.9))
    assert Classes(names, SEVERAL, threshold=0.3).choose(probabilities)[0] == ["a", "b"]
    assert Classes(names, SEVERAL, threshold=0.6).choose(probabilities) == ([], pytest.approx(0.5 * 0.6 * 0.9))
    assert Classes(("x",), NUMBER).choose([-3.5]) == (-3.5, 1.0)


def labelled(*names: str, **options: Any) -> Any:
    return lambda tokenizer: Classes(names, **options)


def test_a_base_gets_a_new_head_with_the_labels(base_folder):
    loaded = load_model(str(base_folder), classes=labelled("a", "b", "c"))
    assert type(loaded.model).__name__ == "GPT2ForSequenceClassification"
    assert loaded.model.score.weight.shape == (3, 32)
    assert loaded.model.config.id2label == {0: "a", 1: "b", 2: "c"}
    assert torch.equal(loaded.model.transformer.wte.weight, make_model().transformer.wte.weight)
    words = load_model(str(base_folder), classes=labelled("a", "b", token_ids=(4, 5)))
    assert type(words.model).__name__ == "GPT2LMHeadModel"


def test_the_new_head_follows_the_seed(base_folder):
    def head(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        return load_model(str(base_folder), classes=labelled("a", "b")).model.score.weight

    assert torch.equal(head(1), head(1))
    assert not torch.equal(head(1), head(2))


@pytest.fixture
def classifier(base_folder: Path, tmp_path: Path) -> tuple[Path, Any]:
    """A saved classifier of two labels, and its model."""
    loaded = load_model(str(base_folder), classes=labelled("a", "b", out_of_scope="other", threshold=0.3))
    folder = tmp_path / "classifier"
    folder.mkdir()
    save_model(loaded.model, loaded.tokenizer, folder)
    return folder, loaded.model


def test_a_saved_classifier_loads_in_gptft_and_in_transformers_alone(classifier):
    from transformers import AutoModelForSequenceClassification, pipeline

    folder, model = classifier
    logits = model(IDS).logits
    assert torch.equal(load_model(str(folder)).model(IDS).logits, logits)
    assert torch.equal(AutoModelForSequenceClassification.from_pretrained(folder).eval()(IDS).logits, logits)
    [answer] = pipeline("text-classification", str(folder))("hello")
    assert answer["label"] in ("a", "b")
    written = json.loads((folder / "config.json").read_text())
    assert (written["id2label"], written["problem_type"]) == ({"0": "a", "1": "b"}, "single_label_classification")
    assert written["gptft"]["classes"] == {"token_ids": [], "out_of_scope": "other", "threshold": 0.3}
    assert not (folder / "generation_config.json").exists()


def test_a_classifier_as_base_keeps_its_head_for_as_many_labels_and_gets_another_for_others(classifier):
    folder, model = classifier
    again = load_model(str(folder), classes=labelled("c", "d")).model
    assert torch.equal(again.score.weight, model.score.weight)
    assert again.config.id2label == {0: "c", 1: "d"}
    other = load_model(str(folder), classes=labelled("a", "b", "c")).model
    assert other.score.weight.shape == (3, 32)
    assert torch.equal(other.transformer.wte.weight, model.transformer.wte.weight)


def test_a_classifier_is_no_base_to_generate_with(classifier, write_recipe):
    folder, _ = classifier
    with pytest.raises(UserError, match=r"is a classifier, .*task: classification"):
        load_for_training(write_recipe(model={"base": str(folder)}), lambda: [])


@pytest.mark.parametrize("tokens", [(), (4, 5)])
def test_a_classifier_from_scratch(write_recipe, tokens):
    shape = {"n_layer": 1, "n_head": 2, "n_embd": 16, "n_positions": 64}
    recipe = write_recipe(model={"base": None, "vocab_size": 300, "config": shape})
    loaded = load_for_training(recipe, lambda: ["some text"], classes=labelled("a", "b", token_ids=tokens))
    assert type(loaded.model).__name__ == ("GPT2LMHeadModel" if tokens else "GPT2ForSequenceClassification")
    assert Classes.read_from(loaded.model.config) == Classes(("a", "b"), token_ids=tokens)
