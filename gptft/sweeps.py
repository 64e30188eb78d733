"""Try a recipe with many values: Optuna chooses them; each trial is an ordinary run, scored on validation rows."""

from __future__ import annotations

import gc
import io
import json
import math
import shutil
import sys
import warnings
from collections.abc import Iterable
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock, Timeout
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from gptft.errors import GptftError, UserError
from gptft.files import disk_errors, write_bytes_atomically, write_text_atomically
from gptft.recipe import Recipe, dump_recipe, load_recipe
from gptft.recipe.schema import SweepSection
from gptft.runs.folder import RUNS, Run
from gptft.runs.listing import remove_runs
from gptft.training.arguments import higher_is_better
from gptft.training.finetune import finetune
from gptft.training.resuming import with_base_of

try:
    import optuna
    from optuna.trial import Trial, TrialState
except ModuleNotFoundError as error:
    raise UserError("a sweep needs Optuna, which is not installed: pip install 'gptft[sweep]'") from error

SWEEPS = Path("sweeps")
"""The folder of the sweeps, in the current folder."""


def sweep(path: Path | str, trials: int, overrides: Iterable[str] = (), storage: str | None = None) -> Path:
    """Try what a recipe's `sweep` says until there are `trials` of it, first those that a killed call has begun.

    Args:
        path: the recipe.
        trials: how many there are in the end, those of earlier calls among them.
        overrides: as for `load_recipe`.
        storage: URL of a database that machines share (default: a file in the sweep's folder).

    Returns:
        The recipe of the best trial, for `finetune`: sweeps/NAME/best.yaml; beside it is a picture, sweep.png.

    Raises:
        UserError: a recipe without `sweep` or with mistakes; a database or study that does not fit it.
        GptftError: three trials in a row failed, or all.
        KeyboardInterrupt: after Ctrl-C, with a checkpoint; the same call goes on.
    """
    console, overrides = Console(stderr=True), list(overrides)
    recipe = load_recipe(path, overrides)
    section, folder = recipe.sweep, SWEEPS / recipe.name
    if section is None:
        raise UserError(f"{path} has no section `sweep`, which says what to try (sweep.ranges)")
    if section.sampler == "grid":
        counts = (len(one) if isinstance(one, list) else one.count or 1 for one in section.ranges.values())
        trials = min(trials, math.prod(counts))
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    study = _study(recipe, section, storage or f"sqlite:///{folder / 'study.db'}")
    while True:
        if any(known.state is TrialState.COMPLETE for known in study.get_trials(deepcopy=False)):
            _write_best(study, path, overrides, folder / "best.yaml")
        with ExitStack() as held:
            trial = _next_trial(study, trials, folder, storage is not None, held)
            if trial is None:
                break
            values = _draw(trial, section)
            changes = [f"{key}={json.dumps(value, ensure_ascii=False)}" for key, value in values.items()]
            said = f"[bold]Trial {trial.number + 1} of {trials}:[/bold] {escape(', '.join(changes))}"
            console.print("", said, sep="\n", highlight=False, soft_wrap=True)
            own = [*changes, "sweep=null", "hub=null", f"name={recipe.name[:65]}-trial-{trial.number + 1}"]
            watch = partial(_Watch, trial, section.metric, values)
            _run(trial, partial(load_recipe, path, [*overrides, *own]), watch, console)
    console.print(_table(study, section.metric))
    if not (folder / "best.yaml").is_file():
        raise GptftError("No trial has finished, so there is no best one.")
    _save_picture(study, section.metric, folder / "sweep.png")
    return folder / "best.yaml"


def _write_best(study: optuna.Study, path: Path | str, overrides: list[str], file: Path) -> None:
    """Write the best trial so far as a recipe without a sweep; `runs/latest` becomes its run."""
    best = study.best_trial
    changes = [f"{key}={json.dumps(value)}" for key, value in best.user_attrs["values"].items()]
    recipe, run = load_recipe(path, [*overrides, *changes, "sweep=null"]), Run(RUNS / best.user_attrs["run"])
    if run.folder.is_dir():  # else it is on another machine
        recipe = with_base_of(run, recipe)
        run.set_latest()
    head = f"# Trial {best.number + 1} ({run.folder.name}), score on validation: {best.value}"
    write_text_atomically(file, f"{head}\n{dump_recipe(recipe)}")


def _study(recipe: Recipe, section: SweepSection, url: str) -> optuna.Study:
    """Begin the study of a recipe, or go on with it if it is of the same recipe."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.filterwarnings("ignore", module="optuna|gptft.sweeps")  # of what is experimental, and of few trials
    pruner = optuna.pruners.MedianPruner() if section.pruner == "median" else optuna.pruners.NopPruner()
    direction = section.direction or ("maximize" if higher_is_better(section.metric) else "minimize")
    options: Any = {"study_name": recipe.name, "direction": direction, "pruner": pruner, "load_if_exists": True}
    try:
        study = optuna.create_study(storage=url, **options)
    except Exception as error:  # Optuna's, SQLAlchemy's or a driver's. Without the URL, which may have a password.
        reason = f"{type(error).__name__}: {str(getattr(error, 'orig', error)).splitlines()[0]}"
        raise UserError(f"The database of the sweep cannot be used: {reason}") from error
    # Machines that share a study may have the recipe in different places.
    said = dump_recipe(recipe).replace(f"{recipe.folder}/", "")
    if study.user_attrs.get("recipe", said) != said:
        raise UserError(
            f"The sweep {recipe.name} was begun with another recipe, so scores could not be compared. Restore it to go "
            "on, or begin another sweep: name=ANOTHER_NAME"
        )
    study.set_user_attr("recipe", said)
    return study


def _next_trial(study: optuna.Study, count: int, folder: Path, shared: bool, held: ExitStack) -> Trial | None:
    """Take a trial whose process is gone, else begin one if there are not `count` yet; it is ours while `held` is open.

    Each has a lock of the operating system's, which ends with its process, however that ends. In a study that is
    `shared`, a trial without a lock file here is another machine's.
    """
    with FileLock(folder / ".next.lock"):
        for known in study.get_trials(states=(TrialState.RUNNING,)):
            file = folder / f".{known.number}.lock"
            with suppress(Timeout):
                if file.exists() or not shared:
                    held.enter_context(FileLock(file, blocking=False))
                    if study.get_trials(deepcopy=False)[known.number].state is TrialState.RUNNING:  # still
                        return Trial(study, known._trial_id)
        if len(study.get_trials(deepcopy=False)) >= count:
            return None
        trial = study.ask()
        held.enter_context(FileLock(folder / f".{trial.number}.lock"))
        return trial


def _draw(trial: Trial, section: SweepSection) -> dict[str, Any]:
    """The values of a trial: full key -> value.

    They depend on seed, number and the trials before alone: a sweep that was killed goes on as if it had not been.
    """
    seed = int(np.random.SeedSequence((section.seed, trial.number)).generate_state(1)[0])
    samplers = optuna.samplers
    kind: Any = {"tpe": samplers.TPESampler, "random": samplers.RandomSampler, "grid": samplers.BruteForceSampler}
    trial.study.sampler = kind[section.sampler](seed=seed)
    values: dict[str, Any] = {}
    for key, one in section.ranges.items():
        if isinstance(one, list):
            # As JSON: Optuna takes neither lists nor mappings, and holds true and 1 for the same.
            values[key] = json.loads(trial.suggest_categorical(key, [json.dumps(choice) for choice in one]))
        elif one.whole:
            values[key] = trial.suggest_int(key, int(one.low), int(one.high), step=int(one.step or 1), log=one.log)
        else:
            values[key] = trial.suggest_float(key, one.low, one.high, step=one.step, log=one.log)
    # The other would want to end the study after its last value.
    trial.study.sampler = samplers.RandomSampler()
    trial.set_user_attr("values", values)
    return values


class _Pruned(BaseException):
    """Ends a training early; no error, so that nothing handles it as one."""


class _Watch(TrainerCallback):
    """Reports each evaluation of a trial to its study, and ends the training if the study's pruner says so."""

    def __init__(self, trial: Trial, metric: str, values: dict[str, Any], run: Run) -> None:
        self.trial, self.key, self.run = trial, f"eval_{metric}", run
        self.known = set(trial.study.get_trials(deepcopy=False)[trial.number].intermediate_values)
        facts = run.manifest
        same = [facts["data"]["splits"]["validation"]["fingerprint"], bool(facts["base"].get("fallback_reason"))]
        if trial.study.user_attrs.get("same", same) != same:
            raise UserError("validation rows or fallback are not the first trial's, so scores could not be compared")
        trial.study.set_user_attr("same", same)
        trial.set_user_attr("run", run.folder.name)
        run.update_manifest(sweep={"trial": trial.number + 1, "metric": metric, "values": values})

    def _scores(self, ends: bool = False) -> dict[int | None, float]:
        lines = [line for line in self.run.log() if self.key in line]
        return {line["step"]: line[self.key] for line in lines if not ends or line["epoch"] % 1 == 0}

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Count in evaluations, so that trials with other batch sizes can be held against each other."""
        scores = self._scores(ends=args.eval_strategy == "epoch")
        if state.global_step not in scores:
            return  # Ctrl-C in the middle of an epoch evaluates once more than a training that goes through
        if len(scores) not in self.known:
            self.trial.report(scores[state.global_step], len(scores))
        if state.global_step < state.max_steps and self.trial.should_prune():
            raise _Pruned(f"pruned at step {state.global_step:,} ({self.key} {scores[state.global_step]:.4g})")

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: Any, **kwargs: Any) -> None:
        """Note the score of the model that is kept."""
        step = state.best_global_step if args.load_best_model_at_end else state.global_step
        self.trial.set_user_attr("score", self._scores().get(step, math.nan))


def _run(trial: Trial, load: Any, watch: Any, console: Console) -> None:
    """Train a trial, or go on with it, and tell its study how it ended."""
    run = Run(RUNS / trial.user_attrs.get("run", "none"))
    tell = partial(trial.study.tell, trial)
    try:
        resume = run.recipe_file.is_file() and run.checkpoint() is not None
        if run.recipe_file.is_file() and not resume and run.state != "finished":
            remove_runs([run.folder.name])  # killed before its first checkpoint
        if run.state != "finished":
            run = finetune(load(), resume=resume, watch=watch)
        if run.state == "stopped":
            console.print("The sweep goes on from there with the command that began it.")
            raise KeyboardInterrupt
        score = trial.user_attrs.get("score", math.nan)
        if math.isnan(score):
            raise GptftError("the metric was not measured at the end, or is not a number")
        tell(score)
    except _Pruned as pruned:
        run = Run(RUNS / trial.user_attrs["run"])
        run.update_manifest(state="stopped", reason=str(pruned))
        tell(state=TrialState.PRUNED)
        console.print(f"Trial {trial.number + 1} was {pruned}.", highlight=False)
    except GptftError as error:
        tell(state=TrialState.FAIL)
        console.print(f"[red]Trial {trial.number + 1} failed:[/red] {escape(str(error))}", soft_wrap=True)
        if [known.state for known in trial.study.get_trials()[-3:]] == [TrialState.FAIL] * 3:
            raise GptftError(f"Three trials in a row failed. The last: {error}") from error
        return
    finally:
        # The next one needs the memory, and would go on with the run that a tracker has open.
        gc.collect()
        torch.cuda.empty_cache()
        for name, end in (("wandb", "finish"), ("mlflow", "end_run"), ("trackio", "finish")):
            with suppress(RuntimeError, KeyError):  # not in use
                getattr(sys.modules[name], end)()
    # What has ended is not resumed, and checkpoints are three times as large as the model.
    shutil.rmtree(run.folder / "checkpoints", ignore_errors=True)


def _table(study: optuna.Study, metric: str) -> Table:
    """The trials, the best first, then those without a score."""
    sign = -1 if study.direction.name == "MAXIMIZE" else 1
    trials = sorted(study.get_trials(), key=lambda one: (one.state.name != "COMPLETE", sign * (one.value or 0)))
    keys = [key.rpartition(".")[2] for key in trials[0].user_attrs.get("values", ())]
    table = Table("trial", *keys, f"{metric} (validation)", "run", box=None)
    for one in trials:
        values = one.user_attrs.get("values", {}).values()
        cells = [f"{value:.4g}" if isinstance(value, float) else json.dumps(value) for value in values]
        score = f"{one.value:.6g}" if one.state is TrialState.COMPLETE else one.state.name.lower()
        table.add_row(str(one.number + 1), *map(escape, cells), score, escape(one.user_attrs.get("run", "")))
    return table


def _save_picture(study: optuna.Study, metric: str, file: Path) -> None:
    """Draw as a PNG: scores by trial, the importance of each key (PED-ANOVA), and scores by value of each key."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    done = study.get_trials(states=(TrialState.COMPLETE,))
    scores = [trial.value for trial in done]
    shares = optuna.importance.get_param_importances(study) if len(done) > 1 else {}
    figure = Figure(figsize=(4 * (len(done[0].params) + 2), 3.5), layout="constrained")
    FigureCanvasAgg(figure)
    history, importance, *others = figure.subplots(1, len(done[0].params) + 2)
    history.plot([trial.number + 1 for trial in done], scores, "o-")
    history.set(xlabel="trial (finished ones)", ylabel=metric)
    importance.barh(list(shares)[::-1], list(shares.values())[::-1])
    importance.set_xlabel("importance (share)" if shares else "importance: not known from one trial")
    for axes, (key, kind) in zip(others, done[0].distributions.items(), strict=True):
        axes.plot([trial.params[key] for trial in done], scores, "o")
        if getattr(kind, "log", False):
            axes.set_xscale("log")
        axes.set(xlabel=key, ylabel=metric)
        axes.tick_params(axis="x", which="both", labelrotation=60)
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=110, metadata={"Software": None})
    write_bytes_atomically(file, picture.getvalue())
