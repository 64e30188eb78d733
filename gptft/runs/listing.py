"""The runs of a folder: what they are, how two differ, and how to be rid of some."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from gptft.errors import UserError
from gptft.files import disk_errors
from gptft.runs.folder import RUNS, Run, find_run

Difference = tuple[str, list[Any]]
"""A dotted key, and its value in each run; None where a run does not have it."""


@dataclass(frozen=True)
class RunSummary:
    """A run in one line. `score` is an entry of scores.json (of the recipe's first metric) with its `split`."""

    name: str
    task: str | None
    base: str | None
    score: dict[str, Any] | None
    validation_loss: float | None
    tokens: int | None
    seconds: float | None
    state: str
    resumable: bool
    started: str | None
    latest: bool


def list_runs(runs: Path = RUNS) -> list[RunSummary]:
    """Sum up the runs of a folder, the newest last."""
    found = [Run(file.parent.resolve()) for file in runs.glob("*/recipe.yaml") if not file.parent.is_symlink()]
    latest = (runs / "latest").resolve()
    summaries = [_summary(run, run.folder == latest) for run in found]
    return sorted(summaries, key=lambda run: (run.started or "", run.name))


def _summary(run: Run, latest: bool) -> RunSummary:
    manifest, state = run.manifest, run.state
    losses = [line["eval_loss"] for line in run.log() if "eval_loss" in line]
    return RunSummary(
        name=run.folder.name,
        task=manifest.get("task"),
        base=manifest.get("base", {}).get("used"),
        score=main_score(run),
        validation_loss=losses[-1] if losses else None,
        tokens=manifest.get("tokens_seen"),
        seconds=manifest.get("training_seconds"),
        state=state,
        resumable=state not in ("finished", "running") and run.checkpoint() is not None,
        started=manifest.get("started"),
        latest=latest,
    )


def read_evaluations(run: Run) -> list[tuple[str, dict[str, Any]]]:
    """What was written by `gptft eval`: (split, content of scores.json), the test split first."""
    files = sorted((run.folder / "eval").glob("*/scores.json"), key=lambda file: (file.parent.name != "test", file))
    return [(file.parent.name, json.loads(file.read_text(encoding="utf-8"))) for file in files]


def main_score(run: Run) -> dict[str, Any] | None:
    """The score of the first metric that the recipe names, of the test split if there is one."""
    for split, content in read_evaluations(run):
        wanted = read_recipe(run).get("evaluation", {}).get("metrics") or []
        for name in [*wanted, *content["scores"]]:
            if name in content["scores"]:
                return {**content["scores"][name], "split": split}
    return None


def read_recipe(run: Run) -> dict[str, Any]:
    """A run's recipe as it is written, unchecked: its data may be gone by now."""
    return yaml.safe_load(run.recipe_file.read_text(encoding="utf-8")) or {}


def remove_runs(targets: Sequence[str], runs: Path = RUNS) -> list[Run]:
    """Remove runs, all or none; `latest` then names the newest of the rest that is finished or resumable.

    Raises:
        UserError: one is no run of this folder, or is being trained.
    """
    found = runs_named(targets, runs)
    for run in found:
        with run.held(), disk_errors(run.folder):
            # Renamed first: a run is there or not, never half.
            gone = run.folder.with_name(f".{run.folder.name}.removed")
            os.rename(run.folder, gone)
            shutil.rmtree(gone)
    link = runs / "latest"
    if link.is_symlink() and not link.exists():
        link.unlink()
        left = [one.name for one in list_runs(runs) if one.state == "finished" or one.resumable]
        if left:
            Run(runs.resolve() / left[-1]).set_latest()
    return found


def runs_named(targets: Sequence[str], runs: Path = RUNS) -> list[Run]:
    """The runs of a folder that are named, each once, none of them in use.

    Raises:
        UserError: with all that is wrong with the names.
    """
    found = {target: find_run(target, runs) for target in targets}
    problems = []
    for target, run in found.items():
        if run is None or run.folder.parent != runs.resolve():
            problems.append(f"{target} is no run in {runs}/.")
        elif run.is_held():
            problems.append(f"{run.folder.name} is running: stop it first (Ctrl-C where it runs).")
    if problems:
        raise UserError("\n".join([*problems, "Nothing was removed. `gptft runs` lists the runs."]))
    return list(dict.fromkeys(run for run in found.values() if run))


def compare_runs(runs: Sequence[Run]) -> dict[str, list[Difference]]:
    """How runs differ.

    Returns:
        `recipe`, `data` (rows and fingerprints of each split) and `versions`: what is not the same in all; `scores`:
        all that there are, as `split.metric`, each an entry of scores.json.
    """
    scores = [
        {f"{split}.{name}": one for split, content in read_evaluations(run) for name, one in content["scores"].items()}
        for run in runs
    ]
    return {
        "recipe": _differences([_flat(read_recipe(run)) for run in runs]),
        "data": _differences([_data_facts(run) for run in runs]),
        "versions": _differences([run.manifest.get("versions", {}) for run in runs]),
        "scores": _side_by_side(scores),
    }


def _data_facts(run: Run) -> dict[str, Any]:
    splits = run.manifest.get("data", {}).get("splits", {})
    return {f"{split}.{key}": facts.get(key) for split, facts in splits.items() for key in ("kept", "fingerprint")}


def _side_by_side(values: Sequence[dict[str, Any]]) -> list[Difference]:
    return [(key, [each.get(key) for each in values]) for key in dict.fromkeys(key for each in values for key in each)]


def _differences(values: Sequence[dict[str, Any]]) -> list[Difference]:
    return [(key, row) for key, row in _side_by_side(values) if any(value != row[0] for value in row)]


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    """Nested mappings and lists of mappings as dotted keys, as overrides are written."""
    if isinstance(value, list) and any(isinstance(item, dict) for item in value):
        value = {str(index): item for index, item in enumerate(value)}
    if not isinstance(value, dict) or not value:
        return {prefix: value}
    return {
        key: item
        for name, part in value.items()
        for key, item in _flat(part, f"{prefix}.{name}" if prefix else str(name)).items()
    }
