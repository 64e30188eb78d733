"""Metrics of numbers: likelihoods, stops, ranks, regression."""

import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import mean_absolute_error, mean_squared_error

from gptft.errors import UserError
from gptft.metrics import load_metric


def test_perplexity_weighs_every_token_the_same():
    metric = load_metric("perplexity")
    found = metric.compute(negative_log_likelihoods=[2.0, 30.0], token_counts=[1, 15])
    assert found == {"perplexity": pytest.approx(math.exp(32 / 16))}


def test_perplexity_without_tokens_is_undefined_and_beyond_floating_point_infinite():
    metric = load_metric("perplexity")
    scores = metric.score(np.array([[0.0, 0.0], [1e6, 1.0], [0.0, 3.0]]))
    assert np.isnan(scores[0])
    assert scores[1:].tolist() == [math.inf, 1.0]


def test_bits_per_byte_of_a_fair_coin_a_byte_is_one():
    found = load_metric("bits_per_byte").compute(
        negative_log_likelihoods=[math.log(2), 0.0, 7 * math.log(2)], byte_counts=[1, 3, 4]
    )
    assert found == {"bits_per_byte": pytest.approx(1.0)}


def test_stop_rate_is_the_share_of_stops():
    assert load_metric("stop_rate").compute(stopped=[True, False, True, True]) == {"stop_rate": 0.75}


def test_ranks_count_from_one_and_zero_is_a_miss():
    ranks = [1, 2, 0, 10, 11]
    assert load_metric("hit_at_k").compute(ranks=ranks) == {"hit_at_k": 0.6}
    assert load_metric("hit_at_k:k=1").compute(ranks=ranks) == {"hit_at_k": 0.2}
    assert load_metric("mrr").compute(ranks=ranks) == {"mrr": pytest.approx((1 + 1 / 2 + 1 / 10 + 1 / 11) / 5)}
    assert load_metric("hit_at_k:k=3").definition(ranks).endswith("(k=3)")


NUMBERS = st.floats(-1e3, 1e3).map(lambda number: round(number, 3))
PAIRS = st.lists(st.tuples(NUMBERS, NUMBERS), min_size=2, max_size=30)


@settings(max_examples=100, deadline=None)
@given(pairs=PAIRS, offset=st.sampled_from([0.0, 1e6]))
def test_regression_equals_scikit_learn_and_scipy(pairs, offset):
    predictions, references = (np.array(pairs) + offset).T.tolist()
    found = {
        name: float(load_metric(name).compute(predictions=predictions, references=[[one] for one in references])[name])
        for name in ("mae", "mse", "pearsonr")
    }
    assert found["mae"] == pytest.approx(mean_absolute_error(references, predictions))
    assert found["mse"] == pytest.approx(mean_squared_error(references, predictions))
    if len(set(predictions)) == 1 or len(set(references)) == 1:
        assert math.isnan(found["pearsonr"])
    else:
        expected = scipy.stats.pearsonr(predictions, references).statistic
        assert found["pearsonr"] == pytest.approx(expected, abs=1e-6)


def test_the_correlation_of_a_resample_of_one_value_is_undefined():
    metric = load_metric("pearsonr")
    statistics = metric.row_statistics([0.1, 0.2, 0.7], [0.3, 0.5, 0.9])
    sums = np.array([[0, 0, 3.0], [3, 0, 0], [1, 1, 1], [0, 2, 1]]) @ statistics
    scores = metric.score(sums)
    assert np.isnan(scores[:2]).all()
    assert scores[2] == pytest.approx(scipy.stats.pearsonr([0.1, 0.2, 0.7], [0.3, 0.5, 0.9]).statistic)
    assert scores[3] == pytest.approx(1.0)


def test_several_numbers_as_a_reference_are_an_error():
    with pytest.raises(UserError, match="one number as the reference"):
        load_metric("mae").row_statistics([1.0, 2.0], [[1.0, 2.0], [1.0, 2.0]])
