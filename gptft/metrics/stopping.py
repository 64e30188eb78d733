"""Whether answers end by themselves."""

from __future__ import annotations

from collections.abc import Sequence

from datasets import Value

from gptft.metrics.base import Array, RowMetric, rows_of_two


class StopRate(RowMetric):
    """The share of answers that ended by themselves, from 0 to 1; the others ran into the limit of new tokens.

    Input: `stopped`, one boolean an answer.
    """

    inputs = ({"stopped": Value("bool")},)
    meaning = "share of answers that ended by themselves with the end-of-text token"

    def _row_statistics(self, stopped: Sequence[bool]) -> Array:
        return rows_of_two((stop, 1) for stop in stopped)
