"""Perplexity from what a model said of each row: its negative log-likelihood and the tokens it was asked for."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from datasets import Value

from gptft.metrics.base import Array, RowMetric


class Perplexity(RowMetric):
    """exp(summed negative log-likelihoods / tokens): every supervised token weighs the same, whatever its row.

    Inputs: `negative_log_likelihoods`, in nats, summed over a row's supervised tokens, and `token_counts`.
    """

    inputs = ({"negative_log_likelihoods": Value("float64"), "token_counts": Value("int64")},)
    meaning = "exp of the mean negative log-likelihood over all supervised tokens"
    higher_is_better = False

    def row_statistics(self, negative_log_likelihoods: Sequence[float], token_counts: Sequence[int]) -> Array:
        """Pair the two numbers of a row: (rows, 2)."""
        rows = list(zip(negative_log_likelihoods, token_counts, strict=True))
        return np.array(rows, dtype=np.float64).reshape(-1, 2)

    def score(self, sums: Array) -> Array:
        """Compute the perplexity, (..., 2) to (...): infinite where it is beyond floating point."""
        with np.errstate(over="ignore"):
            return np.exp(super().score(sums))
