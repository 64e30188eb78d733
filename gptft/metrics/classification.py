"""Metrics of labels, equal to scikit-learn's with `zero_division=0`, and whether confidences can be believed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
from datasets import List, Value

from gptft.errors import UserError
from gptft.metrics.base import Array, RowMetric, ratio, rows_of_two

Label = str | int
Labels = Sequence[Label] | Sequence[Sequence[Label]]

MOST_CELLS = 30_000_000  # rows x classes: 720 MB of counts


class _LabelMetric(RowMetric):
    inputs = (
        {"predictions": Value("string"), "references": Value("string")},
        {"predictions": Value("string"), "references": List(Value("string"))},
        {"predictions": Value("int64"), "references": Value("int64")},
        {"predictions": Value("int64"), "references": List(Value("int64"))},
        {"predictions": List(Value("string")), "references": List(Value("string"))},
        {"predictions": List(Value("int64")), "references": List(Value("int64"))},
    )

    def _sets(self, predictions: Labels, references: Labels) -> tuple[list[set[Label]], list[set[Label]], bool]:
        """Give each row's predicted and true labels, and whether rows have several (multi-label)."""
        single = (str, int, np.integer)
        several = not all(isinstance(row, single) for row in predictions)
        predicted, true = (
            [{row} if isinstance(row, single) else set(row) for row in rows] for rows in (predictions, references)
        )
        for index, (_, row) in enumerate(zip(predicted, true, strict=True)):
            if not several and len(row) != 1:
                raise UserError(
                    f"metric '{self.name}': row {index} has {len(row)} labels as its reference but one prediction; "
                    "expected one label on both sides, or a list of labels on both sides."
                )
        return predicted, true, several

    def _counts(self, predictions: Labels, references: Labels) -> Array:
        """Count hit, predicted and true labels of each row by class: (rows, 3, classes)."""
        predicted, true, _ = self._sets(predictions, references)
        # Sorted, because the order of a set changes from run to run, and with it the last bit of a mean.
        labels = sorted(set().union(*predicted, *true), key=str)
        classes = {label: index for index, label in enumerate(labels)}
        if len(true) * len(classes) > MOST_CELLS:
            raise UserError(
                f"metric '{self.name}': {len(classes):,} different labels in {len(true):,} rows are too many to count "
                "by class; for free text use accuracy, exact_match or token_f1."
            )
        counts = np.zeros((len(true), 3, len(classes)))
        for side, rows in ((1, predicted), (2, true)):
            places = [(index, classes[label]) for index, row in enumerate(rows) for label in row]
            indices, columns = np.array(places, dtype=np.int64).reshape(-1, 2).T
            counts[indices, side, columns] = 1
        counts[:, 0] = counts[:, 1] * counts[:, 2]
        return counts


def _by_kind(sums: Array) -> Array:
    """Take sums, (..., 3 x classes), apart into those of hit, predicted and true labels: (3, ..., classes)."""
    return np.moveaxis(sums.reshape(*sums.shape[:-1], 3, sums.shape[-1] // 3), -2, 0)


class Accuracy(_LabelMetric):
    """The share of rows whose label is right, from 0 to 1; where rows have lists of labels, all of them.

    Inputs: `predictions` and `references`, a label (text or int) or a list of labels a row.
    """

    meaning = "share of rows whose label, or all of whose labels, are right"

    def _row_statistics(self, predictions: Labels, references: Labels) -> Array:
        predicted, true, _ = self._sets(predictions, references)
        return rows_of_two((ours == theirs, 1) for ours, theirs in zip(predicted, true, strict=True))


class _ByClass(_LabelMetric):
    # hits / (first x predicted + second x true)
    shares: ClassVar[tuple[float, float]]

    def _row_statistics(self, predictions: Labels, references: Labels, average: str) -> Array:
        """Give the counts by class, (rows, 3C); micro: (rows, 3); weighted: (rows, 3C + 1), the weights' sum last."""
        counts = self._counts(predictions, references)
        if average == "micro":
            return counts.sum(axis=2)
        by_class = counts.reshape(len(counts), -1)
        return np.column_stack([by_class, counts[:, 2].sum(axis=1)]) if average == "weighted" else by_class

    def score(self, sums: Array) -> Array:
        """Average over the classes present on either side, (..., k) to (...); 0 where nothing was to be divided."""
        weighted = sums.shape[-1] % 3
        hit, predicted, true = _by_kind(sums[..., : sums.shape[-1] - weighted])
        by_class = ratio(hit, self.shares[0] * predicted + self.shares[1] * true)
        weights = true if weighted else (predicted + true > 0).astype(np.float64)
        return ratio((by_class * weights).sum(axis=-1), weights.sum(axis=-1))


class F1(_ByClass):
    """F1 of the classes, from 0 to 1: the harmonic mean of precision and recall.

    Inputs: `predictions` and `references`, a label (text or int) or a list of labels a row.
    Option of `compute`: `average` (macro, micro, weighted by the number of true labels).
    """

    meaning = "F1 of the classes present in predictions or references, 0 where undefined"
    shares = (0.5, 0.5)


class Precision(_ByClass):
    """Right predictions of a class / all predictions of it, from 0 to 1. Inputs and option as for F1."""

    meaning = "precision of the classes present in predictions or references, 0 where undefined"
    shares = (1.0, 0.0)


class Recall(_ByClass):
    """Right predictions of a class / rows that have it, from 0 to 1. Inputs and option as for F1."""

    meaning = "recall of the classes present in predictions or references, 0 where undefined"
    shares = (0.0, 1.0)


class Mcc(_LabelMetric):
    """Matthews correlation coefficient for any number of classes, -1 to 1, 0 where undefined.

    Inputs: `predictions` and `references`, one label (text or int) a row.
    """

    meaning = "Matthews correlation coefficient of predictions and references over all classes, 0 where undefined"

    def _row_statistics(self, predictions: Labels, references: Labels) -> Array:
        """Give the counts by class: (rows, 3C)."""
        if self._sets(predictions, references)[2]:
            raise UserError("metric 'mcc' is defined for one label a row, and these rows have lists; use f1.")
        counts = self._counts(predictions, references)
        return counts.reshape(len(counts), -1)

    def score(self, sums: Array) -> Array:
        """Compute the coefficient from covariances, (..., 3C) to (...)."""
        hit, predicted, true = _by_kind(sums)
        rows = true.sum(axis=-1)
        covariance, predicted_variance, true_variance = (
            rows * total - (first * second).sum(axis=-1)
            for total, first, second in (
                (hit.sum(axis=-1), predicted, true),
                (rows, predicted, predicted),
                (rows, true, true),
            )
        )
        return ratio(covariance, np.sqrt(predicted_variance * true_variance))


class CalibrationError(RowMetric):
    """Expected calibration error, from 0 to 1: how far confidences are from the share of right answers.

    Inputs: `confidences`, from 0 to 1, and `correct`, one boolean a row. Option of `compute`: `bins` (15).
    """

    inputs = ({"confidences": Value("float64"), "correct": Value("bool")},)
    meaning = "mean over rows of |mean confidence - share of right answers| of their bin, bins of equal width"
    higher_is_better = False

    def _row_statistics(self, confidences: Sequence[float], correct: Sequence[bool], bins: int) -> Array:
        """Give 1 for the row, then its confidence less its correctness in the column of its bin: (rows, 1 + bins)."""
        values = np.array(list(confidences), dtype=np.float64)
        if not ((values >= 0) & (values <= 1)).all():
            raise UserError("metric 'calibration_error': expected confidences from 0 to 1.")
        statistics = np.zeros((len(values), 1 + bins))
        statistics[:, 0] = 1
        # A bin has its upper end: those of 15 are (0, 1/15], (1/15, 2/15], ...
        column = 1 + np.searchsorted(np.linspace(0, 1, bins + 1)[1:-1], values)
        statistics[np.arange(len(values)), column] = values - np.array(list(correct), dtype=np.float64)
        return statistics

    def score(self, sums: Array) -> Array:
        """Compute the error, (..., 1 + bins) to (...)."""
        return ratio(abs(sums[..., 1:]).sum(axis=-1), sums[..., 0], np.nan)
