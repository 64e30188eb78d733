"""What metrics read: the answers of a model to some rows, with what is known of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from gptft.metrics import load_metric


@dataclass(frozen=True)
class Predictions:
    """What a model said of the rows of a split. Lists that were not computed stay empty.

    One entry an answer: `predictions` (a text, a label, a list of labels or a number), `references` (the right answers
    of the row, or its number), and `stopped` of generated answers, `confidences` and `correct` of labels, `ranks` (of
    the right answer among the candidates, from 1; 0 if it is none of them). One entry an example:
    `negative_log_likelihoods` (nats, summed over its supervised tokens), `token_counts` and `byte_counts` of these.
    """

    predictions: list[Any] = field(default_factory=list)
    references: list[Any] = field(default_factory=list)
    stopped: list[bool] = field(default_factory=list)
    confidences: list[float] = field(default_factory=list)
    correct: list[bool] = field(default_factory=list)
    ranks: list[int] = field(default_factory=list)
    negative_log_likelihoods: list[float] = field(default_factory=list)
    token_counts: list[int] = field(default_factory=list)
    byte_counts: list[int] = field(default_factory=list)


def metric_inputs(metric: Any, predictions: Predictions) -> list[list[Any]]:
    """The lists of `predictions` that one of gptft's metrics reads, in the order of its parameters."""
    return [getattr(predictions, name) for name in metric.inputs[0]]


def score_values(metrics: Sequence[str], predictions: Predictions) -> dict[str, float]:
    """The plain values of gptft's own metrics, by name, without intervals: for evaluation during training."""
    # With it comes `evaluate`, which takes a second to import: a training that scores no answers needs none.
    from gptft.metrics.base import RowMetric

    values = {}
    for name in metrics:
        metric: Any = load_metric(name)
        if isinstance(metric, RowMetric):
            statistics = metric.row_statistics(*metric_inputs(metric, predictions))
            values[name] = float(metric.score(statistics.sum(axis=0)))
        else:
            result = metric.compute(predictions=predictions.predictions, references=predictions.references)
            values[name] = float(result[metric.name])
    return values
