"""How near the top the right item stands among the candidates."""

from __future__ import annotations

from collections.abc import Sequence

from datasets import Value

from gptft.metrics.base import Array, RowMetric, rows_of_two


class HitAtK(RowMetric):
    """The share of rows whose right item is among the first k, from 0 to 1.

    Input: `ranks`, of the right item among the candidates, 1 for the first, 0 when it is not among them.
    Option of `compute`: `k` (10).
    """

    inputs = ({"ranks": Value("int64")},)
    meaning = "share of rows whose right item is among the first k"

    def _row_statistics(self, ranks: Sequence[int], k: int) -> Array:
        return rows_of_two((1 <= rank <= k, 1) for rank in ranks)


class Mrr(RowMetric):
    """The mean of 1 / rank of the right item, from 0 to 1.

    Input: `ranks`, of the right item among the candidates, 1 for the first, 0 when it is not among them.
    """

    inputs = ({"ranks": Value("int64")},)
    meaning = "mean of 1 / rank of the right item, 0 where it is not among the candidates"

    def _row_statistics(self, ranks: Sequence[int]) -> Array:
        return rows_of_two((1 / rank if rank > 0 else 0, 1) for rank in ranks)
