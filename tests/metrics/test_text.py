"""BLEU, chrF and TER are sacreBLEU's, to the last digit of the command and to the last bit of its functions."""

import gzip
import json
import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import sacrebleu
from hypothesis import given, settings
from hypothesis import strategies as st

from gptft.errors import UserError
from gptft.metrics import load_metric

SHARED_DATA = Path(os.environ.get("GPTFT_DATA", Path(__file__).parents[3] / "shared" / "data"))

ENGLISH = [
    ("Your order has been shipped.", "Your order was shipped yesterday."),
    ("You can return it within 30 days, free of charge!", "You can return it within 30 days free of charge."),
    ("", "We are open from 9 to 5."),
    ("The parcel costs $4.99 (VAT included).  ", "The parcel costs $4.99, VAT included."),
    ("I am sorry, I can't help with that - please call us.", "I'm sorry, I can't do that; please call us at once."),
    ("yes", "Yes"),
]
CHINESE = [
    ("您的订单已经发货了。", "您的订单昨天已经发货。"),
    ("请问您想住几晚？", "请问您打算住几晚？"),
    ("", "好的，没有问题。"),
    ("故宫的门票是60元，地址在东城区景山前街4号。", "故宫门票60元，地址是东城区景山前街4号。"),
]


def sacrebleu_command(folder: Path, pairs: list[tuple[str, str]], metric: str, *options: str) -> dict:
    (folder / "hyp.txt").write_text("".join(f"{hypothesis}\n" for hypothesis, _ in pairs), encoding="utf-8")
    (folder / "ref.txt").write_text("".join(f"{reference}\n" for _, reference in pairs), encoding="utf-8")
    command = [sys.executable, "-m", "sacrebleu", "ref.txt", "-i", "hyp.txt", "-m", metric, "-w", "12", *options]
    return json.loads(subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stdout)


@pytest.mark.parametrize(
    ("metric", "pairs", "command_options", "options"),
    [
        ("bleu", ENGLISH, [], {}),
        ("bleu", ENGLISH, ["--lowercase"], {"lowercase": True}),
        ("bleu", ENGLISH, ["--tokenize", "intl"], {"tokenize": "intl"}),
        ("bleu", CHINESE, ["--tokenize", "zh"], {"tokenize": "zh"}),
        ("bleu", CHINESE, ["--tokenize", "char"], {"tokenize": "char"}),
        ("bleu", [("", reference) for _, reference in ENGLISH], [], {}),
        ("bleu", [(reference, reference) for _, reference in ENGLISH], [], {}),
        ("chrf", ENGLISH, [], {}),
        ("chrf", ENGLISH, ["--chrf-lowercase"], {"lowercase": True}),
        ("chrf", CHINESE, [], {}),
        ("chrf", ENGLISH, ["--chrf-word-order", "2"], {"word_order": 2}),
        ("ter", ENGLISH, [], {}),
        ("ter", ENGLISH, ["--ter-case-sensitive", "--ter-no-punct"], {"case_sensitive": True, "no_punct": True}),
        ("ter", CHINESE, ["--ter-normalized", "--ter-asian-support"], {"normalized": True, "asian_support": True}),
        ("chrf", [("", reference) for _, reference in ENGLISH], [], {}),
    ],
)
def test_equals_the_sacrebleu_command(tmp_path, metric, pairs, command_options, options):
    expected = sacrebleu_command(tmp_path, pairs, metric, *command_options)
    predictions, references = zip(*pairs, strict=True)
    found = load_metric(metric).compute(predictions=list(predictions), references=list(references), **options)
    assert f"{found[metric]:.2f}" == f"{expected['score']:.2f}"
    assert found[metric] == pytest.approx(expected["score"], abs=1e-11)
    assert found["signature"] == expected["signature"]


def test_equals_the_sacrebleu_command_on_real_dialogues(tmp_path):
    path = SHARED_DATA / "crosswoz_zh" / "test.jsonl.gz"
    if not path.exists():
        pytest.skip("the shared data sets are not on this machine")
    with gzip.open(path, "rt", encoding="utf-8") as file:
        turns = [turn["content"] for line in file for turn in json.loads(line)["messages"]]
    turns = [" ".join(turn.split()) for turn in turns]
    draw = random.Random(0)
    pairs = [("".join(character for character in turn if draw.random() > 0.1), turn) for turn in turns]
    predictions, references = map(list, zip(*pairs, strict=True))
    expected = sacrebleu_command(tmp_path, pairs, "bleu", "--tokenize", "zh")
    found = load_metric("bleu").compute(predictions=predictions, references=references, tokenize="zh")
    assert 0 < expected["score"] < 100
    assert f"{found['bleu']:.2f}" == f"{expected['score']:.2f}"


WORDS = st.lists(st.sampled_from(["the", "cat", "sat", "on", "a", "mat", ".", "It's", "3.5", "é"]), max_size=9)
TEXTS = st.one_of(WORDS.map(" ".join), st.text(max_size=20))
ROWS = st.lists(st.tuples(TEXTS, st.lists(TEXTS, min_size=1, max_size=3)), min_size=1, max_size=6)


def sacrebleu_references(references: list[list[str]]) -> list[list[str | None]]:
    """Turn lists by row into sacreBLEU's lists by document, None where a row has fewer."""
    most = max(len(row) for row in references)
    return [[row[index] if index < len(row) else None for row in references] for index in range(most)]


@settings(max_examples=150, deadline=None)
@given(rows=ROWS, lowercase=st.booleans(), tokenize=st.sampled_from(["13a", "zh", "char", "intl"]))
def test_bleu_equals_corpus_bleu(rows, lowercase, tokenize):
    predictions, references = map(list, zip(*rows, strict=True))
    theirs = sacrebleu.BLEU(lowercase=lowercase, tokenize=tokenize)
    expected = theirs.corpus_score(predictions, sacrebleu_references(references)).score
    metric = load_metric("bleu")
    options = {"lowercase": lowercase, "tokenize": tokenize}
    statistics = metric.row_statistics(predictions, references, **options)
    assert statistics.shape == (len(rows), 10)
    assert metric.score(statistics.sum(axis=0)) == min(expected, 100.0)
    assert metric.definition(predictions, references, **options) == str(theirs.get_signature())


@settings(max_examples=150, deadline=None)
@given(rows=ROWS, lowercase=st.booleans(), word_order=st.integers(0, 2))
def test_chrf_equals_corpus_chrf(rows, lowercase, word_order):
    predictions, references = map(list, zip(*rows, strict=True))
    options = {"lowercase": lowercase, "word_order": word_order}
    theirs = sacrebleu.CHRF(**options)
    expected = theirs.corpus_score(predictions, sacrebleu_references(references)).score
    metric = load_metric("chrf")
    statistics = metric.row_statistics(predictions, references, **options)
    assert statistics.shape == (len(rows), 18 + 3 * word_order)
    assert metric.score(statistics.sum(axis=0)) == expected
    assert metric.definition(predictions, references, **options) == str(theirs.get_signature())


@settings(max_examples=100, deadline=None)
@given(rows=ROWS, switches=st.tuples(*[st.booleans()] * 4))
def test_ter_equals_corpus_ter(rows, switches):
    predictions, references = map(list, zip(*rows, strict=True))
    options = dict(zip(("normalized", "case_sensitive", "asian_support", "no_punct"), switches, strict=True))
    theirs = sacrebleu.TER(**options)
    expected = theirs.corpus_score(predictions, sacrebleu_references(references)).score
    metric = load_metric("ter")
    statistics = metric.row_statistics(predictions, references, **options)
    assert statistics.shape == (len(rows), 2)
    assert metric.score(statistics.sum(axis=0)) == pytest.approx(expected, rel=1e-12)
    assert metric.definition(predictions, references, **options) == str(theirs.get_signature())


@pytest.mark.parametrize("name", ["bleu", "chrf", "ter", "exact_match"])
def test_many_sums_are_scored_at_once(name):
    predictions, references = map(list, zip(*ENGLISH, strict=True))
    metric = load_metric(name)
    statistics = metric.row_statistics(predictions, references)
    sums = np.stack([statistics[:2].sum(axis=0), statistics[2:].sum(axis=0)])
    one_by_one = [
        metric.compute(predictions=predictions[part], references=references[part])[name]
        for part in (slice(0, 2), slice(2, None))
    ]
    assert metric.score(sums).tolist() == one_by_one


def test_exact_match_ignores_white_space_around_and_takes_any_reference():
    metric = load_metric("exact_match")
    predictions = [" Paris\n", "paris", "Rome", ""]
    references = [["London", "Paris"], ["Paris"], ["Rome "], ["x"]]
    assert metric.compute(predictions=predictions, references=references) == {"exact_match": 0.5}


def test_unknown_tokenizer_names_the_known_ones():
    with pytest.raises(UserError, match=r"tokenize is 'chinese', expected one of: 13a, zh"):
        load_metric("bleu").compute(predictions=["a"], references=["a"], tokenize="chinese")


def test_row_without_reference_is_named():
    with pytest.raises(UserError, match="row 1 has no reference"):
        load_metric("bleu").row_statistics(["a", "b"], [["a"], []])
