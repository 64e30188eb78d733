"""What a Trainer must do so that nothing is lost: whole checkpoints, room in memory, losses that are watched."""

from __future__ import annotations

import math
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size
from rich.console import Console
from transformers import Trainer

from gptft.errors import GptftError
from gptft.files import disk_errors
from gptft.runs.checkpoints import WRITING, put_in_place, remove_older
from gptft.training.batching import parts_of, rows_at_once, tokens_at_once

EXPLODED = 10
"""A loss so many times that of the first step, or of guessing all tokens alike, is never learned from again."""


class DivergedError(GptftError):
    """The loss or a weight is no number any more, or the loss has exploded."""


class CarefulTrainer(Trainer):
    """A Trainer whose checkpoints are complete or absent, and that stops before it saves what is broken.

    Where memory ends, batches are split and the step is done again: it keeps its rows, and its loss is their mean. How
    many rows are learned at once is in the checkpoint (`state.train_batch_size`), so that a resumed run splits alike.
    """

    def __init__(self, *, console: Console | None = None, **options: Any) -> None:
        self.console = console or Console(stderr=True)
        super().__init__(**options)
        # The Trainer itself keeps all: it would remove them file by file, and at its end the newest beside the best.
        self._keep, self.args.save_total_limit = self.args.save_total_limit, None
        self._losses: list[tuple[int, int, torch.Tensor]] = []
        self._first_loss: float | None = None
        self._step, self._batches = -1, list[Any]()

    def _run_epoch(self, **options: Any) -> None:
        # The Trainer asks whether it is done after a step, never before: a resumed run may be done already.
        if self.state.global_step >= self.state.max_steps:
            self.control.should_training_stop = True  # a stream has epochs without end
        if not self.control.should_training_stop:
            super()._run_epoch(**options)

    def training_step(self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None) -> torch.Tensor:
        """Forward and backward of a batch, in parts: of `state.train_batch_size` rows, on a CPU of few tokens.

        Raises:
            GptftError: one row alone does not fit into memory.
            DivergedError: a loss is no number, or has exploded.
        """
        if self._step != self.state.global_step:
            self._step, self._batches = self.state.global_step, []
        self._batches.append(inputs)
        loss = self._learn(model, inputs, num_items_in_batch)
        while loss is None:
            # A backward pass that broke off has left a part of its gradients: the step begins anew.
            clear_device_cache()
            model.zero_grad()
            for batch in self._batches:
                loss = self._learn(model, batch, num_items_in_batch)
                if loss is None:
                    break
        self._losses.append((self._step + 1, len(self._batches) - 1, loss))
        # They stay on their device until something is logged, or so many are there.
        if len(self._losses) >= 1000:
            self.check_losses()
        return loss

    def _learn(self, model: Any, inputs: dict[str, Any], count: Any) -> torch.Tensor | None:
        """The loss of a batch, its gradients added; None where memory did not suffice, and parts are smaller now."""
        size, total = self.state.train_batch_size or self._train_batch_size, None
        rows, length = inputs["input_ids"].shape
        size = min(size, rows_at_once(rows, length, tokens_at_once(self.args.device, self.args.world_size)))
        for part in parts_of(inputs, size):
            rows = len(part["input_ids"])
            try:
                loss = super().training_step(model, part, count)
            except RuntimeError as error:
                if not should_reduce_batch_size(error) and not isinstance(error, torch.OutOfMemoryError):
                    raise
                fitting = rows // 2
                if self.args.world_size > 1 or not fitting:
                    raise GptftError(
                        f"Out of memory at step {self._step + 1:,} with {rows} rows at once. Lower "
                        "data.max_length, train an adapter, set training.gradient_checkpointing, or halve "
                        "training.per_device_train_batch_size and double training.gradient_accumulation_steps."
                    ) from error
                self.state.train_batch_size = fitting
                text = (
                    f"[yellow]Out of memory[/yellow] at step {self._step + 1:,}: {fitting} rows at once from here on."
                )
                self.console.print(f"{text} Steps keep their rows.", highlight=False, soft_wrap=True)
                return None
            total = loss if total is None else total + loss
        return total

    def log(self, logs: dict[str, float], *args: Any, **options: Any) -> None:
        """Log, and look at the losses since the last time: the device has just been waited for anyway."""
        super().log(logs, *args, **options)
        self.check_losses()

    def check_losses(self) -> None:
        """Stop where a loss is no number or has exploded: DivergedError, with step and rows."""
        unread, self._losses = self._losses, []
        values = torch.stack([loss.float() for *_, loss in unread]).tolist() if unread else []
        steps: dict[int, float] = {}
        for (step, batch, _), value in zip(unread, values, strict=True):
            if not math.isfinite(value):
                self._stop(f"The loss of step {step:,} is {value}", step, batch)
            steps[step] = steps.get(step, 0.0) + value
        config: Any = getattr(self.model, "config", None)
        for step, value in steps.items():
            first = self._first_loss = value if self._first_loss is None else self._first_loss
            limit = EXPLODED * max(first, math.log(getattr(config, "vocab_size", None) or 2))
            if value > limit and getattr(config, "problem_type", None) != "regression":
                self._stop(f"The loss of step {step:,} has exploded, to {value:.4g} from {first:.4g}", step)

    def check_weights(self) -> None:
        """Stop where a weight is no number (DivergedError): what the last step made of it, no loss tells yet."""
        self.check_losses()
        model: Any = self.model
        if not all(bool(torch.isfinite(weight).all()) for weight in model.parameters() if weight.requires_grad):
            self._stop(f"Weights are no numbers after step {self.state.global_step:,}", self.state.global_step)

    def _stop(self, what: str, step: int, batch: int | None = None) -> None:
        """Say so, with the rows of a step, or of one of its batches alone."""
        loader: Any = self.callback_handler.train_dataloader
        if not hasattr(loader.batch_sampler, "set_epoch"):
            raise DivergedError(
                f"{what}. Lower training.learning_rate or training.max_grad_norm, or set model.dtype to float32."
            )
        sampler, a_step = loader.batch_sampler, self.args.gradient_accumulation_steps
        epoch, index = divmod(step - 1, math.ceil(len(sampler) / a_step))
        sampler.set_epoch(epoch)
        batches = list(sampler)[index * a_step : (index + 1) * a_step]
        if batch is not None:
            batches = [batches[batch]]
        rows, dataset = [row for rows in batches for row in rows if row >= 0], self.train_dataset
        named: Any = [dataset[row].get("origin") or f"row {row + 1}" for row in rows[:20]]  # type: ignore[index]
        more = f" and {len(rows) - 20} more" if len(rows) > 20 else ""
        raise DivergedError(
            f"{what}. Learned then: {', '.join(named)}{more}. Look at these rows; lower training.learning_rate or "
            "training.max_grad_norm, or set model.dtype to float32."
        )

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Write a checkpoint beside its place, put it there whole, and only then remove older ones."""
        self.check_weights()
        args, state = self.args, self.state
        place, name = Path(str(args.output_dir)), f"checkpoint-{state.global_step}"
        writing = place / WRITING
        try:
            with disk_errors(place / name):
                args.output_dir = str(writing)
                super()._save_checkpoint(model, trial)
                self.accelerator.wait_for_everyone()
                best = place / f"checkpoint-{state.best_global_step}"
                if best.name == name or best.is_dir():
                    state.best_model_checkpoint = str(best)
                if args.should_save:
                    state.save_to_json(os.path.join(writing, name, "trainer_state.json"))
                    put_in_place(writing / name, place / name)
                    remove_older(place, self._keep, state.best_model_checkpoint)
                self.accelerator.wait_for_everyone()
        finally:
            args.output_dir = str(place)
            # On a full disk this is the room for what is still to be written.
            shutil.rmtree(writing, ignore_errors=True)
