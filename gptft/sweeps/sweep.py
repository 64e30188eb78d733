"""Try a recipe with many values: each trial an ordinary run, in this process, scored on the validation rows."""

from __future__ import annotations

import gc
import math
import shutil
import sys
from collections.abc import Iterable
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import optuna
import torch
from optuna.trial import Trial, TrialState
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from gptft.errors import GptftError, UserError
from gptft.files import write_text_atomically
from gptft.recipe import Recipe, dump_recipe, load_recipe
from gptft.runs.folder import RUNS, Run
from gptft.runs.listing import remove_runs
from gptft.sweeps.picture import save_picture
from gptft.sweeps.study import grid, next_trial, open_study, suggest
from gptft.training.finetune import finetune

SWEEPS = Path("sweeps")
"""The folder of the sweeps, in the current folder."""


@dataclass(frozen=True)
class Sweep:
    """What a sweep has come to so far."""

    study: optuna.Study
    """Optuna's, with all trials."""
    metric: str
    folder: Path
    """Where `study.db`, `sweep.png` and `best.yaml` are."""
    stopped: bool
    """Whether Ctrl-C ended it; the same call goes on."""

    @property
    def best(self) -> Path:
        """The recipe of the best trial, for `gptft finetune`."""
        return self.folder / "best.yaml"

    def table(self) -> Table:
        """The trials, the best first, then those that have no score."""
        rows = self.study.get_trials(deepcopy=False)
        keys = list(rows[0].user_attrs["values"])
        sign = -1 if self.study.direction is optuna.study.StudyDirection.MAXIMIZE else 1
        table = Table("trial", *keys, f"{self.metric} (validation)", "state", "run", box=None)
        for row in sorted(rows, key=lambda row: (row.value is None, sign * (row.value or 0))):
            cells = [row.number + 1, *(row.user_attrs.get("values", {}).get(key) for key in keys)]
            score = "" if row.value is None else f"{row.value:.6g}"
            state = {"complete": "finished", "fail": "failed"}.get(row.state.name.lower(), row.state.name.lower())
            table.add_row(*(Text(str(cell)) for cell in [*cells, score, state, row.user_attrs.get("run", "")]))
        return table


class _Pruned(BaseException):
    """Ends a training early; no error, so that nothing handles it as one."""


class _Watch(TrainerCallback):
    """Reports each evaluation of a trial to its study, and ends the training if the study's pruner says so."""

    def __init__(self, trial: Trial, metric: str, values: dict[str, Any], run: Run) -> None:
        self.trial, self.key, self.run = trial, f"eval_{metric}", run
        self.known = set(trial.study.get_trials()[trial.number].intermediate_values)
        # Scores on other rows could not be compared.
        rows = run.manifest["data"]["splits"]["validation"]["fingerprint"]
        if trial.study.user_attrs.get("validation", rows) != rows:
            raise UserError("The validation rows are others than those of the first trial: restore the data.")
        trial.study.set_user_attr("validation", rows)
        trial.set_user_attr("run", run.folder.name)
        run.update_manifest(sweep={"trial": trial.number, "metric": metric, "values": values})

    def _scores(self) -> dict[int, float]:
        return {line["step"]: line[self.key] for line in self.run.log() if self.key in line}

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Counted in evaluations, so that trials with other batch sizes can be held against each other."""
        scores = self._scores()
        if len(scores) not in self.known:
            self.trial.report(scores[state.global_step], len(scores))
        if state.global_step < state.max_steps and self.trial.should_prune():
            raise _Pruned(f"pruned at step {state.global_step}: {self.key} {scores[state.global_step]:.4g}")

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Keep the score of the model that is kept."""
        scores = self._scores()
        step = state.best_global_step if args.load_best_model_at_end else max(scores, default=None)
        self.trial.set_user_attr("score", scores.get(step, math.nan))


def sweep(
    path: Path | str,
    trials: int,
    overrides: Iterable[str] = (),
    *,
    storage: str | None = None,
    runs: Path = RUNS,
    sweeps: Path = SWEEPS,
    console: Console | None = None,
) -> Sweep:
    """Try what a recipe's `sweep` says, until there are `trials` of them; what a killed call has begun is finished first.

    Args:
        path: the recipe, as for `load_recipe`.
        trials: how many trials there are in the end, those of earlier calls among them.
        overrides: as for `load_recipe`.
        storage: URL of a database that several machines share (default: a file in the sweep's folder).
        runs: the folder of the runs, one for each trial.
        sweeps: the folder of the sweeps.
        console: where progress is shown (default: standard error).

    Raises:
        UserError: a recipe without `sweep`, another one than the sweep was begun with, a database that cannot be used.
        GptftError: three trials in a row failed.
    """
    console = console or Console(stderr=True)
    overrides = list(overrides)
    recipe = load_recipe(path, overrides)
    section = recipe.sweep
    if section is None:
        raise UserError(f"{path} has no section `sweep`, which says what to try: sweep.ranges")
    folder = sweeps / recipe.name
    study, database = open_study(recipe, section, folder, storage)
    trials = min(trials, len(grid(section))) if section.sampler == "grid" else trials
    stopped = False
    while not stopped:
        with ExitStack() as held:
            trial = next_trial(study, database, trials, folder, storage is not None, held)
            if trial is None:
                break
            values = suggest(trial, section)
            trial.set_user_attr("values", values)
            said = ", ".join(f"{key}={value}" for key, value in values.items())
            console.print(f"\n[bold]Trial {trial.number + 1} of {trials}:[/bold] {escape(said)}", soft_wrap=True)
            one = load_recipe(
                path,
                overrides,
                {**values, "sweep": None, "hub": None, "name": f"{recipe.name[:70]}-trial-{trial.number + 1}"},
            )
            stopped = not _end(trial, one, partial(_Watch, trial, section.metric, values), runs, console)
            _write_best(study, path, overrides, folder, runs)
        _free()
    if not stopped:
        save_picture(study, section.metric, folder / "sweep.png")
    return Sweep(study, section.metric, folder, stopped)


def _end(trial: Trial, recipe: Recipe, watch: Any, runs: Path, console: Console) -> bool:
    """Train a trial, or go on with it, and tell its study how it ended; False when it was stopped (Ctrl-C)."""
    try:
        run = _earlier(trial, runs)
        if run is None or run.state != "finished":
            run = finetune(recipe, resume=run or False, runs=runs, console=console, watch=watch)
        if run.manifest["state"] == "stopped":
            return False
        score = trial.user_attrs["score"]
        if math.isnan(score):
            raise GptftError("the metric was not measured, or is not a number")
        trial.study.tell(trial, score)
    except _Pruned as pruned:
        run = Run(runs / trial.user_attrs["run"])
        run.update_manifest(state="stopped", reason=str(pruned))
        trial.study.tell(trial, state=TrialState.PRUNED)
        console.print(f"Trial {trial.number + 1} was {pruned}.", highlight=False)
    except GptftError as error:
        trial.set_user_attr("reason", str(error))
        trial.study.tell(trial, state=TrialState.FAIL)
        console.print(f"[red]Trial {trial.number + 1} failed:[/red] {escape(str(error))}", soft_wrap=True)
        ended = [known.state for known in trial.study.get_trials(deepcopy=False) if known.state.is_finished()]
        if ended[-3:] == [TrialState.FAIL] * 3:
            raise GptftError(f"Three trials in a row failed. The last: {error}") from error
        return True
    # What has ended is not resumed, and checkpoints are three times as large as the model.
    shutil.rmtree(run.folder / "checkpoints", ignore_errors=True)
    return True


def _earlier(trial: Trial, runs: Path) -> Run | None:
    """The run of a trial whose process is gone, if it can be resumed; else it is removed."""
    run = Run(runs / trial.user_attrs.get("run", ""))
    if "run" not in trial.user_attrs or not run.recipe_file.is_file():
        return None
    if run.state == "finished" or run.checkpoint(remove_incomplete=False):
        return run
    remove_runs([run.folder.name], runs)
    return None


def _write_best(study: optuna.Study, path: Path | str, overrides: list[str], folder: Path, runs: Path) -> None:
    """Write the recipe of the best trial so far, as one without a sweep; `runs/latest` becomes its run."""
    with suppress(ValueError):  # there is none yet
        best = study.best_trial
        text = dump_recipe(load_recipe(path, overrides, {**best.user_attrs["values"], "sweep": None}))
        head = f"# Trial {best.number + 1}, the best of the sweep in this folder: {best.value} ({best.user_attrs['run']})\n"
        write_text_atomically(folder / "best.yaml", head + text)
        if (runs / best.user_attrs["run"]).is_dir():
            Run(runs / best.user_attrs["run"]).set_latest()


def _free() -> None:
    """Give back what a trial held: its model, and its run of a tracker, which the next would go on with."""
    gc.collect()
    torch.cuda.empty_cache()
    for name, end in (("wandb", "finish"), ("mlflow", "end_run"), ("trackio", "finish")):
        if name in sys.modules:
            with suppress(RuntimeError):  # none is open
                getattr(sys.modules[name], end)()
