"""What a sweep may try: each end and choice of a range is held against its key, before the first trial."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from pydantic import ValidationError

from gptft.recipe.checks import check_measured
from gptft.recipe.reading import Reading
from gptft.recipe.schema import Range, SweepSection

_FIXED = ("name", "description", "hub", "sweep", "data.validation", "data.test", "data.seed")
"""What is no part of a training, and what scores are made of: those on other rows cannot be compared."""
_BATCH_SIZE = "per_device_train_batch_size"


def check_sweep(reading: Reading, examine: Callable[[str], set[tuple[str, str]]]) -> None:
    """Report values that the recipe refuses, and trials that could not be compared.

    Args:
        reading: the recipe, with all else that is wrong with it reported.
        examine: what is wrong with the recipe, as (key, message), when it has one more override.
    """
    try:
        sweep = SweepSection.model_validate(reading.get("sweep"))
    except ValidationError:
        return  # reported with the recipe's other types
    if reading.get("data", "validation") is None:
        reading.report(("sweep",), "chooses on validation rows, never on test: give the recipe data.validation")
    if (reading.get("training", "eval_strategy") or reading.get("training", "save_strategy")) == "no":
        reading.report(("sweep",), "measures in training: set training.eval_strategy to epoch or steps")
    sizes = sweep.ranges.get(f"training.{_BATCH_SIZE}", [reading.get("training", _BATCH_SIZE)])
    if isinstance(sizes, list) and "auto" in sizes:
        reading.report(("sweep",), f"training.{_BATCH_SIZE} could be another in each trial: write a number, not auto")
    check_measured(reading, ("sweep", "metric"))
    known = reading.problems

    def problems(key: str, value: Any) -> list[str]:
        found = sorted(examine(f"{key}={json.dumps(value)}") - known)
        return [message if where == key else f"{where}: {message}" for where, message in found]

    for key, values in sweep.ranges.items():
        numbers = values if isinstance(values, Range) else None
        found = [f"{fixed} is one for all trials" for fixed in _FIXED if f"{key}.".startswith(f"{fixed}.")]
        if numbers and numbers.low >= numbers.high:
            found.append(f"low ({numbers.low}) is not below high ({numbers.high})")
        elif numbers and numbers.log and (numbers.low <= 0 or numbers.step):
            found.append("with log, low is above 0 and there is no step")
        elif numbers and numbers.count is None and sweep.sampler == "grid":
            found.append("a grid tries all values: give a step, or a list of choices")
        for value in [] if found else [numbers.low, numbers.high] if numbers else values:
            found += problems(key, value)
        if numbers and numbers.whole and not (numbers.step or found or problems(key, numbers.low + 0.5)):
            found = [f"write low: {float(numbers.low)} to try numbers between whole ones too, or step: 1"]
        for message in found:
            reading.report(("sweep", "ranges", key), message)
