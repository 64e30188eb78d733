"""The time of a training and its peak memory, measured: three real steps on real batches."""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import Console
from transformers import PrinterCallback, TrainerCallback

from gptft.inspection.lengths import Batches
from gptft.models.precision import training_dtype
from gptft.runs.manifest import peak_memory_bytes
from gptft.training.arguments import training_arguments
from gptft.training.objectives import objective_of
from gptft.training.preparation import prepare
from gptft.training.trainer import FineTuner

if TYPE_CHECKING:
    from gptft.recipe import Recipe


@dataclass(frozen=True)
class Probe:
    """What the steps said of the whole."""

    seconds: float
    """All training steps, without loading, evaluations and saving."""
    tokens_per_second: float
    """Real tokens, without padding."""
    peak_memory: dict[str, int]
    """Of this process, the step with the largest batch included."""


class _Clock(TrainerCallback):
    def __init__(self) -> None:
        self.times: list[float] = []

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.times.append(-time.perf_counter())

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.times[-1] += time.perf_counter()


def probe(recipe: Recipe, batches: Batches, accumulation: int, steps: int) -> Probe:
    """Load the model and learn three steps: that of the largest batch, then two that are as large as the mean.

    Args:
        recipe: as for the training.
        batches: of its first epoch.
        accumulation: batches of a step.
        steps: of the whole training.
    """
    starts = np.arange(0, len(batches.rows), accumulation)
    work = np.add.reduceat(batches.padded, starts).astype(float)
    full = np.arange(len(starts) if len(starts) == 1 else len(starts) - 1)
    largest = int(full[work[full].argmax()])
    typical = full[np.argsort(np.abs(work[full] - work.mean()), kind="stable")][:2]
    chosen = [largest, *typical.tolist(), *typical.tolist()][:3]
    rows = [row for step in chosen for batch in batches.rows[step * accumulation :][:accumulation] for row in batch]
    trial = {"max_steps": len(chosen), "train_sampling_strategy": "sequential", "logging_strategy": "no"}
    off = {"save_strategy": "no", "eval_strategy": "no", "load_best_model_at_end": False, "report_to": "none"}
    quiet, clock = Console(quiet=True), _Clock()
    prepared = prepare(recipe, quiet)
    with tempfile.TemporaryDirectory() as folder:
        # Early stopping would ask for evaluations.
        evaluation = recipe.evaluation.model_copy(update={"early_stopping_patience": None, "during_training": None})
        short = recipe.model_copy(update={"training": {**recipe.training, **trial, **off}, "evaluation": evaluation})
        arguments = training_arguments(short, Path(folder), False)
        trainer = FineTuner(
            model=prepared.loaded.model,
            args=arguments,
            train_dataset=prepared.train.select(rows),
            processing_class=prepared.loaded.tokenizer,
            objective=objective_of(short, prepared, training_dtype(arguments), quiet),
            callbacks=[clock],
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    _, *timed = clock.times
    seconds = float(np.mean(np.array(timed) / work[chosen[1:]])) * work.mean() * steps
    epochs = steps / len(starts)
    return Probe(seconds, float(batches.real.sum()) * epochs / seconds, peak_memory_bytes())
