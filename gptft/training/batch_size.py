"""Find the batch size that trains fastest here; the step keeps its rows, by accumulation."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import torch
from rich.console import Console
from transformers import TrainingArguments

from gptft.errors import GptftError
from gptft.models.kernels import use_fast_kernels
from gptft.models.precision import autocast, training_dtype
from gptft.runs.folder import Run
from gptft.training.batching import parts_of, rows_at_once, tokens_at_once
from gptft.training.objectives import Objective

if TYPE_CHECKING:
    from gptft.training.preparation import Prepared

SECONDS = 1.0
"""How long each size is measured, at least."""
LOST = 0.9
"""A size this much slower than the best ends the search: larger ones would be slower still."""


def set_batch_size(
    arguments: TrainingArguments, prepared: Prepared, objective: Objective, run: Run, console: Console
) -> None:
    """Measure which batch size is fastest, and set it and the accumulation that keeps the step's rows.

    A run that is resumed keeps the size that it began with, so that it ends with the same weights.
    """
    step_rows = arguments.per_device_train_batch_size * arguments.gradient_accumulation_steps
    size = run.manifest.get("batch_size")
    if size is None:
        model = prepared.loaded.model.to(arguments.device)
        with console.status("Measuring batch sizes"):
            smoothing = arguments.label_smoothing_factor
            found = find_batch_size(model, objective, prepared.train, step_rows, training_dtype(arguments), smoothing)
        if not found:
            raise GptftError("Not even one row fits into memory. Lower data.max_length, or train an adapter.")
        size = max(found, key=lambda rows: found[rows])
        speeds = ", ".join(f"{rows}: {speed:,.0f}" for rows, speed in found.items())
        console.print(f"batch size: {size} (tokens/s by rows: {speeds})", highlight=False, markup=False, soft_wrap=True)
        run.update_manifest(batch_size=size)
    arguments.per_device_train_batch_size = size
    arguments.gradient_accumulation_steps = step_rows // size


def find_batch_size(
    model: Any, objective: Objective, rows: Any, step_rows: int, dtype: torch.dtype, label_smoothing: float
) -> dict[int, float]:
    """Measure real tokens a second at growing sizes that divide the step, as far as memory lets them grow.

    Nothing is learned: gradients are thrown away, and the random state is put back.

    Args:
        model: on the device that it will be trained on.
        objective: what makes batches and their loss.
        rows: the encoded training rows.
        step_rows: rows of a step.
        dtype: precision of computation.
        label_smoothing: of the loss.

    Returns:
        Size -> tokens a second; the fastest is `max(found, key=found.get)`.
    """
    lengths = torch.tensor(rows["length"][:])
    order = lengths.argsort(descending=True)
    device = next(model.parameters()).device
    # Rows of the middle lengths say how fast it is, the longest whether it fits.
    middle = order[max(0, (len(order) - step_rows) // 2) :]
    was_training = model.training
    use_fast_kernels(model)
    model.train()
    found: dict[int, float] = {}
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices):
        held = 0
        for size in (size for size in range(1, step_rows + 1) if step_rows % size == 0 and size <= len(order)):
            before = _free_bytes(device)
            if held * 2.5 > before:
                break

            def batch(which: torch.Tensor, size: int = size) -> dict[str, Any]:
                return objective.collate([rows[index] for index in which[:size].tolist()])

            try:
                low = _learn(model, objective, batch(order), dtype, label_smoothing)
                tokens, started = 0, time.perf_counter()
                while time.perf_counter() - started < SECONDS:
                    part = batch(middle)
                    tokens += part["token_count"]
                    _learn(model, objective, part, dtype, label_smoothing)
            except torch.OutOfMemoryError:
                torch.cuda.empty_cache()
                break
            found[size] = tokens / (time.perf_counter() - started)
            held = max(held, before - low)
            if found[size] < LOST * max(found.values()):
                break
    model.zero_grad(set_to_none=True)
    model.train(was_training)
    return found


def _learn(model: Any, objective: Objective, batch: dict[str, Any], dtype: torch.dtype, smoothing: float) -> int:
    """Forward and backward; gives the free memory between the two, where the most is held."""
    device = next(model.parameters()).device
    batch = {name: value.to(device) for name, value in batch.items() if isinstance(value, torch.Tensor)}
    free = _free_bytes(device)
    rows, length = batch["input_ids"].shape
    for part in parts_of(batch, rows_at_once(rows, length, tokens_at_once(device))):
        with autocast(device, dtype):
            loss = objective.loss_sum(model, part, smoothing)
        free = min(free, _free_bytes(device))
        loss.backward()
    model.zero_grad(set_to_none=True)
    if device.type == "cuda":
        torch.cuda.synchronize()
    return free


def _free_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    import psutil

    return psutil.virtual_memory().available
