"""A sweep as an Optuna study: where it is kept, what is drawn, which trial is next."""

from __future__ import annotations

import fcntl
import itertools
import json
import os
import random
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import yaml
from optuna.samplers import RandomSampler, TPESampler
from optuna.trial import Trial, TrialState
from sqlalchemy.exc import SQLAlchemyError

from gptft.errors import UserError
from gptft.files import disk_errors
from gptft.recipe import Recipe, dump_recipe
from gptft.recipe.ranges import is_whole
from gptft.recipe.schema import SweepSection
from gptft.training.arguments import higher_is_better


def open_study(recipe: Recipe, section: SweepSection, folder: Path, url: str | None) -> tuple[optuna.Study, Any]:
    """Begin the study of a recipe, or go on with it: in `folder`, or in the database at a URL; gives its storage, too.

    Raises:
        UserError: the database cannot be used, or the study was begun with another recipe.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    pruner = optuna.pruners.MedianPruner() if section.pruner == "median" else optuna.pruners.NopPruner()
    direction = section.direction or ("maximize" if higher_is_better(section.metric) else "minimize")
    try:
        storage = optuna.storages.RDBStorage(url or f"sqlite:///{folder / 'study.db'}")
        study = optuna.create_study(
            storage=storage, study_name=recipe.name, direction=direction, pruner=pruner, load_if_exists=True
        )
    except (SQLAlchemyError, ImportError, optuna.exceptions.OptunaError) as error:
        # Not the whole message, which may have the URL and its password.
        reason = f"{type(error).__name__}: {str(getattr(error, 'orig', error)).splitlines()[0]}"
        raise UserError(f"The sweep's database ({'--storage' if url else folder}) cannot be used: {reason}") from error
    # Machines that share a study may have the recipe in different places.
    said = dump_recipe(recipe).replace(f"{recipe.folder}{os.sep}", "")
    before, now = yaml.safe_load(study.user_attrs.get("recipe", said)), yaml.safe_load(said)
    if changed := [key for key in now if now[key] != before.get(key)]:
        raise UserError(
            f"The sweep {recipe.name} was begun with another recipe ({', '.join(changed)} changed), so scores could not "
            "be compared. Restore the recipe to go on with it, or begin another sweep: name=ANOTHER_NAME."
        )
    study.set_user_attr("recipe", said)
    return study, storage


def next_trial(
    study: optuna.Study, storage: Any, count: int, folder: Path, shared: bool, held: ExitStack
) -> Trial | None:
    """Take a trial whose process is gone, else begin one if there are not `count` yet; it is ours while `held` is open.

    Each trial has a lock of the operating system's, which ends with its process, however that ends. Where the study is
    `shared`, a trial without a lock file in `folder` is another machine's.
    """
    with ExitStack() as choosing:
        _lock(folder / "locks" / "next", choosing, fcntl.LOCK_EX)
        for known in study.get_trials(states=(TrialState.RUNNING,)):
            file = folder / "locks" / str(known.number)
            if (file.exists() or not shared) and _lock(file, held, fcntl.LOCK_EX | fcntl.LOCK_NB):
                trial_id = storage.get_trial_id_from_study_id_trial_number(
                    storage.get_study_id_from_name(study.study_name), known.number
                )
                if storage.get_trial(trial_id).state is TrialState.RUNNING:
                    return Trial(study, trial_id)
        if len(study.get_trials(deepcopy=False)) >= count:
            return None
        trial = study.ask()
        _lock(folder / "locks" / str(trial.number), held, fcntl.LOCK_EX)
        return trial


def _lock(path: Path, held: ExitStack, how: int) -> bool:
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        file = held.enter_context(path.open("a"))
    try:
        fcntl.flock(file, how)
    except BlockingIOError:
        return False
    except OSError:
        pass  # a file system without locks: one process alone may use it (docs/sweeps.md)
    return True


def suggest(trial: Trial, section: SweepSection) -> dict[str, Any]:
    """The values of a trial: full key -> value.

    They depend on seed, number and the trials before alone: a sweep that was killed goes on as if it had not been.
    """
    seed = int(np.random.SeedSequence((section.seed, trial.number)).generate_state(1)[0])
    sampler = TPESampler(seed=seed) if section.sampler == "tpe" else RandomSampler(seed=seed)
    trial.study.sampler = sampler if section.sampler != "grid" else _Grid(grid(section))
    values: dict[str, Any] = {}
    for key, one in section.ranges.items():
        if isinstance(one, list):
            # As JSON: Optuna takes neither lists nor mappings, and holds true and 1 for the same.
            texts = [json.dumps(choice, ensure_ascii=False) for choice in one]
            values[key] = one[texts.index(trial.suggest_categorical(key, texts))]
        elif is_whole(one):
            values[key] = trial.suggest_int(key, int(one.low), int(one.high), step=int(one.step or 1), log=one.log)
        else:
            values[key] = trial.suggest_float(key, one.low, one.high, step=one.step, log=one.log)
    return values


def grid(section: SweepSection) -> list[dict[str, Any]]:
    """All combinations, as Optuna takes them, in an order of the section's seed."""
    axes = [
        [json.dumps(choice, ensure_ascii=False) for choice in one]
        if isinstance(one, list)
        else [one.low + index * (one.step or 1) for index in range(round((one.high - one.low) / (one.step or 1)) + 1)]
        for one in section.ranges.values()
    ]
    points = [dict(zip(section.ranges, point, strict=True)) for point in itertools.product(*axes)]
    random.Random(section.seed).shuffle(points)
    return points


class _Grid(RandomSampler):
    """The combination of a trial's number, so that machines need not agree."""

    def __init__(self, points: list[dict[str, Any]]) -> None:
        super().__init__()
        self._points = points

    def sample_independent(self, study: Any, trial: Any, param_name: str, param_distribution: Any) -> Any:
        return self._points[trial.number % len(self._points)][param_name]
