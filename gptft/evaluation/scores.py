"""From what a model answered to a table of scores, each with its definition, rows and 95% interval."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from gptft.errors import GptftError, UserError
from gptft.evaluation.bootstrap import interval, quantiles
from gptft.metrics import expand, load_metric, parse_metric

if TYPE_CHECKING:
    import evaluate
    from rich.table import Table

    from gptft.metrics.base import BuiltInMetric
    from gptft.metrics.predictions import Predictions

CONFIDENCE = 0.95
RESAMPLES = 1000
# A metric that is not built in is run anew for each resample, so there are fewer, and none where that takes longer.
LOADED_RESAMPLES = 200
LOADED_SECONDS = 20.0


@dataclass(frozen=True)
class Score:
    """A metric's value on some rows. `low` and `high` are None where no interval can be given."""

    name: str
    value: float
    low: float | None
    high: float | None
    rows: int
    definition: str  # the sacreBLEU signature, or the averaging in words
    higher_is_better: bool | None  # None where gptft cannot know: a metric that is not built in


def load_metrics(names: Sequence[str], trust_remote: bool = False) -> dict[str, evaluate.EvaluationModule]:
    """Load metrics, so that a mistyped name is found before anything is generated.

    Raises:
        UserError: no such metric, it wants other inputs than predictions and references, or its code is not trusted.
        GptftError: a metric cannot be fetched.
    """
    metrics = {name: load_metric(name, trust_remote) for name in names}
    for name, metric in metrics.items():
        if not parse_metric(name).known:
            _input_formats(name, metric)
    return metrics


def with_options(asked: Sequence[str], known: Sequence[str]) -> list[str]:
    """Metrics by name; one that is asked for by its name alone has the options that it has in `known`."""
    names: list[str] = []
    for name in expand(asked):
        alike = [one for one in known if parse_metric(one).name == name]
        names.append(alike[0] if len(alike) == 1 else name)
    return names


def compute_scores(metrics: Mapping[str, evaluate.EvaluationModule], predictions: Predictions) -> list[Score]:
    """Score predictions by each metric, in the order given.

    Args:
        metrics: what `load_metrics` gives. A metric that is not built in may give several scores.
        predictions: with the lists that the metrics read.

    Raises:
        GptftError: a metric fails, or has no rows to read.
    """
    from gptft.metrics.base import BuiltInMetric

    scores: list[Score] = []
    for name, metric in metrics.items():
        if isinstance(metric, BuiltInMetric):
            scores.append(_built_in_score(name, metric, predictions))
        else:
            scores += _loaded_scores(name, metric, predictions)
    return scores


def _built_in_score(name: str, metric: BuiltInMetric, predictions: Predictions) -> Score:
    from gptft.metrics.base import RowMetric
    from gptft.metrics.predictions import metric_inputs

    inputs = metric_inputs(metric, predictions)
    _refuse_empty(name, inputs)
    ends = None
    if isinstance(metric, RowMetric):
        statistics = metric.row_statistics(*inputs)
        value = float(metric.score(statistics.sum(axis=0)))
        ends = interval(statistics, metric.score, confidence=CONFIDENCE, resamples=RESAMPLES)
    else:
        result = metric.compute(**dict(zip(metric.inputs[0], inputs, strict=True))) or {}
        value = float(result[metric.name])
    return Score(
        name=name,
        value=value,
        low=ends and ends[0],
        high=ends and ends[1],
        rows=len(inputs[0]),
        definition=metric.definition(*inputs),
        higher_is_better=metric.higher_is_better,
    )


def _loaded_scores(name: str, metric: evaluate.EvaluationModule, predictions: Predictions) -> list[Score]:
    """Run a metric of the Hub or of the user, once and, where it is quick, on resampled rows."""
    answers, references = predictions.predictions, predictions.references
    _refuse_empty(name, [answers, references])
    formats = _input_formats(name, metric)
    from datasets import Value

    flat = all(len(row) == 1 for row in references) and any(isinstance(f["references"], Value) for f in formats)

    def run(indices: Sequence[int]) -> dict[str, float]:
        rows = [references[index][0] if flat else references[index] for index in indices]
        try:
            result = metric.compute(predictions=[answers[index] for index in indices], references=rows) or {}
        except Exception as error:
            raise GptftError(f"metric '{name}' failed on these predictions: {error}") from error
        values = {key: float(value) for key, value in result.items() if isinstance(value, (int, float, np.number))}
        if not values:
            raise GptftError(f"metric '{name}' gives no single number but {', '.join(result) or 'nothing'}.")
        for main in (metric.name, "score"):
            if main in values:
                return {metric.name: values[main]}
        return {key if key.startswith(metric.name) else f"{metric.name}_{key}": values[key] for key in values}

    started = time.monotonic()
    values = run(range(len(answers)))
    seconds = time.monotonic() - started
    resampled: list[dict[str, float]] = []
    if len(answers) > 1 and seconds * LOADED_RESAMPLES <= LOADED_SECONDS:
        draws = np.random.default_rng(0).integers(len(answers), size=(LOADED_RESAMPLES, len(answers)))
        try:
            resampled = [run(draw.tolist()) for draw in draws]
        except GptftError:  # not defined on some resample (no answer but empty ones): the table says "no interval"
            resampled = []
    scores = []
    for key, value in values.items():
        ends = quantiles(np.array([sample[key] for sample in resampled if key in sample]), CONFIDENCE)
        if ends and ends[0] == ends[1]:
            ends = None
        definition = f"'{key}' of the metric '{name}', computed by evaluate"
        scores.append(Score(key, value, ends and ends[0], ends and ends[1], len(answers), definition, None))
    return scores


def _input_formats(name: str, metric: evaluate.EvaluationModule) -> list[Any]:
    formats = metric.features if isinstance(metric.features, list) else [metric.features]
    wanted = sorted(formats[0])
    if wanted != ["predictions", "references"]:
        raise UserError(f"metric '{name}' reads {', '.join(wanted)}; gptft has predictions and references to give.")
    return formats


def _refuse_empty(name: str, inputs: Sequence[Sequence[Any]]) -> None:
    if not all(inputs):
        raise GptftError(f"metric '{name}' has no rows to score: the split is empty or its inputs were not computed.")


def format_value(name: str, value: float) -> str:
    """Write a value as is usual for the metric: BLEU like sacreBLEU, perplexity with four significant digits."""
    metric = parse_metric(name).name
    if metric in ("bleu", "chrf", "ter"):
        return f"{value:.2f}"
    if metric in ("perplexity", "mae", "mse"):
        return f"{value:#.4g}".rstrip(".") if abs(value) < 1000 else f"{value:.0f}"
    return f"{value:.3f}"


def scores_table(scores: Sequence[Score], base: Sequence[Score] = (), title: str | None = None) -> Table:
    """Lay out scores for a terminal, beside those of the base where it was scored; `base` may lack metrics."""
    from rich.table import Table
    from rich.text import Text

    notes = [f"{score.name}: {score.definition}" for score in scores]
    if any(score.low is None for score in [*scores, *base]):
        notes.append("no interval: fewer than two rows, rows all alike, or a metric that is not resampled")
    table = Table(title=title, caption=Text("\n".join(notes)), title_justify="left", caption_justify="left")
    table.add_column("metric")
    table.add_column("rows", justify="right")
    # Text, because rich would read square brackets as markup.
    for header in ["score [95% interval]", *(["base [95% interval]", "change"] if base else [])]:
        table.add_column(Text(header), justify="right")
    base_by_name = {score.name: score for score in base}
    for score in scores:
        cells = [Text(score.name), Text(f"{score.rows:,}"), Text(_with_interval(score))]
        if before := base_by_name.get(score.name):
            cells += [Text(_with_interval(before)), Text(*_change(score, before))]
        table.add_row(*cells)
    return table


def runs_table(evaluations: Sequence[tuple[str, str, str, Sequence[Score]]]) -> Table:
    """One table of several evaluations, each as (name, split, fingerprint of its rows, scores)."""
    from rich.table import Table
    from rich.text import Text

    notes = {score.name: f"{score.name}: {score.definition}" for *_, scores in evaluations for score in scores}
    caption = "\n".join(notes.values())
    if len({rows for _, _, rows, _ in evaluations}) > 1:
        caption = "These are scores of different rows, which cannot be held against each other.\n" + caption
    table = Table(caption=Text(caption), title="scores [95% interval]", title_justify="left", caption_justify="left")
    table.add_column("metric")
    for name, split, _, _ in evaluations:
        table.add_column(Text(f"{name} ({split})"), justify="right")
    for metric in notes:
        found = [next((one for one in scores if one.name == metric), None) for *_, scores in evaluations]
        table.add_row(Text(metric), *(Text(_with_interval(one) if one else "") for one in found))
    return table


def _with_interval(score: Score) -> str:
    value = format_value(score.name, score.value)
    if score.low is None or score.high is None:
        return f"{value} [no interval]"
    return f"{value} [{format_value(score.name, score.low)}, {format_value(score.name, score.high)}]"


def _change(score: Score, before: Score) -> tuple[str, str]:
    """Give the difference and its colour: green for the better, red for the worse, none where that is unknown."""
    difference = score.value - before.value
    text = ("+" if difference > 0 else "") + format_value(score.name, difference)
    if score.higher_is_better is None or not difference:
        return text, ""
    return text, "green" if (difference > 0) == score.higher_is_better else "red"


def to_json(scores: Sequence[Score], base: Sequence[Score] = ()) -> dict[str, Any]:
    """Give the content of scores.json: by metric its value, interval, rows and definition, and the same of the base.

    What is not a finite number (the perplexity of a model that diverged) becomes null, for JSON has no other word.
    """
    return {
        "confidence": CONFIDENCE,
        "scores": {score.name: _finite(asdict(score)) for score in scores},
        "base": {score.name: _finite(asdict(score)) for score in base} or None,
    }


def _finite(row: dict[str, Any]) -> dict[str, Any]:
    return {key: None if isinstance(value, float) and not math.isfinite(value) else value for key, value in row.items()}
