import math

import numpy as np
import pytest

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


def test_stop_rate_is_the_share_of_stops():
    assert load_metric("stop_rate").compute(stopped=[True, False, True, True]) == {"stop_rate": 0.75}
