"""What a model said of each row: its negative log-likelihood, by the tokens it was asked for or by bytes of text."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from datasets import Value

from gptft.metrics.base import Array, RowMetric, rows_of_two


class Perplexity(RowMetric):
    """exp(summed negative log-likelihoods / tokens): every supervised token weighs the same, whatever its row.

    Inputs: `negative_log_likelihoods`, in nats, summed over a row's supervised tokens, and `token_counts`.
    """

    inputs = ({"negative_log_likelihoods": Value("float64"), "token_counts": Value("int64")},)
    meaning = "exp of the mean negative log-likelihood over all supervised tokens"
    higher_is_better = False

    def _row_statistics(self, negative_log_likelihoods: Sequence[float], token_counts: Sequence[int]) -> Array:
        return rows_of_two(zip(negative_log_likelihoods, token_counts, strict=True))

    def score(self, sums: Array) -> Array:
        """Compute the perplexity, (..., 2) to (...): infinite where it is beyond floating point."""
        with np.errstate(over="ignore"):
            return np.exp(super().score(sums))


class BitsPerByte(RowMetric):
    """Summed negative log-likelihoods in bits / bytes of text: comparable across models with different tokenizers.

    Inputs: `negative_log_likelihoods`, in nats, summed over a row, and `byte_counts`, of the same text in UTF-8.
    """

    inputs = ({"negative_log_likelihoods": Value("float64"), "byte_counts": Value("int64")},)
    meaning = "summed negative log-likelihoods in bits / bytes of the text in UTF-8"
    higher_is_better = False

    def _row_statistics(self, negative_log_likelihoods: Sequence[float], byte_counts: Sequence[int]) -> Array:
        return rows_of_two(zip(negative_log_likelihoods, byte_counts, strict=True))

    def score(self, sums: Array) -> Array:
        """Compute bits per byte, (..., 2) to (...)."""
        return super().score(sums) / np.log(2)
