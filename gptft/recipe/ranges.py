"""What a sweep may try: each end and choice of a range is held against its key, before the first trial."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any

from pydantic import ValidationError

from gptft.recipe.checks import check_measured
from gptft.recipe.reading import Reading, dotted, key_path
from gptft.recipe.schema import Range, SweepSection

_FIXED = ("name", "description", "hub", "sweep", "data.validation", "data.test", "data.seed")
"""What is no part of a training, and what scores are made of: those on other rows cannot be compared."""
_BATCH_SIZE = ("training", "per_device_train_batch_size")


def check_sweep(reading: Reading, unchecked: Reading, examine: Callable[[Reading], object]) -> None:
    """Report ranges with values that the recipe refuses, and a metric that is not measured on validation.

    Args:
        reading: the recipe, examined.
        unchecked: the same before.
        examine: reports all that is wrong with a recipe.
    """
    try:
        sweep = SweepSection.model_validate(reading.get("sweep"))
    except ValidationError:
        return  # which has been reported with the recipe's other types
    if reading.get("data", "validation") is None:
        message = "chooses by what is measured on validation rows, never on test: give the recipe data.validation"
        reading.report(("sweep",), message)
    if (reading.get("training", "eval_strategy") or reading.get("training", "save_strategy")) == "no":
        reading.report(("sweep",), "needs evaluations in training: set training.eval_strategy to epoch or steps")
    sizes = sweep.ranges.get(dotted(_BATCH_SIZE))
    if "auto" in (sizes if isinstance(sizes, list) else [] if sizes else [reading.get(*_BATCH_SIZE)]):
        message = f"each trial could measure another batch size: write a number for {dotted(_BATCH_SIZE)}, not auto"
        reading.report(("sweep",), message)
    check_measured(reading, ("sweep", "metric"))
    known = reading.problems
    for key, values in sweep.ranges.items():
        path = ("sweep", "ranges", key)
        if fixed := next((name for name in _FIXED if f"{key}.".startswith(f"{name}.")), None):
            reading.report(path, f"`{fixed}` is the same in all trials: their scores could not be compared")
            continue
        if isinstance(values, Range) and (message := _odd(values, sweep.sampler)):
            reading.report(path, message)
            continue
        for value in [values.low, values.high] if isinstance(values, Range) else values:
            for where, what in sorted(_problems(unchecked, key, value, examine) - known):
                reading.report(path, what if where == key else f"{where}: {what}")
        if not isinstance(values, Range) or not is_whole(values) or values.step:
            continue
        if not _problems(unchecked, key, values.low + 0.5, examine) - known:
            message = f"numbers between whole ones are allowed too: write `low: {float(values.low)}` to try them, or "
            reading.report(path, f"{message}`step: 1` for whole ones alone")


def is_whole(values: Range) -> bool:
    """Whether a range is one of whole numbers."""
    return all(isinstance(number, int) for number in (values.low, values.high, values.step or 1))


def _problems(unchecked: Reading, key: str, value: Any, examine: Callable[[Reading], object]) -> set[tuple[str, str]]:
    trial = deepcopy(unchecked)
    trial.set(key_path(key), value)
    examine(trial)
    return trial.problems


def _odd(values: Range, sampler: str) -> str | None:
    """What is wrong with a range in itself."""
    if values.low >= values.high:
        return f"low ({values.low}) is not below high ({values.high})"
    if values.log and (values.low <= 0 or values.step):
        return "with `log`, low is above 0 and there is no `step`"
    steps = (values.high - values.low) / (values.step or 1)
    if values.step and abs(steps - round(steps)) > 1e-6:
        return f"{values.high} is not reached from {values.low} in steps of {values.step}"
    if sampler == "grid" and not values.step and not is_whole(values):
        return "has no end of values, and a grid tries all: give it a `step`, or a list of choices"
    return None
