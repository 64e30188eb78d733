import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gptft.data import load_splits
from gptft.errors import UserError

DATA = Path(os.environ.get("GPTFT_DATA") or Path(__file__).parents[3] / "shared" / "data")


def rows(count, start=0):
    return [{"text": f"row {n}"} for n in range(start, start + count)]


def texts(split):
    return list(split["text"])


def test_shares_are_met_disjoint_and_in_order(recipe, write):
    write("a.jsonl", rows(2000))
    splits = load_splits(recipe(train="a.jsonl", validation=0.1, test=0.2))
    parts = [texts(splits.train), texts(splits.validation), texts(splits.test)]
    assert sorted(parts[0] + parts[1] + parts[2]) == sorted(row["text"] for row in rows(2000))
    assert abs(len(parts[1]) - 200) < 50
    assert abs(len(parts[2]) - 400) < 70
    assert parts[0] == sorted(parts[0], key=lambda text: int(text.split()[1]))


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(1, 300), st.integers(0, 5), st.sampled_from([0.1, 0.5]))
def test_adding_rows_moves_none(recipe, write, added, seed, share):
    write("a.jsonl", rows(200))
    before = load_splits(recipe(train="a.jsonl", validation=share, seed=seed))
    write("a.jsonl", rows(added, start=1000) + rows(200))
    after = load_splits(recipe(train="a.jsonl", validation=share, seed=seed))
    assert set(texts(before.train)) <= set(texts(after.train))
    assert set(texts(before.validation)) <= set(texts(after.validation))


def test_a_test_share_does_not_move_with_the_validation_share(recipe, write):
    write("a.jsonl", rows(300))
    with_both = load_splits(recipe(train="a.jsonl", validation=0.3, test=0.2)).test
    assert texts(with_both) == texts(load_splits(recipe(train="a.jsonl", test=0.2)).test)
    assert texts(with_both) != texts(load_splits(recipe(train="a.jsonl", test=0.2, seed=1)).test)


def test_equal_rows_stay_together(recipe, write):
    write("a.jsonl", rows(100) + rows(100))
    splits = load_splits(recipe(train="a.jsonl", validation=0.5, cleaning={"duplicates": False}))
    assert len(splits.train) + len(splits.validation) == 200
    assert not set(texts(splits.train)) & set(texts(splits.validation))


def test_report_counts_every_row(recipe, write):
    write("a.jsonl", [{"text": t} for t in ("one", " ", "one\r\n", "cafe\u0301", "café", "two\x00")])
    splits = load_splits(recipe(train="a.jsonl"))
    assert texts(splits.train) == ["one", "café", "two"]
    report = splits.report.to_dict()["splits"]["train"]
    assert report.pop("fingerprint")
    assert report == {
        "streamed": False,
        "sources": [{"path": "a.jsonl", "rows": 6, "weight": 1.0, "read": 6, "kept": 3}],
        "examples": {"empties": ["a.jsonl:2"], "control_characters": ["a.jsonl:3", "a.jsonl:6"]},
        "read": 6,
        "unicode_nfc": 1,
        "control_characters": 2,
        "empties": 1,
        "duplicates": 2,
        "kept": 3,
        "weighted": 3,
    }
    assert splits.report.summary() == (
        "train: 3 of 6 rows from a.jsonl (2 duplicates dropped, 1 empty dropped, 2 with control characters removed, "
        "1 with letters rewritten as NFC)"
    )
    assert splits.report.warnings == []


def test_cleaning_can_be_switched_off(recipe, write):
    said = ["one", "", "one", "cafe\u0301", "two\x00"]
    write("a.jsonl", [{"text": t} for t in said])
    off = dict.fromkeys(("unicode_nfc", "control_characters", "empties", "duplicates"), False)
    assert texts(load_splits(recipe(train="a.jsonl", cleaning=off)).train) == said


def test_an_answer_without_text_is_dropped_or_an_error(recipe, write):
    write("a.csv", "question,answer\nHi,Hello\nHow?,\n")
    splits = load_splits(recipe("dialogue", train="a.csv"))
    assert (len(splits.train), splits.report.splits["train"].empties) == (1, 1)
    with pytest.raises(UserError, match=r"a\.csv:3: no turn of the assistant has any text"):
        load_splits(recipe("dialogue", train="a.csv", cleaning={"empties": False}))


def test_fingerprint_is_of_the_exact_rows(recipe, write):
    write("a.jsonl", [{"text": "one"}, {"text": "two"}])
    write("b.csv", "id,text\n1,one\n2,two\n")
    write("c.jsonl", [{"text": "two"}, {"text": "one"}])
    write("d.jsonl", [{"text": "one"}, {"text": "two\n"}])
    write("e.jsonl", [{"text": " one"}, {"text": "two"}])
    a, b, *others = (
        load_splits(recipe(train=name)).report.splits["train"].fingerprint
        for name in ("a.jsonl", "b.csv", "c.jsonl", "d.jsonl", "e.jsonl")
    )
    assert a == b
    assert len({a, *others}) == 4


def test_white_space_in_a_message_changes_the_fingerprint_and_no_split(recipe, write):
    write("a.jsonl", [{"prompt": f"{n}?", "completion": f"{n}"} for n in range(40)])
    write("b.jsonl", [{"prompt": f"{n}?", "completion": f" {n}\n"} for n in range(40)])
    a, b = (load_splits(recipe("dialogue", train=name, test=0.5)) for name in ("a.jsonl", "b.jsonl"))
    assert [row["messages"][0] for row in a.test] == [row["messages"][0] for row in b.test]
    for name in ("train", "test"):
        assert a.report.splits[name].fingerprint != b.report.splits[name].fingerprint


def test_weights_apply_to_train_alone(recipe, write):
    write("a.jsonl", rows(400))
    write("b.jsonl", rows(100, start=1000))
    mixture = [{"path": "a.jsonl", "weight": 0.5}, {"path": "b.jsonl", "weight": 2.25}]
    splits = load_splits(recipe(train=mixture, validation=[{"path": "b.jsonl", "weight": 3.0}]))
    train = texts(splits.train)
    numbers = [int(text.split()[1]) for text in train]
    half = [n for n in numbers if n < 400]
    assert len(set(half)) == len(half)
    assert abs(len(half) - 200) < 50
    copies = [numbers.count(n) for n in range(1000, 1100)]
    assert set(copies) == {2, 3}
    assert abs(sum(copies) - 225) < 25
    assert len(splits.validation) == 100
    assert (splits.report.splits["train"].kept, splits.report.splits["train"].weighted) == (500, len(train))
    assert train == texts(load_splits(recipe(train=mixture)).train)


def test_overlap_is_counted_and_warned_of(recipe, write):
    write("a.jsonl", rows(10))
    write("b.jsonl", rows(4, start=8))
    report = load_splits(recipe(train="a.jsonl", validation="b.jsonl")).report
    assert report.overlap == {"validation": 2}
    assert report.warnings[0].startswith("data.validation: 2 of 4 rows are also in train: ")


def test_a_shared_question_with_another_answer_is_no_overlap(recipe, write):
    write("a.csv", "prompt,completion\nHi,Hello\n")
    write("b.csv", "prompt,completion\nHi,Good day\n")
    assert not load_splits(recipe("dialogue", train="a.csv", test="b.csv")).report.warnings


def test_only_the_splits_asked_for_are_read(recipe, write):
    write("a.jsonl", rows(3))
    splits = load_splits(recipe(train="absent.jsonl", validation="a.jsonl", test="absent.jsonl"), ("validation",))
    assert (splits.train, splits.test, len(splits.validation)) == (None, None, 3)
    assert list(splits.report.splits) == ["validation"]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"validation": 0.001}, "data.validation: no row is left of 3; give a larger share or a source of its own"),
        ({"validation": "blank.jsonl"}, "data.validation: no row is left of 2 (2 were empty)"),
    ],
)
def test_a_split_without_rows(recipe, write, data, message):
    write("a.jsonl", rows(3))
    write("blank.jsonl", [{"text": " "}, {"text": ""}])
    with pytest.raises(UserError) as error:
        load_splits(recipe(train="a.jsonl", **data))
    assert message in str(error.value)


@pytest.mark.skipif(not DATA.is_dir(), reason=f"no real data in {DATA}; set GPTFT_DATA")
@pytest.mark.parametrize(
    ("task", "train", "columns", "count"),
    [
        ("dialogue", "crosswoz_zh/train.jsonl.gz", {}, 901),
        ("dialogue", "banking77/test.csv", {"prompt": "text", "completion": "category"}, 3079),
        ("pretraining", "banking77/test.csv", {}, 3079),
        ("pretraining", "rust_book", {}, 109),
        ("pretraining", "tinyshakespeare.txt", {}, 1),
        ("dialogue", "taskmaster4/dev.jsonl.gz", {}, 166),
    ],
)
def test_real_data(recipe, task, train, columns, count):
    assert len(load_splits(recipe(task, train=str(DATA / train), columns=columns)).train) == count
