"""A thin Trainer: logits only where they are read, the loss a mean over the step's supervised tokens or labels."""

from __future__ import annotations

import time
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import numpy as np
import torch
from accelerate.data_loader import prepare_data_loader
from torch.utils.data import DataLoader, IterableDataset

from gptft.errors import UserError
from gptft.models.kernels import keep_freed_memory, use_fast_kernels
from gptft.models.precision import autocast
from gptft.training.batching import LengthGroupedBatches, WithBlank, collate_with_blank
from gptft.training.faults import CarefulTrainer
from gptft.training.objectives import LanguageObjective, Objective
from gptft.training.processes import spread_over_cpus, spreads_weights, summed


class FineTuner(CarefulTrainer):
    """`transformers.Trainer` for encoded rows (`input_ids`, `labels`, `length`, maybe `position_ids`).

    What differs from the plain Trainer: the objective, which says how rows become batches, what is minimised and what
    is measured (see `training.objectives`), and how rows are grouped into batches (see `LengthGroupedBatches`).
    """

    def __init__(self, *, processing_class: Any, objective: Objective | None = None, **options: Any) -> None:
        self.objective: Objective = objective or LanguageObjective(processing_class.pad_token_id)
        args = options["args"]
        self.own_precision = args.bf16 and not spreads_weights(args)
        if self.own_precision:
            # Accelerate would turn all that the model gives into float32, twice the memory of the logits.
            args.mixed_precision = "no"
        if spreads_weights(args) and args.world_size > 1 and args.device.type == "cpu" and not args.deepspeed:
            spread_over_cpus(args)
        super().__init__(processing_class=processing_class, data_collator=self.objective.collate, **options)
        if spreads_weights(args) and not (self.is_fsdp_enabled or self.is_deepspeed_enabled):
            raise UserError("Weights are spread by FSDP over several processes (--launch N), by ZeRO over GPUs only.")
        use_fast_kernels(self.model)
        if self.args.device.type == "cpu":
            keep_freed_memory()
        # The loss below is divided by the tokens of the whole step, so it needs no division by accumulation steps.
        self.model_accepts_loss_kwargs = True

    def get_train_dataloader(self) -> DataLoader[Any]:
        """Batches in the order of `training.train_sampling_strategy`: rows of like length together by default."""
        args, dataset = self.args, self.train_dataset
        if isinstance(dataset, IterableDataset):
            loader = DataLoader(dataset, batch_size=None, num_workers=args.dataloader_num_workers)
            return prepare_data_loader(
                loader, args.device, num_processes=1, process_index=0, put_on_device=True, dispatch_batches=False
            )
        sampler = LengthGroupedBatches(
            # [:] reads the column at once; indexing a column of `datasets` row by row takes half a millisecond each.
            dataset["length"][:],  # pyright: ignore[reportOptionalSubscript, reportIndexIssue, reportArgumentType]
            # Not the arguments' size: `auto_find_batch_size` lowers this one.
            self._train_batch_size,
            args.gradient_accumulation_steps,
            args.data_seed if args.data_seed is not None else args.seed,
            strategy=args.train_sampling_strategy,
            processes=args.world_size,
            rank=args.process_index,
        )
        loader = DataLoader(
            WithBlank(dataset),
            batch_sampler=sampler,
            collate_fn=partial(collate_with_blank, self.data_collator),
            num_workers=args.dataloader_num_workers,
            pin_memory=args.dataloader_pin_memory and torch.cuda.is_available(),
            persistent_workers=args.dataloader_persistent_workers,
            prefetch_factor=args.dataloader_prefetch_factor,
            multiprocessing_context=args.dataloader_multiprocessing_context,
            in_order=args.dataloader_in_order,
        )
        # The sampler has shared out the batches already.
        return prepare_data_loader(loader, args.device, num_processes=1, process_index=0, put_on_device=True)

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: torch.device) -> tuple[list[Any], Any]:
        """The batches of a step, whose real tokens are counted, and the number of its labels in all processes."""
        batches, count = super().get_batch_samples(epoch_iterator, num_batches, device)
        own = np.array(sum(batch.pop("token_count") for batch in batches))
        self.state.num_input_tokens_seen += int(summed(own, self.args.device))
        return batches, count

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> torch.Tensor:
        """The batch's loss summed over its supervised tokens or labels, divided by those of the whole step."""
        # Gradients are averaged over processes, and so is the loss that is logged.
        share = 0 if inputs.pop("blank", False) else self.args.world_size
        loss = self.objective.loss_sum(model, inputs, self.args.label_smoothing_factor)
        return loss * share / num_items_in_batch

    def autocast_smart_context_manager(self, cache_enabled: bool | None = True) -> AbstractContextManager[Any]:
        """The precision of a loss and of an evaluation, where Accelerate has not put it around the model."""
        return autocast(self.args.device, torch.bfloat16) if self.own_precision else nullcontext()

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: Any = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """What the objective measures on the validation rows."""
        dataset: Any = self.eval_dataset if eval_dataset is None else eval_dataset
        start = time.perf_counter()
        with self.compute_loss_context_manager():
            scores = self.objective.evaluate(self.accelerator.unwrap_model(self.model), dataset)
        scores["runtime"] = round(time.perf_counter() - start, 3)
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in scores.items()}
        self.log(dict(metrics))
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics
