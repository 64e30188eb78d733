"""What gptft's own metrics share; most have a score that is a function of a sum over rows.

`row_statistics` gives k numbers a row and `score` turns their sum into the metric, so that a bootstrap resample costs
one weighted sum instead of a run of the metric.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar

import datasets
import evaluate
import numpy as np
from numpy.typing import NDArray

from gptft.metrics.catalogue import complete_options

Array = NDArray[np.float64]


class BuiltInMetric(evaluate.Metric):
    """An `evaluate.Metric` that says what it reads and means.

    Options (`tokenize`, `average`) are given to `compute`, as with the metrics of the Hub; `load_metric` can preset
    them. Their defaults and values are those of `gptft.metrics.catalogue`.
    """

    # Input name -> type of one row; several such mappings where a metric takes either. The names are those of the
    # fields of gptft.metrics.predictions.Predictions.
    inputs: ClassVar[tuple[dict[str, Any], ...]]
    meaning: ClassVar[str] = ""
    higher_is_better: ClassVar[bool] = True

    def definition(self, *inputs: Any, **options: Any) -> str:
        """Say what exactly is computed: a signature, or the averaging in words, with the options in force."""
        written = ", ".join(f"{key}={value}" for key, value in complete_options(self.name, options).items())
        return f"{self.meaning} ({written})" if written else self.meaning

    def _info(self) -> evaluate.MetricInfo:
        features = [datasets.Features(names) for names in self.inputs]
        return evaluate.MetricInfo(
            description=type(self).__doc__ or "", citation="", features=features if len(features) > 1 else features[0]
        )


class RowMetric(BuiltInMetric):
    """A metric whose value is `score(row_statistics(...).sum(axis=0))`."""

    def row_statistics(self, *inputs: Any, **options: Any) -> Array:
        """Give the statistics of each row, shape (rows, k).

        Raises:
            UserError: no such option or value, or a row that the metric cannot take.
        """
        return self._row_statistics(*inputs, **complete_options(self.name, options))

    @abstractmethod
    def _row_statistics(self, *inputs: Any, **options: Any) -> Array:
        """Give the statistics of each row, shape (rows, k), from all inputs and options."""

    def score(self, sums: Array) -> Array:
        """Give the metric for summed statistics, (..., k) to (...): here the ratio of two. NaN where undefined."""
        return ratio(sums[..., 0], sums[..., 1], np.nan)

    def _compute(self, **keywords: Any) -> dict[str, Any]:
        inputs = [keywords.pop(name) for name in self.inputs[0]]
        return {self.name: float(self.score(self.row_statistics(*inputs, **keywords).sum(axis=0)))}


def ratio(numerator: Array, denominator: Array, undefined: float = 0.0) -> Array:
    """Divide, with `undefined` where the denominator is not positive."""
    shape = np.broadcast_shapes(numerator.shape, denominator.shape)
    return np.divide(numerator, denominator, out=np.full(shape, undefined), where=denominator > 0)


def rows_of_two(rows: Any) -> Array:
    """Make statistics of shape (rows, 2) of pairs."""
    return np.array(list(rows), dtype=np.float64).reshape(-1, 2)
