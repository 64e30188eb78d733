"""Rows of the tasks with templates on their way through sources, cleaning and splits."""

import datasets
import huggingface_hub
import pytest

from gptft.data import load_splits
from gptft.errors import UserError

EN_ZH = {"template": {"prompt": "{en}:", "completion": " {zh}"}}


def test_prompts_targets_and_origins(recipe, write):
    write("a.csv", "en,zh\nhello,你好\nbye,再见\n")
    write("b.jsonl", [{"en": "yes", "zh": ["是", "对"]}])
    train = load_splits(recipe("completion", EN_ZH, train=["a.csv", "b.jsonl"])).train
    assert list(train["text"]) == ["hello:", "bye:", "yes:"]
    assert list(train["targets"]) == [[" 你好"], [" 再见"], [" 是", " 对"]]
    assert list(train["messages"]) == [None] * 3
    assert list(train["origin"]) == ["a.csv:2", "a.csv:3", "b.jsonl:1"]


def test_another_template_or_other_labels_are_read_again(recipe, write):
    write("a.csv", "text,label\nhello,0\nbye,1\n")
    for template in ("{text}", "Say {text}"):
        train = load_splits(recipe("classification", {"template": {"prompt": template}}, train="a.csv")).train
        assert train["text"][0] == template.format(text="hello")
    for names in (["a", "b"], ["c", "d"]):
        train = load_splits(recipe("classification", {"classification": {"labels": names}}, train="a.csv")).train
        assert list(train["targets"]) == [[name] for name in names]


def test_a_missing_column_is_told_once_and_a_wrong_label_with_its_line(recipe, write):
    write("a.csv", "body,label\n" + "a,b\n" * 9)
    with pytest.raises(UserError, match=r"1 row with a problem:\n  a\.csv:2: there is no column text\. Columns found:"):
        load_splits(recipe("classification", train="a.csv"))
    write("b.csv", "text,label\na,good\nb,god\n")
    sections = {"classification": {"labels": ["good", "bad"]}}
    with pytest.raises(UserError, match=r"b\.csv:3: label is 'god', .* did you mean 'good'\?"):
        load_splits(recipe("classification", sections, train="b.csv"))


def test_names_of_classes_take_the_place_of_their_numbers(recipe, monkeypatch):
    kind = datasets.ClassLabel(names=["sad", "glad"])
    features = datasets.Features({"text": datasets.Value("string"), "label": kind, "labels": datasets.List(kind)})
    rows = [{"text": "a", "label": 1, "labels": [0, 1]}, {"text": "b", "label": 0, "labels": []}]
    data = datasets.Dataset.from_list(rows, features=features)
    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", lambda *args, **options: None)
    monkeypatch.setattr(datasets, "load_dataset", lambda *args, **options: data)
    train = load_splits(recipe("classification", train="someone/moods")).train
    assert list(train["targets"]) == [["glad"], ["sad"]]
    several = {"classification": {"problem_type": "multi_label_classification"}}
    train = load_splits(recipe("classification", several, train="someone/moods", columns={"label": "labels"})).train
    assert list(train["targets"]) == [["sad", "glad"], []]
    hidden = datasets.Dataset.from_list([{**rows[0], "label": -1}], features=features)
    monkeypatch.setattr(datasets, "load_dataset", lambda *args, **options: hidden)
    with pytest.raises(UserError, match=r"label must be a label .*, found nothing"):
        load_splits(recipe("classification", train="someone/hidden"))


def test_rows_with_one_prompt_stay_in_one_split(recipe, write):
    write("a.jsonl", [{"prompt": f"{n % 100}", "completion": f"answer {n}"} for n in range(300)])
    splits = load_splits(recipe("completion", train="a.jsonl", validation=0.3, test=0.3))
    parts = [set(split["text"]) for split in (splits.train, splits.validation, splits.test)]
    assert sum(map(len, parts)) == len(set.union(*parts)) == 100
    assert min(map(len, parts)) > 10
    assert sum(len(split) for split in (splits.train, splits.validation, splits.test)) == 300


@pytest.mark.parametrize("task", ["completion", "classification"])
def test_prompts_that_are_in_train_too_are_warned_of(recipe, write, task):
    names = ("prompt", "completion") if task == "completion" else ("text", "label")
    write("a.csv", ",".join(names) + "\nhello,a\nbye,b\n")
    write("b.csv", ",".join(names) + "\nhello,c\nmorning,b\n")
    report = load_splits(recipe(task, train="a.csv", test="b.csv")).report
    assert report.overlap == {"test": 1}
    assert report.warnings[0].startswith("data.test: 1 of 2 rows are also in train: ")


def test_cleaning_reaches_prompts_and_targets(recipe, write):
    rows = [("cafe\u0301", "a"), ("café", "a"), ("café", "b"), ("x", "a\x00"), ("", "a"), ("y", " ")]
    write("a.jsonl", [{"prompt": prompt, "completion": completion} for prompt, completion in rows])
    write("b.jsonl", [{"prompt": "p", "completion": []}, {"prompt": "q", "completion": ["a"]}])
    splits = load_splits(recipe("completion", {"template": {"prompt": "{prompt}"}}, train=["a.jsonl", "b.jsonl"]))
    found = list(zip(splits.train["text"], splits.train["targets"], strict=True))
    assert found == [("café", ["a"]), ("café", ["b"]), ("x", ["a"]), ("q", ["a"])]
    report = splits.report.splits["train"]
    assert (report.empties, report.duplicates, report.unicode_nfc, report.control_characters) == (3, 1, 1, 1)
    whole = {"cleaning": {"empties": False}}
    with pytest.raises(UserError, match=r"a\.jsonl:5: prompt or answer is empty"):
        load_splits(recipe("completion", {"template": {"prompt": "{prompt}"}}, train="a.jsonl", **whole))


def test_a_text_without_any_of_several_labels_is_no_empty_row(recipe, write):
    write("a.csv", "text,label\nnothing of these,\nboth,a|b\n")
    sections = {"classification": {"problem_type": "multi_label_classification"}}
    splits = load_splits(recipe("classification", sections, train="a.csv"))
    assert list(splits.train["targets"]) == [[], ["a", "b"]]
