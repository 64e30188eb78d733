"""Whether answers end by themselves."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from datasets import Value

from gptft.metrics.base import Array, RowMetric


class StopRate(RowMetric):
    """The share of answers that ended by themselves, from 0 to 1; the others ran into the limit of new tokens.

    Input: `stopped`, one boolean an answer.
    """

    inputs = ({"stopped": Value("bool")},)
    meaning = "share of answers that ended by themselves with the end-of-text token"

    def row_statistics(self, stopped: Sequence[bool]) -> Array:
        """Give 1 or 0 for a stop, and 1 for the row: (rows, 2)."""
        return np.array([(stop, 1) for stop in stopped], dtype=np.float64).reshape(-1, 2)
