"""What types cannot say: files that exist, metrics that can be computed, settings that fit each other.

Each check looks only at values of the right shape, so that all of a recipe's mistakes are found at once.
"""

from __future__ import annotations

import os
import re
from contextlib import suppress
from difflib import get_close_matches
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from gptft.errors import UserError
from gptft.metrics.catalogue import BUILT_IN, GROUPS, MetricSpec, expand, parse_metric
from gptft.recipe import fields, schema, sources
from gptft.recipe.explain import found, report_errors, report_unknown
from gptft.recipe.findings import FINDINGS
from gptft.recipe.lines import KeyPath
from gptft.recipe.reading import Reading
from gptft.recipe.templates import template_fields

SECTION_TASKS = {"template": ("classification", "completion"), "classification": ("classification",)}
"""Sections that only some tasks read."""
TRACKERS = {
    "tensorboard": ("tensorboard", "tensorboardX"),
    "wandb": ("wandb",),
    "mlflow": ("mlflow",),
    "trackio": ("trackio",),
}
"""Packages for `training.report_to`; transformers knows more, and finds missing ones when training begins."""
_EVALUATE_NEIGHBOURS = ("bleurt", "chr_f")  # metrics of `evaluate` whose names are near gptft's own


def check(reading: Reading) -> None:
    """Report what is wrong with the recipe beyond its types, and make its paths absolute."""
    check_fields(reading)
    check_data(reading)
    check_model(reading)
    check_task(reading)
    check_training(reading)
    check_metrics(reading)


def check_fields(reading: Reading) -> None:
    """Hold the sections that carry fields of Hugging Face classes against those classes."""
    _check_section(reading, ("training",))
    _check_section(reading, ("evaluation", "generation"))
    adapter, known = reading.get("adapter", "type"), fields.adapter_types()
    if isinstance(adapter, str) and adapter in known:
        _check_section(reading, ("adapter",), adapter)
    elif isinstance(adapter, str):
        near = get_close_matches(adapter.lower(), known, 1)
        hint = f"did you mean '{near[0]}'?" if near else f"expected one of {', '.join(sorted(known))}"
        reading.report(("adapter", "type"), f"found '{adapter}', which is no adapter of the installed peft; {hint}")
    if reading.get("model", "base") in (None, "starter"):
        return _check_section(reading, ("model", "config"))
    # Other bases may have other fields: they are checked when the base is loaded.
    config = reading.get("model", "config")
    for key in fields.MANAGED["model.config"].keys() & set(config if isinstance(config, dict) else ()):
        report_unknown(reading, ("model", "config", key))


def _check_section(reading: Reading, path: KeyPath, adapter: str = "lora") -> None:
    values = reading.get(*path)
    if not isinstance(values, dict):
        return
    own = {"type"} if path == ("adapter",) else set()
    theirs = {key: value for key, value in values.items() if key not in own}
    try:
        fields.model_of(".".join(path), adapter).model_validate(theirs)
    except ValidationError as error:
        report_errors(reading, error, path)


def data_sources(data: Any) -> list[tuple[KeyPath, str]]:
    """Each source's key and text, of those that have the right shape."""
    pairs: list[tuple[KeyPath, str]] = []
    for split in ("train", "validation", "test"):
        value = data.get(split) if isinstance(data, dict) else None
        items = {("data", split, n): item for n, item in enumerate(value)} if isinstance(value, list) else {}
        for path, item in items.items() if items else [(("data", split), value)]:
            if isinstance(item, dict):
                path, item = (*path, "path"), item.get("path")
            if isinstance(item, str):
                pairs.append((path, item))
    return pairs


def check_data(reading: Reading) -> None:
    """Paths exist and have something in them; shares leave rows to train on."""
    for path, text in data_sources(reading.get("data")):
        try:
            resolved = sources.resolve(text, reading.folders(path))
        except (sources.SourceError, OSError, ValueError) as error:
            reading.report(path, str(error))
            continue
        reading.put(path, resolved)
        for option in ("name", "split", "revision") if os.path.isabs(resolved) and path[-1] == "path" else ():
            if reading.get(*path[:-1], option) is not None:
                reading.report((*path[:-1], option), f"applies to data sets on the Hub, but {text} is on this disk")
    accepted = reading.get("data", "accept")
    for index, name in enumerate(accepted if isinstance(accepted, list) else []):
        if isinstance(name, str) and name not in FINDINGS:
            near = get_close_matches(name, FINDINGS, 1)
            hint = f"did you mean '{near[0]}'?" if near else f"expected one of {', '.join(FINDINGS)}"
            reading.report(("data", "accept", index), f"found '{name}', which `gptft inspect` never finds; {hint}")
    if reading.get("data", "streaming") is True:
        _check_streaming(reading)
    shares = [reading.get("data", split) for split in ("validation", "test")]
    if all(isinstance(share, float) and 0 < share < 1 for share in shares) and sum(shares) >= 1:
        message = f"found {shares[0]} for validation and {shares[1]} for test: nothing is left to train on"
        reading.report(("data", "validation"), message)


def _check_streaming(reading: Reading) -> None:
    if reading.get("training", "max_steps") is None:
        reading.report(("training", "max_steps"), "is missing: a stream (data.streaming) has no end of its own")
    for split in ("validation", "test"):
        if isinstance(reading.get("data", split), float):
            reading.report(("data", split), "found a share, but train is streamed: give a source of its own")
    if reading.get("task") == "classification":
        reading.report(("data", "streaming"), "classification reads all labels before it begins: leave it out")


def check_model(reading: Reading) -> None:
    """The base can exist, and has what the recipe asks of it."""
    # A relative folder of a model lies beside the recipe, or here (where `runs/` is).
    folders = [reading.folder, Path.cwd()]
    for key in ("base", "tokenizer"):
        text = reading.get("model", key)
        if not isinstance(text, str):
            continue
        try:
            resolved = sources.resolve_model(text, folders)
        except (sources.SourceError, OSError, ValueError) as error:
            reading.report(("model", key), str(error))
            continue
        reading.put(("model", key), resolved)
        local = os.path.isabs(resolved) or resolved == "starter"
        if key == "base" and local and reading.get("model", "revision") is not None:
            reading.report(("model", "revision"), f"applies to a base on the Hub, but {text} is on this disk")
    model = reading.get("model")
    if isinstance(model, dict) and model.get("base", "") is None:
        if not model.get("config"):
            message = "base is null (from scratch): give the shape, as in {n_layer: 6, n_head: 8, n_embd: 512}"
            reading.report(("model", "config"), message)
        if reading.get("adapter"):
            reading.report(("adapter",), "an adapter needs a trained base, but base is null (from scratch)")


def check_task(reading: Reading) -> None:
    """Sections belong to the task, templates name columns, and the settings of labels fit each other."""
    task = str(reading.get("task"))
    for section, tasks in SECTION_TASKS.items():
        if reading.get(section) and task in schema.DEFAULT_METRICS and task not in tasks:
            reading.report((section,), f"is read by the task {' or '.join(tasks)}, but the task is {task}")
    for key in ("prompt", "completion"):
        template = reading.get("template", key)
        if not isinstance(template, str):
            continue
        try:
            named = template_fields(template)
        except ValueError as error:
            reading.report(("template", key), str(error))
            continue
        if not named:
            reading.report(("template", key), f"found '{template}', which takes in no column: write one as {{name}}")
    if task == "classification" and reading.get("template", "completion") is not None:
        reading.report(
            ("template", "completion"), "the task classification has labels, the column `label`, in its place"
        )

    unread = {"classification": ("generation", "during_training"), "pretraining": ("during_training",)}
    for key in unread.get(str(task), ()):
        if reading.get("evaluation", key):
            reading.report(("evaluation", key), f"does nothing here: the task {task} generates no answers to score")
    if smoothing := reading.get("training", "label_smoothing_factor"):
        kind = reading.get("classification", "problem_type") if task == "classification" else None
        if kind in ("multi_label_classification", "regression"):
            message = f"found {smoothing}, but only single labels and tokens can be smoothed, not {kind}"
            reading.report(("training", "label_smoothing_factor"), message)

    def setting(key: str) -> Any:
        return reading.get("classification", key)

    kind, head, path = setting("problem_type"), setting("head"), "classification"
    if head == "lm" and kind in ("multi_label_classification", "regression"):
        reading.report((path, "head"), f"`lm` chooses one label by its word; {kind} needs `head: sequence`")
    for key in ("label_words", "language_model_weight"):
        if setting(key) and head != "lm":
            reading.report((path, key), "applies to `head: lm` only")
    if kind == "regression":
        for key in ("labels", "class_weights", "out_of_scope", "threshold"):
            if setting(key) is not None:
                reading.report((path, key), "does not apply to a number (problem_type: regression)")
    elif kind == "multi_label_classification" and setting("out_of_scope") is not None:
        reading.report((path, "out_of_scope"), "with several labels, a row may have none: leave it out")
    elif (setting("threshold") is None) != (setting("out_of_scope") is None) and kind != "multi_label_classification":
        missing = "threshold" if setting("threshold") is None else "out_of_scope"
        reading.report((path, missing), "is missing: `out_of_scope` is answered below `threshold`, so both are needed")


def check_training(reading: Reading) -> None:
    """Trackers are there, what evaluates in training has data, and the best model is told by what is measured then."""
    report_to = reading.get("training", "report_to")
    for name in report_to if isinstance(report_to, list) else [report_to]:
        if name in TRACKERS and not any(map(find_spec, TRACKERS[name])):
            message = f"found '{name}', which is not installed: pip install {TRACKERS[name][0]}"
            reading.report(("training", "report_to"), message)
    if reading.get("data", "validation") is None:
        wanted = [(("training", "eval_strategy"), "no"), (("training", "load_best_model_at_end"), False)]
        wanted += [(("evaluation", key), None) for key in ("during_training", "early_stopping_patience")]
        for path, off in wanted:
            value = reading.get(*path)
            if value not in (None, off):
                reading.report(path, f"found {found(value)}, but there is no data.validation to evaluate on")
    check_measured(reading, ("training", "metric_for_best_model"))


def check_measured(reading: Reading, path: KeyPath) -> None:
    """The metric under `path` is one that each evaluation in training gives."""
    best = reading.get(*path)
    measured = ["loss", *_measured_in_training(reading)]
    if isinstance(best, str) and best.removeprefix("eval_") not in measured:
        message = f"found '{best}', expected one of {', '.join(measured)}: others are computed after training"
        if reading.get("task") in ("dialogue", "completion") and not reading.get("evaluation", "during_training"):
            message += " (or, with `evaluation.during_training`, on generated answers)"
        reading.report(path, message)


def _measured_in_training(reading: Reading) -> list[str]:
    """The metrics that each evaluation in training gives."""
    task = reading.get("task")
    names = reading.get("evaluation", "metrics")
    if not isinstance(names, list):
        kind = reading.get("classification", "problem_type")
        names = schema.PROBLEM_METRICS.get(str(kind), []) or schema.DEFAULT_METRICS.get(str(task), [])
    needs = {"labels", "confidences", "numbers"} if task == "classification" else {"answers", "labels"}
    measured = [] if task == "classification" else ["perplexity"]
    if task == "classification" or reading.get("evaluation", "during_training"):
        for name in map(str, names):
            with suppress(UserError):
                measured += [
                    one for one in expand([name]) if (known := parse_metric(one).known) and known.needs in needs
                ]
    return measured


_MEASURED: dict[str, set[str]] = {
    "pretraining": {"likelihoods"},
    "classification": {"labels", "confidences", "numbers"},
    "dialogue": {"answers", "labels", "likelihoods"},
    "completion": {"answers", "labels", "likelihoods", "ranks"},
}
"""What metrics of each task can need; see `gptft.metrics.catalogue`."""


def unfit_metric(task: str, metric: MetricSpec, kind: str = "") -> str | None:
    """Why a metric measures nothing that a task has; None where it does.

    Args:
        task: the recipe's.
        metric: a built-in one, or one of `evaluate`, which reads answers or labels.
        kind: of a classification, its `problem_type`.
    """
    needs = metric.known.needs if metric.known else "labels"
    if needs not in _MEASURED[task] or (task == "classification" and (needs == "numbers") != (kind == "regression")):
        fit = [*dict.fromkeys(schema.PROBLEM_METRICS.get(kind, []) or schema.DEFAULT_METRICS[task])]
        about = {"answers": "compares answers", "labels": "compares labels", "ranks": "reads ranks among candidates"}
        does = about.get(needs, f"reads {needs}")
        return f"'{metric.text}' {does}, which the task {task}{f' ({kind})' * bool(kind)} has not: use {', '.join(fit)}"
    return None


def check_metrics(reading: Reading) -> None:
    """Each metric is one of gptft's or can be a name or path for `evaluate.load`, and has something to measure."""
    metrics, task = reading.get("evaluation", "metrics"), str(reading.get("task"))
    kind = str(reading.get("classification", "problem_type") or "") if task == "classification" else ""
    for index, name in enumerate(metrics if isinstance(metrics, list) else []):
        if not isinstance(name, str):
            continue
        path = ("evaluation", "metrics", index)
        try:
            metric = parse_metric(name)
        except UserError as error:
            reading.report(path, str(error))
            continue
        near = get_close_matches(metric.name.lower(), [*BUILT_IN, *GROUPS], 1, 0.75)
        if metric.known:
            if task in _MEASURED and (reason := unfit_metric(task, metric, kind)):
                reading.report(path, reason)
        elif near and metric.name not in _EVALUATE_NEIGHBOURS:
            reading.report(path, f"found '{name}', which is no metric; did you mean '{near[0]}'?")
        elif not re.fullmatch(r"[\w./~-]+", metric.name):
            reading.report(path, f"found '{name}', expected {', '.join(BUILT_IN)} or what `evaluate.load` takes")
