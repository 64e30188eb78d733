"""The report of a run, or of several side by side: one HTML file that needs no network and runs no script."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup
from rich.console import Console
from rich.markup import escape

from gptft.evaluation.confusion import worst_confusions
from gptft.files import write_text_atomically
from gptft.recipe.cards import portable_recipe
from gptft.report import charts
from gptft.report.facts import cell, data_rows, definitions, is_file, training_facts
from gptft.report.samples import RANKED, choose_samples, read_rows
from gptft.runs.folder import Run
from gptft.runs.listing import compare_runs, read_evaluations, read_recipe

NAME = "report.html"
COLOURS = 8


def write_report(runs: Sequence[Run], output: Path | None = None) -> Path:
    """Write the page about one run, or about several side by side.

    Args:
        runs: one or more; what a run does not have (yet) is left out of the page.
        output: the file; by default report.html in the run, or, of several runs, in the current folder.

    Returns:
        The file that was written.

    Raises:
        GptftError: it cannot be written.
    """
    file = output or (runs[0].folder / NAME if len(runs) == 1 else Path(NAME))
    write_text_atomically(file, render(runs))
    return file


def add_report(run: Run, console: Console) -> None:
    """Write a run's page after its training or evaluation, and say where; a failure costs no more than the page."""
    try:
        console.print(f"Report: {escape(str(write_report([run])))}", highlight=False, soft_wrap=True)
    except Exception as error:
        console.print(f"[yellow]Warning:[/yellow] no {NAME}: {escape(f'{type(error).__name__}: {error}')}")


def render(runs: Sequence[Run]) -> str:
    """The page as HTML. Whatever comes from data, recipes and models is escaped."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    options: dict[str, Any] = {"trim_blocks": True, "lstrip_blocks": True, "undefined": StrictUndefined}
    environment = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=True, **options)
    logs = {run.folder.name: _with_speed(run.log()) for run in runs}
    evaluations = [dict(read_evaluations(run)) for run in runs]
    # The test split first, as of each run.
    names = sorted(dict.fromkeys(name for found in evaluations for name in found), key=lambda name: name != "test")
    environment.filters["place_name"] = _place_name
    return environment.get_template("page.html.jinja").render(
        title=", ".join(run.folder.name for run in runs),
        ranked=RANKED,
        runs=[_run(run, index) for index, run in enumerate(runs)],
        differences=compare_runs(runs) if len(runs) > 1 else {},
        curves={"tokens": _curves(logs, "tokens"), "time": _curves(logs, "seconds")},
        splits=[_split(name, runs, evaluations) for name in names],
    )


def _place_name(value: Any) -> Any:
    """A place on this disk by its name alone, as in the card; anything else as it is."""
    return Path(value).name if isinstance(value, str) and is_file(value) else value


def _run(run: Run, index: int) -> dict[str, Any]:
    manifest, recipe = run.manifest, read_recipe(run)
    base = manifest.get("base", {})
    used = base.get("used")
    lengths = {}
    for split, counts in manifest.get("examples", {}).items():
        lengths[split] = {**counts, "chart": ""}
        if counts.get("length_counts"):
            bars = counts["length_step"], counts["length_counts"], manifest.get("max_length")
            lengths[split]["chart"] = charts.histogram(*bars, "tokens", "examples")
    return {
        "name": run.folder.name,
        "style": f"c{index % COLOURS}",
        "description": recipe.get("description") or "",
        "state": run.state,
        "reason": manifest.get("reason") if run.state == "failed" else "",
        "base": _place_name(used) if used else "from scratch",
        "fallback": base.get("fallback_reason") and base["requested"],
        "facts": training_facts(manifest, recipe) if manifest else [],
        "data": data_rows(manifest),
        "warnings": manifest.get("data", {}).get("warnings", []),
        "lengths": lengths,
        "recipe": portable_recipe(run.recipe_file.read_text(encoding="utf-8")),
    }


def _curves(logs: dict[str, list[dict[str, Any]]], axis: str) -> list[tuple[str, Markup]]:
    """Charts of all that was logged, (title, picture), against `tokens` or `seconds` of the lines of each run's log."""
    longest = max((line.get("seconds", 0) for lines in logs.values() for line in lines), default=0)
    units = {3600: "hours", 60: "minutes", 1: "seconds"}
    unit, label = next((size, name) for size, name in units.items() if longest >= 2 * size or size == 1)
    if axis == "tokens":
        unit, label = 1, "tokens trained on"
    known = {name for lines in logs.values() for line in lines for name in line if name.startswith("eval_")}
    scores = sorted(known - {"eval_loss", "eval_runtime"})
    pictures: dict[str, list[tuple[str, str]]] = {
        "loss (nats a token, or a label)": [("loss", ""), ("eval_loss", " dashed")],
        **{f"{name.removeprefix('eval_')}, validation": [(name, " dashed")] for name in scores},
        "learning rate": [("learning_rate", "")],
        "tokens a second": [("speed", "")],
    }
    drawn = []
    for title, measures in pictures.items():
        series = [
            charts.Series(
                f"{run} {measure}" if len(logs) > 1 else measure,
                [(line[axis] / unit, line[measure]) for line in lines if axis in line and measure in line],
                f"c{index % COLOURS}{dashes}",
            )
            for index, (run, lines) in enumerate(logs.items())
            for measure, dashes in measures
        ]
        drawn.append((title, charts.line_chart(series, label, title)))
    return [(title, picture) for title, picture in drawn if picture]


def _with_speed(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The lines of a log, those of training steps with the tokens a second since the line before."""
    found = []
    before: dict[str, Any] = {"tokens": 0, "seconds": 0.0}
    for line in lines:
        seconds = line.get("seconds", 0) - before.get("seconds", 0)
        speed = {"speed": (line["tokens"] - before["tokens"]) / seconds} if "loss" in line and seconds > 0 else {}
        found.append({**line, **speed})
        before = line
    return found


def _split(name: str, runs: Sequence[Run], evaluations: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """All that evaluations on one split gave, of the runs that have one."""
    found = [(run, contents[name]) for run, contents in zip(runs, evaluations, strict=True) if name in contents]
    called = [run.folder.name if len(runs) > 1 else "this run" for run, _ in found]
    columns = list(zip(called, (content["scores"] for _, content in found), strict=True))
    # Runs of the same base and rows share its scores.
    bases = {(one["base_model"], one["rows_fingerprint"]): one["base"] for _, one in found if one.get("base")}
    columns += [(f"base {_place_name(base)}", scores) for (base, _), scores in bases.items()]
    metrics = dict.fromkeys(metric for _, scores in columns for metric in scores)
    counts = {metric: next(scores[metric]["rows"] for _, scores in columns if metric in scores) for metric in metrics}
    rows = [(run, content, read_rows(run.evaluation(name))) for run, content in found]
    matrices, calibrations = [], []
    for run, content, answered in rows:
        if matrix := (content.get("report") or {}).get("confusion_matrix"):
            matrices.append((run.folder.name, matrix, worst_confusions(**matrix, count=10)))
        sure = [(row["confidence"], row["correct"]) for row in answered if "confidence" in row and "correct" in row]
        if sure:
            confidences, correct = zip(*sure, strict=True)
            calibrations.append((run.folder.name, charts.reliability(confidences, correct), len(sure)))
    models = [(who, "", answered) for who, (*_, answered) in zip(called, rows, strict=True)]
    if found[0][1].get("base"):
        models.append(("base", "base_", rows[0][2]))
    return {
        "name": name,
        "columns": [column for column, _ in columns],
        "scores": [(metric, counts[metric], [cell(scores.get(metric)) for _, scores in columns]) for metric in metrics],
        "same_rows": len({content["rows_fingerprint"] for _, content in found}) == 1,
        "definitions": definitions([(name, content) for _, content in found]),
        "matrices": matrices,
        "calibrations": calibrations,
        "samples": choose_samples(models),
        "answered": len(rows[0][2]),
    }
