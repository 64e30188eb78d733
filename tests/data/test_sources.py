import os
import subprocess
import sys
from pathlib import Path
from unittest.mock import MagicMock

import datasets
import huggingface_hub
import pytest

from gptft.data import load_splits
from gptft.errors import GptftError, UserError

ASKED_AND_SAID = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]


def texts(split):
    return list(split["text"])


def test_formats_mix_and_origins_name_file_and_line(recipe, write, tmp_path):
    write("a.jsonl", [{"text": "a1"}, {"text": "a2"}])
    write("b.csv.gz", "body\nb1\n")
    write("c.txt", "c1\nc2\n")
    datasets.Dataset.from_list([{"text": "d1"}]).to_parquet(tmp_path / "d.parquet")
    write("e.jsonl", [{"messages": ASKED_AND_SAID}])
    sources = ["a.jsonl", {"path": "b.csv.gz", "columns": {"text": "body"}}, "c.txt", "d.parquet", "e.jsonl"]
    train = load_splits(recipe(train=sources)).train
    assert train.column_names == ["messages", "text", "targets", "origin"]
    assert texts(train) == ["a1", "a2", "b1", "c1\nc2\n", "d1", None]
    assert list(train["messages"]) == [None] * 5 + [ASKED_AND_SAID]
    origins = ["a.jsonl:1", "a.jsonl:2", "b.csv.gz:2", "c.txt:1", "d.parquet:1", "e.jsonl:1"]
    assert list(train["origin"]) == origins


def test_folders_and_globs(recipe, write, tmp_path, monkeypatch):
    for name in ("book/b.md", "book/a/a.txt", "book/.git/x.md", "book/picture.png", "book/[1].rst"):
        write(name, name)
    folder = load_splits(recipe(train="book")).train
    assert list(folder["origin"]) == ["[1].rst:1", "a/a.txt:1", "b.md:1"]
    assert list(load_splits(recipe(train="book/**/*.*")).train["origin"]) == list(folder["origin"])
    assert texts(load_splits(recipe(train="book/*.md")).train) == ["book/b.md"]
    assert texts(load_splits(recipe(train="book/[1].rst")).train) == ["book/[1].rst"]
    monkeypatch.setenv("BOOK", str(tmp_path / "book"))
    assert texts(load_splits(recipe(train="$BOOK/*.md")).train) == ["book/b.md"]
    assert texts(load_splits(recipe(train="${BOOK}/a")).train) == ["book/a/a.txt"]


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("none.jsonl", "no such file or folder: none.jsonl"),
        ("./none", "no such file or folder: ./none"),
        ("none/*.jsonl", "no data file matches the pattern: none/*.jsonl"),
        ("pictures", "the folder has no data file (.jsonl"),
        ("$GPTFT_UNSET/a.jsonl", "the environment variable $GPTFT_UNSET is not set"),
    ],
)
def test_paths_that_give_nothing(recipe, write, path, message):
    write("pictures/a.png", "x")
    with pytest.raises(UserError) as error:
        load_splits(recipe(train=path))
    assert str(error.value).startswith(f"data.train: {path}: ")
    assert message in str(error.value)


def test_empty_files(recipe, write):
    for name in ("a.jsonl", "b.csv", "c.txt", "d.jsonl.gz"):
        path = write(name, "")
        with pytest.raises(UserError, match=rf"{name}.*(empty|nothing in it|no row)"):
            load_splits(recipe(train=path.name))
    with pytest.raises(UserError, match=r"header\.csv: the file is empty, or has no row"):
        load_splits(recipe(train=write("header.csv", "text\n").name))
    write("book/full.md", "text")
    write("book/empty.md", "")
    assert texts(load_splits(recipe(train="book")).train) == ["text"]


def test_problems_are_shown_together_with_a_count(recipe, write):
    write("a.jsonl", [{"text": "fine"}, *[{"text": n} for n in range(6)]])
    write("b.jsonl", [{"id": 1}, {"id": 2}])
    with pytest.raises(UserError) as error:
        load_splits(recipe(train="a.jsonl", validation="b.jsonl"))
    assert str(error.value).splitlines() == [
        "The data cannot be used: 7 rows with a problem:",
        *[f"  a.jsonl:{n + 2}: text must be text, found int {n}" for n in range(5)],
        "  and 2 more",
    ]


def test_undetected_columns_are_reported_once_a_file(recipe, write):
    write("a.csv", "frage,antwort\n" + "a,b\n" * 10)
    with pytest.raises(UserError) as error:
        load_splits(recipe("dialogue", train="a.csv"))
    assert "1 row with a problem" in str(error.value)
    assert "a.csv:2: no columns that the task dialogue can use. Columns found: frage, antwort." in str(error.value)


def test_a_row_of_fifty_thousand_words(recipe, write):
    long = "word " * 50_000
    write("a.jsonl", [{"prompt": "Say it", "completion": long}])
    assert load_splits(recipe("dialogue", train="a.jsonl")).train[0]["messages"][1]["content"] == long


def test_the_second_start_reads_the_cache_and_a_changed_file_is_read_again(recipe, write, monkeypatch):
    path = write("a.jsonl", [{"text": "one"}])
    first = load_splits(recipe(train="a.jsonl"))
    with monkeypatch.context() as patch:
        patch.setattr("gptft.data.sources.read_file", lambda path: pytest.fail("the file was read again"))
        second = load_splits(recipe(train="a.jsonl"))
    assert texts(second.train) == ["one"]
    assert second.train._fingerprint == first.train._fingerprint
    assert second.report == first.report
    write("a.jsonl", [{"text": "two"}])
    os.utime(path, ns=(1, 1))
    assert texts(load_splits(recipe(train="a.jsonl")).train) == ["two"]


def test_a_disk_that_refuses_is_one_message(recipe, write, monkeypatch):
    write("a.jsonl", [{"text": "one"}])

    def full(path):
        raise OSError(28, "No space left on device")
        yield

    monkeypatch.setattr("gptft.data.sources.read_file", full)
    with pytest.raises(GptftError, match=r"data\.train: a\.jsonl could not be prepared .*No space left on device"):
        load_splits(recipe(train="a.jsonl"))


def test_hub_data_set_by_name(recipe, monkeypatch):
    asked = []

    def load_dataset(*args, **options):
        asked.append((args, options))
        return datasets.Dataset.from_list([{"question": "Hi", "answer": "Hello"}])

    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", lambda *args, **options: None)
    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    source = {"path": "someone/data", "name": "small", "split": "dev", "revision": "v1"}
    splits = load_splits(recipe("dialogue", train="someone/data", validation=source))
    assert splits.train[0] == {
        "messages": ASKED_AND_SAID,
        "text": None,
        "targets": None,
        "origin": "someone/data/train:1",
    }
    assert asked == [
        (("hf://datasets/someone/data", None), {"split": "train", "revision": None, "streaming": False}),
        (("hf://datasets/someone/data", "small"), {"split": "dev", "revision": "v1", "streaming": False}),
    ]


def test_a_hub_that_cannot_be_reached_is_one_message(tmp_path):
    code = """
from gptft.data import load_splits
from gptft.errors import GptftError
from gptft.recipe.schema import Recipe
try:
    load_splits(Recipe.model_validate(
        {"task": "dialogue", "model": {"base": "starter"}, "data": {"train": "someone/data"}}))
except GptftError as error:
    print(error)
"""
    environment = {**os.environ, "HF_ENDPOINT": "http://127.0.0.1:1", "HF_HOME": str(tmp_path)}
    environment["PYTHONPATH"] = str(Path(__file__).parents[2])
    run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120)
    assert "someone/data is no file or folder beside the recipe, and the Hub" in run.stdout, run.stderr
    assert "does not answer" in run.stdout
    assert "Retrying" not in run.stderr


def test_a_revision_that_is_not_there_is_a_mistake(recipe, monkeypatch):
    def refuse(*args, **options):
        raise huggingface_hub.errors.RevisionNotFoundError("no such revision", response=MagicMock())

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", refuse)
    with pytest.raises(UserError, match=r"data\.train: someone/data has no revision 'v9' on the Hub"):
        load_splits(recipe(train={"path": "someone/data", "revision": "v9"}))


def test_what_is_nested_too_deeply_is_a_row_that_cannot_be_used(recipe, write):
    nested = "[" * 980 + "]" * 980
    write("train.jsonl", f'{{"prompt": {nested}, "completion": "b"}}\n' + '{"prompt": "a", "completion": "b"}\n')
    with pytest.raises(UserError, match=r"train\.jsonl:1: "):
        load_splits(recipe("completion", train="train.jsonl"))
