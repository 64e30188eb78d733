"""What a training will take: parameters, steps, tokens, memory, disk."""

from __future__ import annotations

import math
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gptft.inspection.findings import Finding
from gptft.inspection.lengths import Batches

if TYPE_CHECKING:
    from transformers import TrainingArguments

    from gptft.inspection.memory import StepMemory, StepSimulator
    from gptft.recipe import Recipe


@dataclass(frozen=True)
class Plan:
    """Counts of parameters, updates and tokens; bytes of disk."""

    parameters: int
    trained: int
    steps: int
    steps_per_epoch: int
    warmup_steps: int
    tokens_per_epoch: int
    supervised_per_epoch: int
    padding: float
    """Share of the tokens computed that is padding."""
    checkpoint_bytes: int
    """All checkpoints at once, with the model that is kept at the end."""
    disk_free: int

    def to_dict(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)


def make_plan(model: Any, batches: Batches, arguments: TrainingArguments, runs: Path) -> Plan:
    """Count what the arguments and the batches of an epoch come to.

    Args:
        model: its parameters are counted; shapes are enough.
        batches: of one epoch.
        arguments: of the training.
        runs: the folder of the runs, whose disk is asked.
    """
    parameters = list(model.parameters())
    total = sum(parameter.numel() for parameter in parameters)
    trained = sum(parameter.numel() for parameter in parameters if parameter.requires_grad)
    per_epoch = max(1, -(-len(batches.rows) // arguments.gradient_accumulation_steps))
    steps = arguments.max_steps if arguments.max_steps > 0 else math.ceil(arguments.num_train_epochs * per_epoch)
    kept = 0
    if arguments.save_strategy != "no":
        limit = arguments.save_total_limit or math.ceil(steps / per_epoch)
        # The new one is written before the oldest goes.
        kept = min(limit + 1, max(1, math.ceil(steps / per_epoch)))
    # Weights, and two moments for each of those that are trained, all in float32.
    checkpoint = 4 * trained * (1 if arguments.save_only_model else 3)
    there = next(folder for folder in (runs, *runs.absolute().parents) if folder.exists())
    return Plan(
        parameters=total,
        trained=trained,
        steps=steps,
        steps_per_epoch=per_epoch,
        warmup_steps=arguments.get_warmup_steps(steps),
        tokens_per_epoch=int(batches.real.sum()),
        supervised_per_epoch=int(batches.supervised.sum()),
        padding=batches.padding,
        checkpoint_bytes=kept * checkpoint + 4 * total,
        disk_free=shutil.disk_usage(there).free,
    )


def plan_findings(
    plan: Plan, recipe: Recipe, arguments: TrainingArguments, rows: int, has_validation: bool
) -> list[Finding]:
    """Settings that do not fit the data, each other, or the disk; `rows`: examples of train."""
    findings = []
    rate = arguments.learning_rate
    if str(arguments.optim).rpartition(".")[2].lower().startswith("adam"):
        # Models of less than a million parameters bear more.
        if rate > (5e-3 if plan.parameters > 1_000_000 else 5e-2):
            findings.append(Finding("learning_rate_high", f"training.learning_rate is {rate:g}"))
        elif rate < 1e-7:
            findings.append(Finding("learning_rate_low", f"training.learning_rate is {rate:g}"))
    # Who sets max_steps knows how many there are, and wants a trial perhaps.
    trial = arguments.max_steps > 0
    if plan.warmup_steps >= plan.steps and plan.warmup_steps > 1:
        words = f"the warm-up takes {plan.warmup_steps:,} steps, the training {plan.steps:,}"
        findings.append(Finding("warmup_too_long", words))
    step_rows = arguments.per_device_train_batch_size * arguments.gradient_accumulation_steps
    if step_rows > rows:
        findings.append(
            Finding("batch_beyond_data", f"a step takes {step_rows:,} rows, and train has {rows:,} examples")
        )
    elif plan.steps < 20 and not trial:
        findings.append(Finding("few_steps", f"the training is {plan.steps:,} steps"))
    if has_validation and str(arguments.eval_strategy).endswith("STEPS") and (arguments.eval_steps or 0) > plan.steps:
        words = f"the first evaluation comes at step {arguments.eval_steps:,.0f}, and there are {plan.steps:,}"
        findings.append(Finding("never_evaluated", words))
    if plan.checkpoint_bytes > plan.disk_free:
        words = f"checkpoints and model take {size(plan.checkpoint_bytes)}, and {size(plan.disk_free)} are free"
        findings.append(Finding("disk_too_small", words))
    template = recipe.template.prompt or ""
    if recipe.task == "completion" and template.endswith(" "):
        findings.append(Finding("prompt_ends_in_space", f"template.prompt is {template[-30:]!r}"))
    return findings


@dataclass(frozen=True)
class MemoryPlan:
    """Bytes at the peak of training."""

    step: StepMemory
    process: int
    """What the process holds beside the step: Python, libraries, data."""
    machine: int
    """What a process can have on this machine now."""
    largest_batch: int | None
    """Rows of the longest kind that would fit; None: any, as they are learned in parts."""

    @property
    def total(self) -> int:
        """The predicted peak."""
        return self.process + self.step.total

    def to_dict(self) -> dict[str, Any]:
        """As plain values."""
        return {**asdict(self), "total": self.total}


def plan_memory(
    simulator: StepSimulator, batches: Batches, seen: int, reads: np.ndarray, process: int, machine: int
) -> MemoryPlan:
    """The peak over the batches that training sees.

    Args:
        simulator: of the model.
        batches: of an epoch.
        seen: how many of them come before training ends.
        reads: positions of each batch whose logits are computed.
        process: bytes that the process holds beside the model.
        machine: bytes that it can have.
    """
    from gptft.inspection.memory import StepShape
    from gptft.training.batching import rows_at_once, tokens_at_once

    tokens = tokens_at_once(simulator.arguments.device)

    def shape(index: int, times: int = 1) -> StepShape:
        rows, width = len(batches.rows[index]), int(batches.width[index])
        learned = rows_at_once(rows, width, tokens)
        return StepShape(learned * times, width, math.ceil(int(reads[index]) * learned / rows) * times)

    # The widest batch, and the one with the most logits: one of them is the largest.
    candidates = {int(batches.padded[:seen].argmax()), int(reads[:seen].argmax())}
    peaks = {index: simulator.peak(shape(index)) for index in candidates}
    worst = max(peaks, key=lambda index: peaks[index].total)
    if math.isfinite(tokens):
        return MemoryPlan(peaks[worst], process, machine, None)
    # The peak grows evenly with the rows of a batch.
    more = simulator.peak(shape(worst, 2)).total - peaks[worst].total
    rows = len(batches.rows[worst])
    room = machine - process - peaks[worst].total
    return MemoryPlan(peaks[worst], process, machine, max(0, int(rows + room / max(more / rows, 1))))


def memory_findings(plan: MemoryPlan) -> list[Finding]:
    """Whether it fits."""
    if plan.total <= plan.machine:
        return []
    words = f"the longest batch takes {size(plan.total)}, and {size(plan.machine)} can be had"
    words += f"; the largest batch that fits has {plan.largest_batch:,} rows" if plan.largest_batch else ""
    return [Finding("memory_too_small", words)]


def size(count: float) -> str:
    """Bytes as people write them."""
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}"
        count /= 1000
    return f"{count:.2f} GB"
