"""Columns to prompts and targets: templates, names of columns, labels and numbers."""

from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gptft.data.columns import RowError
from gptft.data.templates import TemplateReader, render
from gptft.recipe.schema import ClassificationSection
from gptft.recipe.templates import closing_words, template_fields

TEXT = st.text(max_size=12)
NAMES = st.sampled_from(["title", "body text", "0", "标题", "a_b", "a-b"])


def reader(prompt="{prompt}\n", completion="{completion}", columns=None, **labels: Any) -> TemplateReader:
    section = ClassificationSection(**labels) if labels or prompt == "{text}" else None
    return TemplateReader(prompt, completion, columns or {}, section)


def read(row: dict[str, Any], *args: Any, **options: Any) -> tuple[str, list[str]]:
    chosen = reader(*args, **options)
    return chosen.read(row, chosen.layout(row))


def label(value: Any, **labels: Any) -> list[str]:
    return read({"text": "x", "label": value}, "{text}", **labels)[1]


@example(parts=["{0"], row=dict.fromkeys(["title", "body text", "0", "标题", "a_b", "a-b"], ""))
@given(st.lists(TEXT | st.tuples(NAMES), max_size=6), st.dictionaries(NAMES, TEXT, min_size=6))
@settings(deadline=None)
def test_a_prompt_is_its_words_with_columns_put_in_as_they_are(parts, row):
    template = "".join(
        f"{{{part[0]}}}" if isinstance(part, tuple) else part.replace("{", "{{").replace("}", "}}") for part in parts
    )
    expected = "".join(row[part[0]] if isinstance(part, tuple) else part for part in parts)
    assert render(template, row, {}) == expected
    named = [part[0] for part in parts if isinstance(part, tuple)]
    assert template_fields(template) == list(dict.fromkeys(named))
    last = max((index for index, part in enumerate(parts) if isinstance(part, tuple)), default=-1)
    assert closing_words(template) == "".join(parts[last + 1 :])


@pytest.mark.parametrize("template", ["{}", "{a.b}", "{a[0]}", "{a!r}", "{a:>9}", "{a", "a}", "{ {a}"])
def test_what_is_no_column_in_braces_is_refused(template):
    with pytest.raises(ValueError, match=r"no column's name|[{}]"):
        template_fields(template)


def test_numbers_nothing_and_lists_are_written_as_text():
    row = {"n": 3, "x": None, "facts": ["a", 1, ["b"]]}
    assert render("{n}|{x}|{facts}", row, {}) == "3||a; 1; b"
    with pytest.raises(RowError, match="facts must be text, a number or a list of these, found an object"):
        render("{facts}", {"facts": [{"a": 1}]}, {})


def test_a_list_of_completions_is_several_targets_and_an_empty_one_is_nothing_to_write():
    assert read({"prompt": "p", "completion": ["a", "b"]}) == ("p\n", ["a", "b"])
    row = {"fact": "f", "texts": ["a", "b"], "end": "!"}
    assert read(row, "{fact}", " {texts}{end}") == ("f", [" a!", " b!"])
    assert read({"prompt": "p", "completion": []}) == ("p\n", [""])
    with pytest.raises(RowError, match="a and b are lists; a completion can be made of one list of answers"):
        read({"p": "", "a": ["1"], "b": ["2"]}, "{p}", "{a}{b}")


@pytest.mark.parametrize("names", ["prompt completion", "instruction output", "question answer", "source target"])
def test_usual_pairs_are_found(names):
    first, second = names.split()
    assert read({"id": 1, first: "ask", second: "say"}) == ("ask\n", ["say"])
    # So is a usual answer beside a prompt of one's own.
    assert read({"title": "ask", second: "say"}, "{title}:") == ("ask:", ["say"])


@pytest.mark.parametrize("names", ["text label", "text labels", "text category", "text intent", "sentence label"])
def test_usual_labelled_columns_are_found(names):
    first, second = names.split()
    assert read({"id": 1, first: "hi", second: "greeting"}, "{text}") == ("hi", ["greeting"])


def test_columns_of_the_recipe_go_before_usual_names():
    row = {"text": "a", "label": "b", "body": "c", "kind": "d"}
    assert read(row, "{text}", columns={"text": "body", "label": "kind"}) == ("c", ["d"])
    assert read(row, "{text}", columns={"label": "kind"}) == ("a", ["d"])


def test_a_missing_column_is_named_with_those_there():
    with pytest.raises(RowError) as error:
        reader("{en}", "{zh}").layout(["en", "german"])
    assert "there is no column zh. Columns found: en, german." in str(error.value)
    assert "columns: {zh: YOUR_COLUMN}" in str(error.value)
    with pytest.raises(RowError, match=r"no column prompt and no completion\. Columns found: none\."):
        reader().layout([])
    with pytest.raises(RowError, match="`columns:` says label: kind, but there is no such column"):
        reader("{text}", columns={"label": "kind"}).layout(["text", "label"])
    chosen = reader()
    with pytest.raises(RowError, match="the row has no completion; it has prompt"):
        chosen.read({"prompt": "a"}, chosen.layout(["prompt", "completion"]))
    with pytest.raises(RowError, match="the row has no column title; it has text, label"):
        render("{title}", {"text": "", "label": ""}, {})


def test_labels_are_names_or_ids_of_the_recipes_labels():
    names = ["cat", "dog", "2"]
    assert [label(value, labels=names) for value in ("dog", " dog ", 1, "1", "0", 2)] == [
        ["dog"], ["dog"], ["dog"], ["dog"], ["cat"], ["2"]
    ]  # fmt: skip
    assert label(1) == ["1"]
    assert label("other", labels=names, out_of_scope="other") == ["other"]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("dgo", "label is 'dgo', which is none of `classification.labels`; did you mean 'dog'?"),
        ("zebra", "they are cat, dog"),
        (7, "label is '7', which is none"),
        (-1, "label is '-1', which is none"),
        (1.0, r"label must be a label \(text or a whole number\), found float 1.0"),
        (True, "found true or false"),
        (None, "found nothing"),
        (" ", "found text"),
        (["cat"], "found a list"),
    ],
)
def test_what_is_no_label(value, message):
    with pytest.raises(RowError, match=message):
        label(value, labels=["cat", "dog"])


def test_several_labels_come_as_a_list_or_with_lines_between():
    kind = {"problem_type": "multi_label_classification", "labels": ["a", "b", "c"]}
    values = (["a", "c"], "a|c", " a | c |", [0, 2], "0|2", "a|c|a", "b", 1, [], "", None)
    assert [label(value, **kind) for value in values] == [["a", "c"]] * 6 + [["b"]] * 2 + [[]] * 3
    with pytest.raises(RowError, match="label is 'd'"):
        label("a|d", **kind)


def test_numbers_and_what_is_none():
    kind = {"problem_type": "regression"}
    assert [label(value, **kind) for value in (2, "2.5", " 3 ", -100.0)] == [["2.0"], ["2.5"], ["3.0"], ["-100.0"]]
    for value, found in ((None, "nothing"), ("high", "text"), (True, "true or false"), (float("nan"), "float nan")):
        with pytest.raises(RowError, match=f"label must be a number for problem_type: regression, found {found}"):
            label(value, **kind)


def test_what_stands_for_nothing_is_nothing_and_bytes_are_no_text():
    row = {"a": float("nan"), "b": [None, float("nan"), "x"]}
    assert render("{a}|{b}", row, {}) == "|; ; x"
    with pytest.raises(RowError, match="a must be text"):
        render("{a}", {"a": b"text"}, {})
