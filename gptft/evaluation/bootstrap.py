"""How far a score would move with other rows of the same kind: the percentile bootstrap over rows."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

DRAWS_AT_ONCE = 4_000_000  # rows x resamples held in memory: 32 MB for the drawn rows, 32 MB for their counts


def interval(
    statistics: Array,
    score_function: Callable[[Array], Array],
    confidence: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> tuple[float, float] | None:
    """Estimate the interval in which the score of such rows lies.

    Args:
        statistics: what each row adds to the score, shape (rows, k).
        score_function: turns summed statistics into scores, (resamples, k) to (resamples,).
        confidence: the share of resampled scores inside the interval.
        resamples: how many times as many rows are drawn with replacement.
        seed: the same seed and rows give the same interval.

    Returns:
        The low and the high end; None where resampling can say nothing: fewer than two rows, rows that are all
        alike (20 right answers of 20 do not mean that the next one cannot be wrong), or a score that is not defined.
    """
    if len(statistics) < 2 or (statistics == statistics[0]).all():
        return None
    return quantiles(resampled_scores(statistics, score_function, resamples, seed), confidence)


def resampled_scores(
    statistics: Array, score_function: Callable[[Array], Array], resamples: int = 1000, seed: int = 0
) -> Array:
    """Scores of as many rows drawn with replacement, again and again, (resamples); arguments as `interval`.

    The draws depend on the number of rows and the seed alone: two models scored on the same rows are drawn together.
    """
    rows = len(statistics)
    generator = np.random.default_rng(seed)
    at_once = max(1, DRAWS_AT_ONCE // rows)
    scores = []
    for start in range(0, resamples, at_once):
        size = min(at_once, resamples - start)
        drawn = generator.integers(rows, size=(size, rows)) + np.arange(size)[:, None] * rows
        times_drawn = np.bincount(drawn.ravel(), minlength=size * rows).reshape(size, rows)
        scores.append(score_function(times_drawn.astype(np.float64) @ statistics))
    return np.concatenate(scores)


def quantiles(scores: Array, confidence: float = 0.95) -> tuple[float, float] | None:
    """Give the ends of the middle `confidence` of the resampled scores, leaving out undefined ones (NaN)."""
    scores = scores[~np.isnan(scores)]
    if not len(scores):
        return None
    # "nearest" takes a score that occurred; interpolation would make NaN between two infinite perplexities.
    low, high = np.quantile(scores, [(1 - confidence) / 2, (1 + confidence) / 2], method="nearest")
    return float(low), float(high)
