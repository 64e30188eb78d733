"""Metrics that compare predicted numbers with the right ones."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from datasets import List, Value

from gptft.errors import UserError
from gptft.metrics.base import Array, RowMetric, ratio

Numbers = Sequence[float] | Sequence[Sequence[float]]


class _NumberMetric(RowMetric):
    inputs = (
        {"predictions": Value("float64"), "references": Value("float64")},
        {"predictions": Value("float64"), "references": List(Value("float64"))},
    )
    higher_is_better = False

    def _pairs(self, predictions: Sequence[float], references: Numbers) -> tuple[Array, Array]:
        """Give two arrays of shape (rows,); a reference may have come as a list of one."""
        predicted = np.array(list(predictions), dtype=np.float64)
        try:
            return predicted, np.array(list(references), dtype=np.float64).reshape(predicted.shape)
        except ValueError as error:
            raise UserError(f"metric '{self.name}': expected one number as the reference of each row.") from error


class Mae(_NumberMetric):
    """The mean of |prediction - reference|. Inputs: `predictions` and `references`, one number a row each."""

    meaning = "mean of |prediction - reference|"

    def _row_statistics(self, predictions: Sequence[float], references: Numbers) -> Array:
        predicted, expected = self._pairs(predictions, references)
        return np.stack([abs(predicted - expected), np.ones_like(predicted)], axis=1)


class Mse(_NumberMetric):
    """The mean of (prediction - reference)². Inputs: `predictions` and `references`, one number a row each."""

    meaning = "mean of (prediction - reference)²"

    def _row_statistics(self, predictions: Sequence[float], references: Numbers) -> Array:
        predicted, expected = self._pairs(predictions, references)
        return np.stack([(predicted - expected) ** 2, np.ones_like(predicted)], axis=1)


class Pearsonr(_NumberMetric):
    """Pearson's correlation coefficient, -1 to 1, NaN where either side has but one value.

    Inputs: `predictions` and `references`, one number a row each.
    """

    meaning = "Pearson's correlation coefficient of predictions and references"
    higher_is_better = True

    def _row_statistics(self, predictions: Sequence[float], references: Numbers) -> Array:
        """Give 1, both numbers, their squares and their product: (rows, 6)."""
        # The coefficient is that of standardised numbers too, whose sums of squares lose no digits.
        first, second = (
            (numbers - numbers.mean()) / (numbers.std() or 1) if len(numbers) else numbers
            for numbers in self._pairs(predictions, references)
        )
        return np.stack([np.ones_like(first), first, second, first**2, second**2, first * second], axis=1)

    def score(self, sums: Array) -> Array:
        """Compute the coefficient, (..., 6) to (...)."""
        count, first, second, first_squared, second_squared, product = np.moveaxis(sums, -1, 0)
        variances = [
            # What rounding leaves of a constant's variance is none.
            np.where(variance > 1e-12 * count * squares, variance, 0)
            for variance, squares in (
                (count * first_squared - first**2, first_squared),
                (count * second_squared - second**2, second_squared),
            )
        ]
        return np.clip(ratio(count * product - first * second, np.sqrt(variances[0] * variances[1]), np.nan), -1, 1)
