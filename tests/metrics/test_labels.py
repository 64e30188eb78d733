"""Metrics of labels are scikit-learn's with zero_division=0, whole and on each resample."""

import itertools

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from sklearn import metrics as sklearn_metrics
from sklearn.preprocessing import MultiLabelBinarizer

from gptft.errors import UserError
from gptft.evaluation.bootstrap import interval
from gptft.metrics import load_metric

AVERAGES = ["macro", "micro", "weighted"]
BY_CLASS = ["f1", "precision", "recall"]
WORDS = ["", "yes", "no", "退款", "查询 订单", "a,b"]
ROWS = st.sampled_from([WORDS, WORDS[:2], WORDS[:1], [3, 1, 20, -1], [0, 1], [7]]).flatmap(
    lambda labels: st.lists(st.tuples(*[st.sampled_from(labels)] * 2), min_size=1, max_size=12)
)
SETS = st.lists(st.sampled_from(["退款", "b", "c", ""]), max_size=3, unique=True)
SET_ROWS = st.lists(st.tuples(SETS, SETS), min_size=1, max_size=8)


def theirs(name: str, predictions, references, **options) -> float:
    if name in BY_CLASS:
        return getattr(sklearn_metrics, f"{name}_score")(references, predictions, zero_division=0, **options)
    if name == "mcc":
        return sklearn_metrics.matthews_corrcoef(references, predictions)
    return sklearn_metrics.accuracy_score(references, predictions)


@pytest.mark.filterwarnings("ignore:A single label was found")
@settings(max_examples=40, deadline=None)
@given(rows=ROWS, data=st.data())
def test_equals_scikit_learn(rows, data):
    predictions, references = map(list, zip(*rows, strict=True))
    drawn = data.draw(st.lists(st.integers(0, len(rows) - 1), min_size=1, max_size=12))
    times = np.bincount(drawn, minlength=len(rows)).astype(float)
    some = [[side[index] for index in drawn] for side in (predictions, references)]
    for name in ["accuracy", "mcc", *BY_CLASS]:
        for options in [{"average": average} for average in AVERAGES] if name in BY_CLASS else [{}]:
            metric = load_metric(name)
            as_lists = [[label] for label in references]
            statistics = metric.row_statistics(predictions, as_lists, **options)
            both = metric.score(np.stack([statistics.sum(axis=0), times @ statistics]))
            expected = [theirs(name, predictions, references, **options), theirs(name, *some, **options)]
            assert both.tolist() == pytest.approx(expected, abs=1e-12)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.UndefinedMetricWarning")
@settings(max_examples=60, deadline=None)
@given(rows=SET_ROWS)
def test_lists_of_labels_equal_scikit_learn(rows):
    predictions, references = map(list, zip(*rows, strict=True))
    binary = MultiLabelBinarizer().fit(predictions + references)
    assume(len(binary.classes_) > 1)  # scikit-learn takes one column of zeros and ones for two classes
    ours = [binary.transform(side) for side in (predictions, references)]
    for name in ["accuracy", *BY_CLASS]:
        for options in [{"average": average} for average in AVERAGES] if name in BY_CLASS else [{}]:
            metric = load_metric(name)
            found = metric.score(metric.row_statistics(predictions, references, **options).sum(axis=0))
            assert found == pytest.approx(theirs(name, *ours, **options), abs=1e-12)


@pytest.mark.parametrize("labels", [["b", "a", "", "b"], [3, 1, 1, 2]])
def test_compute_takes_text_and_numbers_and_references_in_lists(labels):
    wrapped = [[label] for label in reversed(labels)]
    for name in ["accuracy", "mcc", *BY_CLASS]:
        expected = theirs(name, labels, labels[::-1], **({"average": "macro"} if name in BY_CLASS else {}))
        for references in (labels[::-1], wrapped):
            assert load_metric(name).compute(predictions=labels, references=references)[name] == pytest.approx(expected)
    sets = [[label, label] for label in labels]
    assert load_metric("accuracy").compute(predictions=sets, references=wrapped[::-1]) == {"accuracy": 1.0}


def test_an_interval_of_many_classes_is_cheap():
    generator = np.random.default_rng(0)
    references = generator.integers(77, size=3080)
    predictions = np.where(generator.random(3080) < 0.8, references, generator.integers(77, size=3080))
    metric = load_metric("f1")
    statistics = metric.row_statistics(predictions.tolist(), references.tolist())
    assert statistics.shape == (3080, 231)
    low, high = interval(statistics, metric.score) or (0, 0)
    assert 0.75 < low < theirs("f1", predictions, references, average="macro") < high < 0.85


def test_what_labels_cannot_be_is_an_error():
    with pytest.raises(UserError, match=r"row 1 has 2 labels.*one prediction"):
        load_metric("f1").row_statistics(["a", "b"], [["a"], ["a", "b"]])
    with pytest.raises(UserError, match="one label a row"):
        load_metric("mcc").row_statistics([["a"], ["b"]], [["a"], ["a", "b"]])
    texts = [str(number) for number in range(6000)]
    with pytest.raises(UserError, match=r"6,000 different labels.*token_f1"):
        load_metric("f1").row_statistics(texts, texts)


def test_definitions_name_the_average():
    assert load_metric("f1").definition(["a"], ["a"]).endswith("(average=macro)")
    assert load_metric("f1:average=micro").definition(["a"], ["a"]).endswith("(average=micro)")


@settings(max_examples=100, deadline=None)
@given(
    rows=st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=30), bins=st.sampled_from([1, 10, 15])
)
def test_calibration_error_is_the_sum_over_bins(rows, bins):
    confidences, correct = (np.array(side) for side in zip(*rows, strict=True))
    edges = np.linspace(0, 1, bins + 1)
    expected = 0.0
    for low, high in itertools.pairwise(edges):
        inside = (confidences > low) & (confidences <= high) | ((low == 0) & (confidences == 0))
        if inside.any():
            expected += inside.mean() * abs(confidences[inside].mean() - correct[inside].mean())
    metric = load_metric("calibration_error")
    found = metric.compute(confidences=confidences.tolist(), correct=correct.tolist(), bins=bins)
    assert found == {"calibration_error": pytest.approx(expected, abs=1e-12)}
    assert not metric.higher_is_better


def test_confidences_beyond_one_are_an_error():
    with pytest.raises(UserError, match="from 0 to 1"):
        load_metric("calibration_error").row_statistics([0.5, 1.5], [True, False])
