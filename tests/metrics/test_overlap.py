"""ROUGE is rouge-score's; SQuAD's F1 and distinct n-grams by hand."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer

from gptft.metrics import load_metric
from gptft.metrics.catalogue import GROUPS

WORDS = st.lists(st.sampled_from(["the", "cats", "sat", "running", "on", "a", "mat.", "\n", "é", "退款"]), max_size=8)
TEXTS = st.one_of(WORDS.map(" ".join), st.text(max_size=15))
ROWS = st.lists(st.tuples(TEXTS, st.lists(TEXTS, min_size=1, max_size=3)), min_size=1, max_size=5)


@settings(max_examples=60, deadline=None)
@given(rows=ROWS, use_stemmer=st.booleans())
def test_rouge_equals_rouge_score(rows, use_stemmer):
    predictions, references = map(list, zip(*rows, strict=True))
    scorer = RougeScorer(GROUPS["rouge"], use_stemmer=use_stemmer)
    scores = [scorer.score_multi(row, text) for text, row in rows]
    for name in GROUPS["rouge"]:
        metric = load_metric(name)
        found = metric.score(metric.row_statistics(predictions, references, use_stemmer=use_stemmer).sum(axis=0))
        assert found == pytest.approx(sum(score[name].fmeasure for score in scores) / len(rows))


def test_rouge_reads_chinese_with_its_tokenizer():
    inputs = {"predictions": ["今天天气好", "Booking 酒店"], "references": ["今天天气很好", "booking 酒店"]}
    assert load_metric("rouge1").compute(**inputs) == {"rouge1": 0.5}
    expected = (2 * 5 / 11 + 1) / 2
    assert load_metric("rouge1").compute(**inputs, tokenize="zh") == {"rouge1": pytest.approx(expected)}
    assert load_metric("rougeL:tokenize=zh").compute(**inputs) == {"rougeL": pytest.approx(expected)}
    stemmed = load_metric("rouge1:tokenize=zh,use_stemmer=true")
    assert stemmed.compute(predictions=["走 running"], references=["走 runs"]) == {"rouge1": 1.0}
    assert "tokenize=zh), rouge-score 0." in stemmed.definition(["a"], ["a"])


@pytest.mark.parametrize(
    ("prediction", "references", "expected"),
    [
        ("The Eiffel Tower!", ["eiffel tower"], 1.0),
        ("in the tower", ["Eiffel Tower"], 0.5),
        ("a cat a dog", ["cat cat dog dog"], 2 * 2 / 6),
        ("well-known", ["wellknown"], 1.0),
        ("it’s", ["it's"], 1.0),
        ("Rome", ["Paris", "rome, Italy", "Rome"], 1.0),
        ("", [""], 1.0),
        ("the", ["a"], 1.0),
        ("", ["Paris"], 0.0),
        ("北京", ["北京市"], 2 * 2 / 5),
        ("我用GPT，BERT。", ["我 用 gpt bert"], 1.0),
        ("東京タワー", ["東京"], 2 * 2 / 7),
    ],
)
def test_token_f1_by_hand(prediction, references, expected):
    found = load_metric("token_f1").compute(predictions=[prediction], references=[references])
    assert found == {"token_f1": pytest.approx(expected)}


def test_token_f1_is_the_mean_over_rows():
    found = load_metric("token_f1").compute(predictions=["x", "y z"], references=["q", "y"])
    assert found == {"token_f1": pytest.approx((0 + 2 / 3) / 2)}


def test_distinct_n_by_hand():
    metric = load_metric("distinct_n")
    predictions = ["I don't know.", "I don't know!", "", "yes"]
    # 13a: I don't know . | I don't know ! | yes
    assert metric.compute(predictions=predictions, references=["", "", "", ""]) == {"distinct_n": pytest.approx(4 / 6)}
    assert metric.compute(predictions=predictions, n=1) == {"distinct_n": pytest.approx(6 / 9)}
    assert load_metric("distinct_n:n=1,tokenize=zh").compute(predictions=["好好学"]) == {
        "distinct_n": pytest.approx(2 / 3)
    }
    assert math.isnan(metric.compute(predictions=["yes"])["distinct_n"])
    assert "no interval" in metric.meaning
    assert metric.definition(predictions, n=3).endswith("(n=3, tokenize=13a)")
