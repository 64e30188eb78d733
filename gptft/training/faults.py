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

EXPLODED = 10
"""A loss so many times that of the first step, or of guessing all tokens alike, is never learned from again."""
UNREAD = 1000
"""Losses of so many batches are kept on their device before they are looked at, where nothing is logged meanwhile."""


class DivergedError(GptftError):
    """The loss or the weights are no numbers any more, or the loss has exploded."""


class CarefulTrainer(Trainer):
    """A Trainer whose checkpoints are complete or absent, and that stops before it saves what is broken.

    Where memory ends, batches are split and the step done again: it keeps its rows, and its loss is their mean. How
    many rows are learned at once is in the checkpoint (`state.train_batch_size`), so that a resumed run splits alike.
    """

    def __init__(self, *, console: Console | None = None, **options: Any) -> None:
        self.console = console or Console(stderr=True)
        super().__init__(**options)
        self._losses: list[tuple[int, int, torch.Tensor]] = []
        self._first_loss: float | None = None
        self._step, self._step_batches = -1, list[Any]()

    def _run_epoch(self, **options: Any) -> None:
        # The Trainer asks whether it is done after a step, never before: a resumed run may be done already.
        if self.state.global_step < self.state.max_steps and not self.control.should_training_stop:
            super()._run_epoch(**options)

    def training_step(self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None) -> torch.Tensor:
        """Forward and backward of a batch, in parts of `state.train_batch_size` rows.

        Raises:
            GptftError: one row alone does not fit into memory.
            DivergedError: a loss is no number, or has exploded.
        """
        if self._step != self.state.global_step:
            self._step, self._step_batches = self.state.global_step, []
            self._before = self.state.num_input_tokens_seen, self._random_state()
        self._step_batches.append(inputs)
        loss = self._learn(model, inputs, num_items_in_batch)
        while loss is None:
            self._halve()
            # A backward pass that broke off has left a part of its gradients: the step begins anew.
            model.zero_grad()
            self.state.num_input_tokens_seen = self._before[0]
            self._random_state(self._before[1])
            for batch in self._step_batches:
                loss = self._learn(model, batch, num_items_in_batch)
                if loss is None:
                    break
        self._losses.append((self._step + 1, len(self._step_batches) - 1, loss))
        if len(self._losses) >= UNREAD:
            self.check_losses()
        return loss

    def _learn(self, model: Any, inputs: dict[str, Any], count: Any) -> torch.Tensor | None:
        """The loss of a batch whose gradients are added; None where memory does not suffice."""
        rows, size = len(inputs["input_ids"]), self.state.train_batch_size or self._train_batch_size
        total = None
        for start in range(0, rows, size):
            part = {k: v[start : start + size] if torch.is_tensor(v) else v for k, v in inputs.items()}
            if start:
                part["token_count"] = 0
            try:
                loss = super().training_step(model, part, count)
            except RuntimeError as error:
                if not should_reduce_batch_size(error) and not isinstance(error, torch.OutOfMemoryError):
                    raise
                if self.args.world_size > 1 or min(rows, size) == 1:
                    what = "a batch does not fit" if min(rows, size) > 1 else "not even one row fits"
                    raise GptftError(
                        f"Out of memory at step {self._step + 1}: {what}. Lower data.max_length, train an adapter, set "
                        "training.gradient_checkpointing, or halve training.per_device_train_batch_size and double "
                        "training.gradient_accumulation_steps, which leaves the step as it is."
                    ) from error
                return None
            total = loss if total is None else total + loss
        return total

    def _halve(self) -> None:
        clear_device_cache()
        rows = min(len(self._step_batches[-1]["input_ids"]), self.state.train_batch_size or self._train_batch_size)
        self.state.train_batch_size = rows // 2
        self.console.print(
            f"[yellow]Out of memory[/yellow] at step {self._step + 1:,}: {rows // 2} rows are learned at once from "
            f"here on, not {rows}. The steps keep their rows.",
            highlight=False,
            soft_wrap=True,
        )

    def _random_state(self, state: Any = None) -> Any:
        """The random numbers' state, or with `state` its return to it."""
        devices = [torch] if self.args.device.type == "cpu" else [torch, torch.get_device_module(self.args.device)]
        if state is None:
            return [device.get_rng_state() for device in devices]
        for device, one in zip(devices, state, strict=True):
            device.set_rng_state(one)

    def log(self, logs: dict[str, float], *args: Any, **options: Any) -> None:
        """Look at the losses since the last time, then log: the Trainer has just read them from the device anyway."""
        super().log(logs, *args, **options)
        self.check_losses()

    def check_losses(self) -> None:
        """Stop where a loss is no number or has exploded.

        Raises:
            DivergedError: naming step and rows.
        """
        unread, self._losses = self._losses, []
        values = torch.stack([loss.float() for *_, loss in unread]).tolist() if unread else []
        steps: dict[int, float] = {}
        for (step, batch, _), value in zip(unread, values, strict=True):
            if not math.isfinite(value):
                self._stop(f"The loss of step {step:,} is {value}", step, batch)
            steps[step] = steps.get(step, 0.0) + value
        config: Any = getattr(self.model, "config", None)
        for step, value in steps.items():
            self._first_loss = value if self._first_loss is None else self._first_loss
            limit = EXPLODED * max(self._first_loss, math.log(getattr(config, "vocab_size", None) or 2))
            if value > limit and getattr(config, "problem_type", None) != "regression":
                self._stop(f"The loss of step {step:,} has exploded, to {value:.4g} from {self._first_loss:.4g}", step)

    def check_weights(self) -> None:
        """Stop where a weight is no number: what the last step made of it, no loss tells yet.

        Raises:
            DivergedError: naming the rows of the step.
        """
        self.check_losses()
        trained = [weight.detach() for weight in self.model.parameters() if weight.requires_grad]  # type: ignore[union-attr]
        local = [weight.to_local() if hasattr(weight, "to_local") else weight for weight in trained]
        finite = torch.stack([torch.isfinite(weight).all() for weight in local])
        if not bool(finite.all()):
            self._stop(f"Weights are no numbers after step {self.state.global_step:,}", self.state.global_step)

    def _stop(self, what: str, step: int, batch: int | None = None) -> None:
        raise DivergedError(
            f"{what}. Learned then: {self._rows_of(step, batch)}. Look at these rows (`gptft inspect`); lower "
            "training.learning_rate or training.max_grad_norm, or set model.dtype to float32."
        )

    def _rows_of(self, step: int, batch: int | None) -> str:
        loader: Any = self.callback_handler.train_dataloader
        sampler = getattr(loader, "batch_sampler", None)
        sampler = getattr(sampler, "batch_sampler", sampler)
        if not hasattr(sampler, "set_epoch"):
            return "rows of a stream"
        a_step = self.args.gradient_accumulation_steps * self.args.world_size
        epoch, index = divmod(step - 1, math.ceil(len(sampler) / a_step))  # type: ignore[arg-type]
        sampler.set_epoch(epoch)  # type: ignore[union-attr]
        batches = list(sampler)[index * a_step : (index + 1) * a_step]  # type: ignore[arg-type]
        if batch is not None and self.args.world_size == 1:
            batches = batches[batch : batch + 1]
        rows = [row for one in batches for row in one]
        dataset: Any = self.train_dataset
        named = [dataset[row].get("origin") or f"row {row + 1}" for row in rows[:20]]
        return ", ".join(named) + (f" and {len(rows) - 20} more" if len(rows) > 20 else "")

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Write a checkpoint beside its place, put it there whole, and only then remove older ones."""
        self.check_weights()
        args, state = self.args, self.state
        place, limit, name = Path(str(args.output_dir)), args.save_total_limit, f"checkpoint-{state.global_step}"
        writing = place / WRITING
        with disk_errors(place / name):
            if args.should_save:
                shutil.rmtree(writing, ignore_errors=True)
            self.accelerator.wait_for_everyone()
            args.output_dir, args.save_total_limit = str(writing), None
            try:
                super()._save_checkpoint(model, trial)
            except BaseException:
                # On a full disk this is the room for all that is still to be written.
                shutil.rmtree(writing, ignore_errors=True)
                raise
            finally:
                args.output_dir, args.save_total_limit = str(place), limit
            best = place / f"checkpoint-{state.best_global_step}"
            if best.name == name or best.is_dir():
                state.best_model_checkpoint = str(best)
            self.accelerator.wait_for_everyone()
            if args.should_save:
                state.save_to_json(os.path.join(writing, name, "trainer_state.json"))
                put_in_place(writing / name, place / name)
                remove_older(place, limit, state.best_model_checkpoint)
            self.accelerator.wait_for_everyone()
