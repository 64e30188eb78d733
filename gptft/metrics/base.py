"""What gptft's own metrics share: a score that is a function of a sum over rows.

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

Array = NDArray[np.float64]


class RowMetric(evaluate.Metric):
    """An `evaluate.Metric` whose value is `score(row_statistics(...).sum(axis=0))`.

    Options (`tokenize`, `lowercase`) are given to `compute`, as with the metrics of the Hub.
    """

    # Input name -> type of one row; several such mappings where a metric takes either. The names are those of the
    # fields of gptft.evaluation.scores.Predictions.
    inputs: ClassVar[tuple[dict[str, Any], ...]]
    meaning: ClassVar[str] = ""
    higher_is_better: ClassVar[bool] = True

    @abstractmethod
    def row_statistics(self, *inputs: Any, **options: Any) -> Array:
        """Give the statistics of each row, shape (rows, k)."""

    def score(self, sums: Array) -> Array:
        """Give the metric for summed statistics, (..., k) to (...): here the ratio of two. NaN where undefined."""
        numerator, denominator = sums[..., 0], sums[..., 1]
        return np.divide(numerator, denominator, out=np.full_like(numerator, np.nan), where=denominator > 0)

    def definition(self, *inputs: Any, **options: Any) -> str:
        """Say what exactly is computed: a signature, or the averaging in words."""
        return self.meaning

    def _info(self) -> evaluate.MetricInfo:
        features = [datasets.Features(names) for names in self.inputs]
        return evaluate.MetricInfo(
            description=type(self).__doc__ or "", citation="", features=features if len(features) > 1 else features[0]
        )

    def _compute(self, **inputs: Any) -> dict[str, Any]:
        return {self.name: float(self.score(self.row_statistics(**inputs).sum(axis=0)))}
