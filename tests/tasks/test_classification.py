"""Task classification: which labels there are, what their examples look like, and what a model folder says of them."""

from typing import Any

import numpy as np
import pytest
from datasets import Dataset
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny import END_OF_TEXT, make_model

from gptft.errors import UserError
from gptft.models.classes import SETTINGS, Classes, label_tokens
from gptft.models.tokenizer import train_tokenizer
from gptft.recipe.schema import ClassificationSection, Recipe
from gptft.tasks import Classification, Completion, PromptEncoder, make_task, recorded_task
from gptft.tasks.classification import classes_of

SEVERAL, NUMBER = "multi_label_classification", "regression"


def rows(*targets: Any, texts: list[str] | None = None) -> Dataset:
    """Rows with these labels: one each, or a list."""
    wanted = [[target] if isinstance(target, str) else list(target) for target in targets]
    said = texts or [f"text {number}" for number in range(len(wanted))]
    return Dataset.from_dict({"text": said, "targets": wanted, "origin": [f"a:{n}" for n in range(len(wanted))]})


def classes(data: Dataset, tokenizer: Any, **section: Any) -> Classes:
    return classes_of(ClassificationSection(**section), data, tokenizer)


def encoded(task: Classification, tokenizer: Any, data: Dataset, limit: int = 100) -> list[dict[str, Any]]:
    return list(task.examples(data, tokenizer, limit, "key"))  # pyright: ignore


def test_labels_are_those_of_train_sorted_or_those_of_the_recipe_in_its_order(tokenizer):
    data = rows("dog", "cat", "dog", "ant")
    assert classes(data, tokenizer).names == ("ant", "cat", "dog")
    assert classes(data, tokenizer, labels=["dog", "cat", "ant", "bee"]).names == ("dog", "cat", "ant", "bee")
    several = rows(["b", "a"], [], ["c"])
    assert classes(several, tokenizer, problem_type=SEVERAL).names == ("a", "b", "c")
    assert classes(rows("1.5"), tokenizer, problem_type=NUMBER) == Classes(("LABEL_0",), NUMBER)


def test_what_is_out_of_scope_is_a_label_where_train_has_it(tokenizer):
    scope = {"out_of_scope": "other", "threshold": 0.5}
    assert classes(rows("b", "other", "a"), tokenizer, **scope).names == ("a", "b", "other")
    assert classes(rows("b", "a"), tokenizer, **scope).names == ("a", "b")
    named = {"labels": ["b", "a"], **scope}
    assert classes(rows("b", "other", "a"), tokenizer, **named).names == ("b", "a", "other")
    found = classes(rows("b", "a"), tokenizer, **named)
    assert (found.names, found.out_of_scope, found.threshold) == (("b", "a"), "other", 0.5)


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({}, r"one label only \(a\): there is nothing to tell apart"),
        ({"labels": ["a", "b"], "head": "lm", "label_words": {"c": "x"}}, r"label_words: c: no such label in a, b"),
    ],
)
def test_labels_that_cannot_be_told_apart(tokenizer, section, message):
    with pytest.raises(UserError, match=message):
        classes(rows("a", "a"), tokenizer, **section)


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.text("abc_", min_size=1, max_size=4), min_size=2, max_size=6, unique=True))
def test_each_label_has_a_token_of_its_own_wherever_there_is_one(tokenizer, names):
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import maximum_bipartite_matching

    own = [set(tokenizer(" " + name.replace("_", " ").strip())["input_ids"]) for name in names]
    possible = csr_array(np.array([[token in ids for token in range(257)] for ids in own]))
    if (maximum_bipartite_matching(possible, perm_type="column") < 0).any():
        with pytest.raises(UserError, match=r"none is left for .*Give words for them: `classification\.label_words"):
            label_tokens(tokenizer, names, {})
        return
    tokens = label_tokens(tokenizer, names, {})
    assert len(set(tokens)) == len(names)
    assert all(token in ids for token, ids in zip(tokens, own, strict=True))


def test_label_words_are_one_token_and_take_the_place_of_names():
    learned = train_tokenizer([" card arrival late lost card good bad" * 9], 320)
    assert len(learned(" card")["input_ids"]) == 1
    names, words = ["card_arrival", "card_lost", "pos", "neg"], {"pos": "good", "neg": "bad"}
    tokens = label_tokens(learned, names, words)
    assert len(set(tokens)) == 4
    assert {learned.decode([token]) for token in tokens[:2]} <= {" card", " arrival", " lost"}
    assert [learned.decode([token]) for token in tokens[2:]] == [" good", " bad"]
    with pytest.raises(UserError, match=r"label_words: neg: 'zz' is \d tokens of this base .* choose a word that is"):
        label_tokens(learned, names, {"neg": "zz"})
    with pytest.raises(UserError, match="none is left for neg"):
        label_tokens(learned, names, {"pos": "good", "neg": "good"})


def test_examples_hold_ids_zeros_and_ones_or_numbers(tokenizer):
    single = Classification(classes=Classes(("a", "b")))
    examples = encoded(single, tokenizer, rows("b", "a", texts=["xy", f"z{END_OF_TEXT}"]))
    assert [row["labels"] for row in examples] == [[1.0], [0.0]]
    # End-of-text in a row is plain characters, and nothing is put behind the text.
    assert [tokenizer.decode(row["input_ids"]) for row in examples] == ["xy", f"z{END_OF_TEXT}"]
    assert [row["length"] for row in examples] == [2, 1 + len(END_OF_TEXT)]
    several = Classification(classes=Classes(("a", "b", "c"), SEVERAL))
    examples = encoded(several, tokenizer, rows(["c", "a"], []))
    assert [row["labels"] for row in examples] == [[1.0, 0.0, 1.0], [0.0, 0.0, 0.0]]
    number = Classification(classes=Classes(("LABEL_0",), NUMBER))
    assert [row["labels"] for row in encoded(number, tokenizer, rows("1.1", "-100.0"))] == [[1.1], [-100.0]]
    assert single.counts(single.examples(rows("a", "b", "a"), tokenizer, 9, "key")) == [2, 1]
    assert several.counts(several.examples(rows(["c", "a"], [], ["c"]), tokenizer, 9, "key")) == [1, 0, 2]


def test_a_label_that_train_has_not_is_an_error_but_for_what_is_out_of_scope(tokenizer):
    task = Classification(classes=Classes(("a", "b"), out_of_scope="other", threshold=0.5))
    with pytest.raises(UserError, match=r"a:1: the label c is none that train has: a, b\."):
        encoded(task, tokenizer, rows("a", "c"))
    kept, preparation = task.prepare(rows("a", "other", "b"), tokenizer, 9, "validation", "fingerprint")
    assert (len(kept), preparation.rows, preparation.supervised_tokens) == (2, 3, 2)
    assert task.counts(kept) == [1, 1]


def test_a_text_that_is_too_long_is_cut_and_its_closing_words_stay(tokenizer):
    for side, kept in (("left", "6789 ="), ("right", "0123 =")):
        task = Classification(PromptEncoder(" =", side), Classes(("a", "b")))
        [row] = encoded(task, tokenizer, rows("a", texts=["0123456789 ="]), limit=6)
        assert (tokenizer.decode(row["input_ids"]), row["shortened"], row["dropped"]) == (kept, True, False)
        # So is it at inference.
        assert task.encoder.prompts(tokenizer, ["0123456789 ="], 6) == [row["input_ids"]]


def test_the_encoding_depends_on_the_labels_and_their_order():
    described = [Classification(classes=Classes(names)).settings() for names in (("a", "b"), ("b", "a"))]
    assert described[0] != described[1]


def recipe(task: str, **sections: Any) -> Recipe:
    return Recipe.model_validate({"task": task, "model": {"base": "starter"}, "data": {"train": "x"}, **sections})


@pytest.mark.parametrize(
    "written",
    [
        Classes(("b", "a"), out_of_scope="other", threshold=0.25),
        Classes(("a", "b", "c"), SEVERAL, threshold=0.4),
        Classes(("LABEL_0",), NUMBER),
        Classes(("no", "yes"), token_ids=(5, 7)),
    ],
)
def test_a_model_folder_alone_gives_back_labels_and_templates(tmp_path, written):
    from transformers import AutoConfig, GPT2ForSequenceClassification

    model = make_model()
    written.write_to(model.config)
    section = {"template": {"prompt": "Say {text} =", "truncation_side": "right"}}
    made = make_task(recipe("classification", **section), model.config)
    if not written.token_ids:
        model = GPT2ForSequenceClassification(model.config)
    model.save_pretrained(tmp_path)
    config = AutoConfig.from_pretrained(tmp_path)
    task = recorded_task(config)
    assert Classes.read_from(config) == written == task.classes == made.classes
    assert task.encoder == PromptEncoder(" =", "right") == made.encoder
    assert config.problem_type == written.problem_type
    assert config.id2label == dict(enumerate(written.names))
    assert config.label2id == {name: index for index, name in enumerate(written.names)}
    assert getattr(config, SETTINGS)["task"] == "classification"


def test_a_classifier_that_gptft_did_not_train_is_read_and_another_model_is_not():
    from transformers import GPT2Config

    config = GPT2Config(
        num_labels=3, architectures=["GPT2ForSequenceClassification"], id2label={0: "x", 1: "y", 2: "z"}
    )
    assert recorded_task(config).classes == Classes(("x", "y", "z"))
    config = GPT2Config(num_labels=1, architectures=["GPT2ForSequenceClassification"])
    assert recorded_task(config).classes == Classes(("LABEL_0",), NUMBER)
    with pytest.raises(UserError, match="not trained with task classification"):
        recorded_task(GPT2Config(architectures=["GPT2LMHeadModel"]))


def test_another_task_on_a_classifier_forgets_its_labels():
    config = make_model().config
    Classes(("a", "b"), token_ids=(1, 2)).write_to(config)
    make_task(recipe("classification"), config)
    task = make_task(recipe("completion", template={"prompt": "{prompt} ->"}), config)
    assert isinstance(task, Completion) and task.encoder == PromptEncoder(" ->")
    with pytest.raises(UserError, match="gives no labels"):
        Classes.read_from(config)
