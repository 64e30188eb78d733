"""Batches of a stream, encoded as they are needed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.utils.data import IterableDataset, get_worker_info

from gptft.data.streams import blocks
from gptft.recipe.schema import Recipe
from gptft.tasks import Task
from gptft.training.batching import LengthGroupedBatches
from gptft.training.processes import rank, world_size


class StreamedBatches(IterableDataset[dict[str, Any]]):
    """Collated batches for ever: of blocks of rows, encoded, and rows of like length together.

    Processes and the loader's workers share the rows, none reads another's. The order needs no state: a resumed run
    reads again up to where it stopped, without learning.

    Args:
        recipe: its `data` says what is read.
        task: encodes rows.
        tokenizer: for it.
        max_length: the longest example in tokens.
        batch_size: rows of a batch.
        seed: of the order within blocks.
        strategy: as that of LengthGroupedBatches.
        collate: makes a batch of encoded rows.
    """

    def __init__(
        self,
        recipe: Recipe,
        task: Task,
        tokenizer: Any,
        max_length: int,
        batch_size: int,
        seed: int,
        strategy: str,
        collate: Callable[[list[dict[str, Any]]], dict[str, Any]],
    ) -> None:
        self.recipe, self.task, self.tokenizer, self.max_length = recipe, task, tokenizer, max_length
        self.batch_size, self.seed, self.strategy, self.collate = batch_size, seed, strategy, collate

    def __iter__(self) -> Iterator[dict[str, Any]]:
        worker = get_worker_info()
        number, workers = (worker.id, worker.num_workers) if worker else (0, 1)
        share, shares = rank() * workers + number, world_size() * workers
        torch.manual_seed(self.seed) if worker else None
        left: list[dict[str, Any]] = []
        for index, rows in enumerate(blocks(self.recipe, share, shares)):
            examples: Any = self.task.examples(rows, self.tokenizer, self.max_length, f"stream-{share}-{index}")
            encoded = [*left, *(example for example in examples if example["supervised"])]
            whole = len(encoded) // self.batch_size * self.batch_size
            encoded, left = encoded[:whole], encoded[whole:]
            if not encoded:
                continue
            order = LengthGroupedBatches(
                [row["length"] for row in encoded], self.batch_size, 1, self.seed, self.strategy
            )
            order.set_epoch(index)
            yield from (self.collate([encoded[row] for row in batch]) for batch in order)
