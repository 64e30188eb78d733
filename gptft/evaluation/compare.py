"""Is one run better than another? Paired tests on the same rows, with a plain verdict.

Shares of right rows (accuracy, exact match) are tested by McNemar's exact test (McNemar 1947): only rows on which the
two differ count. All other metrics are tested by the paired bootstrap (Koehn 2004): both are scored on the same rows
drawn again and again.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gptft.errors import UserError
from gptft.evaluation.bootstrap import quantiles, resampled_scores
from gptft.evaluation.scores import format_value, with_options
from gptft.metrics import load_metric, parse_metric
from gptft.runs.folder import RUNS, Run, find_run

if TYPE_CHECKING:
    from rich.table import Table

    from gptft.metrics.predictions import Predictions

SIGNIFICANCE = 0.05
RESAMPLES = 2000
MCNEMAR = ("accuracy", "exact_match")
"""Metrics that say of each row whether it is right."""


@dataclass(frozen=True)
class Comparison:
    """One metric of two runs on the same rows. `low` and `high` are the 95% interval of b - a, from the bootstrap."""

    metric: str
    rows: int
    a: float
    b: float
    low: float | None
    high: float | None
    p_value: float
    test: str
    verdict: str
    """`better` or `worse` (b than a, where p < 0.05), or `cannot tell` at this number of rows."""


def compare(
    a: str, b: str | None = None, *, metrics: Sequence[str] = (), split: str | None = None, runs: Path = RUNS
) -> list[Comparison]:
    """Compare two evaluated runs metric by metric.

    Args:
        a: a run.
        b: another; when left out, `a` is compared with its own base, which then is the first of the two.
        metrics: names; all that both were scored by when left out.
        split: the folder below `eval/`; when left out, `test` if there is one, else `validation`.
        runs: the folder of the runs.

    Raises:
        UserError: no such run, not evaluated, or evaluated on other rows.
    """
    first, second = (_evaluated(target, split, runs) for target in (a, b or a))
    content = [json.loads((folder / "scores.json").read_text(encoding="utf-8")) for folder in (first, second)]
    if content[0]["rows_fingerprint"] != content[1]["rows_fingerprint"]:
        raise UserError(
            f"{a} and {b} were evaluated on other rows, so that their scores cannot be paired. Evaluate both on the "
            f"same: gptft eval {b} --recipe RECIPE"
        )
    if b is None and not content[0]["base"]:
        raise UserError(f"{a} was evaluated without its base, or has none. If it has one: gptft eval {a}")
    said = _read(first, "" if b else "base_"), _read(second, "")
    if said[0][1] != said[1][1]:
        raise UserError(f"{a} and {b} answered other rows: evaluate both with the same `max_rows`.")
    both = [name for name in content[0]["scores"] if name in content[1]["scores"]]
    names = with_options(metrics, both) or both
    found = []
    for name in names:
        if (metric := _comparable(name, said[0][0], said[1][0])) is not None:
            found.append(_compare(name, metric, said[0][0], said[1][0]))
        elif metrics:
            raise UserError(f"--metric {name}: there are no paired rows to compute it on. Evaluate both by it first.")
    if not found:
        raise UserError("The two have no metric in common that can be compared row by row.")
    return found


def _evaluated(target: str, split: str | None, runs: Path) -> Path:
    run: Run | None = find_run(target, runs)
    if run is None:
        raise UserError(f"{target} is not a run. Expected a folder in {runs}/.")
    for name in [split] if split else ["test", "validation"]:
        if (run.evaluation(name) / "scores.json").is_file():
            return run.evaluation(name)
    raise UserError(f"{run.folder.name} has not been evaluated{f' on {split}' if split else ''}: gptft eval {target}")


def _read(folder: Path, prefix: str) -> tuple[Predictions, list[str]]:
    from gptft.evaluation.predictions import read_predictions

    try:
        return read_predictions(folder, prefix)
    except FileNotFoundError as error:
        raise UserError(f"{folder} has no predictions to compare: evaluate it again.") from error


def _comparable(name: str, first: Predictions, second: Predictions) -> Any:
    """The metric, where it is a function of rows that both have, else None."""
    from gptft.metrics.base import RowMetric
    from gptft.metrics.predictions import metric_inputs

    metric = load_metric(name) if parse_metric(name).known else None
    if not isinstance(metric, RowMetric):
        return None
    lengths = {len(values) for said in (first, second) for values in metric_inputs(metric, said)}
    return metric if len(lengths) == 1 and 0 not in lengths else None


def _compare(name: str, metric: Any, first: Predictions, second: Predictions) -> Comparison:
    from scipy.stats import binomtest

    from gptft.metrics.predictions import metric_inputs

    statistics = [metric.row_statistics(*metric_inputs(metric, said)) for said in (first, second)]
    before, after = (float(metric.score(rows.sum(axis=0))) for rows in statistics)
    samples = [resampled_scores(rows, metric.score, RESAMPLES) for rows in statistics]
    with np.errstate(invalid="ignore"):
        differences = samples[1] - samples[0]
    ends = quantiles(differences)
    defined = differences[~np.isnan(differences)]
    if parse_metric(name).name in MCNEMAR:
        right = [rows[:, 0] > 0 for rows in statistics]
        gained, lost = int((right[1] & ~right[0]).sum()), int((right[0] & ~right[1]).sum())
        p_value = float(binomtest(gained, gained + lost).pvalue) if gained + lost else 1.0
        test = f"McNemar's exact test, {gained:,} rows won and {lost:,} lost"
    else:
        beyond = min((defined <= 0).sum(), (defined >= 0).sum())
        p_value = min(1.0, 2 * float(beyond + 1) / (len(defined) + 1))
        test = f"paired bootstrap, {RESAMPLES:,} resamples"
    verdict = "cannot tell"
    if p_value < SIGNIFICANCE and after != before:
        verdict = "better" if (after > before) == metric.higher_is_better else "worse"
    low, high = ends or (None, None)
    return Comparison(name, len(statistics[0]), before, after, low, high, p_value, test, verdict)


def comparison_table(found: Sequence[Comparison], a: str, b: str) -> Table:
    """Lay out a comparison for a terminal, its verdict in words."""
    from rich.table import Table
    from rich.text import Text

    words = {"better": "green", "worse": "red", "cannot tell": "dim"}
    caption = Text("\n".join(f"{one.metric}: {one.test}" for one in found))
    title = Text(f"A: {a}\nB: {b}")
    table = Table(title=title, title_justify="left", caption=caption, caption_justify="left")
    for header in ("metric", "A", "B", "B - A [95% interval]", "p", "B is"):
        table.add_column(Text(header), justify="left" if header == "metric" else "right")
    for one in found:
        difference = _signed(one.metric, one.b - one.a)
        if one.low is not None and one.high is not None:
            difference += f" [{_signed(one.metric, one.low)}, {_signed(one.metric, one.high)}]"
        verdict = one.verdict if one.verdict != "cannot tell" else f"cannot tell ({one.rows:,} rows)"
        values = (format_value(one.metric, one.a), format_value(one.metric, one.b), difference, f"{one.p_value:.3g}")
        cells = [Text(one.metric), *map(Text, values), Text(verdict, words[one.verdict])]
        table.add_row(*cells)
    return table


def _signed(name: str, value: float) -> str:
    return ("+" if value > 0 else "") + format_value(name, value)


def to_json(found: Sequence[Comparison]) -> list[dict[str, Any]]:
    """The comparison as plain values."""
    return [asdict(one) for one in found]
