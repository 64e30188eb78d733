import numpy as np
import pytest

from gptft.evaluation import bootstrap
from gptft.evaluation.bootstrap import interval
from gptft.metrics import load_metric


def mean(sums: np.ndarray) -> np.ndarray:
    return sums[..., 0] / sums[..., 1]


def rows(values) -> np.ndarray:
    return np.column_stack([values, np.ones(len(values))])


def test_95_percent_intervals_hold_the_truth_about_95_times_of_100():
    generator = np.random.default_rng(1)
    covered = 0
    for trial in range(400):
        low, high = interval(rows(generator.exponential(2.0, size=80)), mean, resamples=400, seed=trial)
        covered += low <= 2.0 <= high
    assert 0.89 <= covered / 400 <= 0.98


def test_width_is_that_of_the_normal_approximation():
    values = np.random.default_rng(2).normal(size=2000)
    low, high = interval(rows(values), mean)
    assert (high - low) / 2 == pytest.approx(1.96 * values.std() / np.sqrt(2000), rel=0.1)
    narrow = interval(rows(values), mean, confidence=0.5)
    assert low < narrow[0] < narrow[1] < high


def test_equals_resampling_row_by_row_with_the_metric_itself():
    predictions = ["the cat sat on the mat", "a dog ran in the park today", "no", "it is on the table now"]
    references = ["the cat sat on a mat", "a dog ran in the park", "yes", "it is on the table there"]
    metric = load_metric("bleu")
    low, high = interval(metric.row_statistics(predictions, references), metric.score, resamples=60, seed=3)
    scores = []
    for draw in np.random.default_rng(3).integers(4, size=(60, 4)):
        drawn = [predictions[index] for index in draw], [references[index] for index in draw]
        scores.append(float(metric.score(metric.row_statistics(*drawn).sum(axis=0))))
    assert (low, high) == tuple(np.quantile(scores, [0.025, 0.975], method="nearest"))


def test_memory_is_bounded_and_chunks_change_nothing(monkeypatch):
    statistics = rows(np.random.default_rng(4).normal(size=50))
    whole = interval(statistics, mean, resamples=101)
    shapes = []

    def observed(sums):
        shapes.append(len(sums))
        return mean(sums)

    monkeypatch.setattr(bootstrap, "DRAWS_AT_ONCE", 500)
    assert interval(statistics, observed, resamples=101) == pytest.approx(whole)
    assert shapes == [10] * 10 + [1]


@pytest.mark.parametrize("values", [[], [3.0], [1.0, 1.0, 1.0]])
def test_no_interval_where_resampling_can_say_nothing(values):
    assert interval(rows(np.array(values)), mean) is None


def test_undefined_resamples_are_left_out():
    statistics = np.array([[4.0, 2.0], [0.0, 0.0]])  # a resample of the second row alone has no tokens
    perplexity = load_metric("perplexity")
    assert interval(statistics, perplexity.score) == pytest.approx((np.exp(2), np.exp(2)))
    assert interval(np.array([[np.nan, 1.0], [1.0, 1.0]]) * np.nan, perplexity.score) is None
