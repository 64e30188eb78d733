"""Which rows share a step and a batch, and how they become tensors."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch.utils.data import BatchSampler

from gptft.models.logits import IGNORED

STEPS_SORTED_TOGETHER = 16
"""Rows of so many steps are drawn at random, then sorted by length: enough to waste little on padding, and few enough
that a step still mixes."""
TOKENS_AT_ONCE = 2048
"""About so many tokens a CPU learns at once: more are no faster, and only take memory (docs/performance.md)."""
BLANK = -1
"""The number of a row that teaches nothing."""


class WithBlank(torch.utils.data.Dataset[dict[str, Any]]):
    """Encoded rows, and at `BLANK` the first of them marked as `blank`."""

    def __init__(self, rows: Any) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.rows[index] if index != BLANK else {**self.rows[0], "blank": True}


def collate_with_blank(
    collate: Callable[[list[dict[str, Any]]], dict[str, Any]], rows: list[dict[str, Any]]
) -> dict[str, Any]:
    """Collate; a batch of a blank row has `blank`, and nothing of it is counted."""
    batch = collate(rows)
    if "blank" in rows[0]:
        counted = "shift_labels" if "shift_labels" in batch else "labels"
        batch |= {counted: torch.full_like(batch[counted], IGNORED), "token_count": 0, "blank": True}
    return batch


class LengthGroupedBatches(BatchSampler):
    """Batches of row numbers for one epoch after another; rows of like length share a batch.

    The rows of a step depend on seed, epoch and the step's size alone, not on how many batches it is split over:
    batch 8 sees the same steps as batch 2 with 4 accumulation steps. The order needs no state, so a resumed run goes
    on with the same rows.

    Args:
        lengths: tokens of each row.
        batch_size: rows of one batch.
        batches_per_step: accumulation steps.
        seed: of the order.
        strategy: `group_by_length`, `random` (rows of any lengths share a batch) or `sequential` (the rows' own order
            in every epoch).
        processes: how many share each step's batches.
        rank: which of them this is. Where a step has no batch for it, it gets one of `BLANK` alone, which a collator
            makes a row that teaches nothing: all have as many batches.

    Raises:
        ValueError: another strategy.
    """

    def __init__(
        self,
        lengths: Sequence[int],
        batch_size: int,
        batches_per_step: int,
        seed: int,
        strategy: str = "group_by_length",
        processes: int = 1,
        rank: int = 0,
    ) -> None:
        if strategy not in ("group_by_length", "random", "sequential"):
            raise ValueError(f"no such order of rows: {strategy}")
        self.lengths = torch.tensor(lengths)
        self.batch_size = batch_size
        self.step_size = batch_size * batches_per_step * processes
        self.processes = processes
        self.rank = rank
        self.seed = seed
        self.strategy = strategy
        self.epoch = 0
        self.drop_last = False

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order comes next; the Trainer calls it."""
        self.epoch = epoch

    def __len__(self) -> int:
        """Batches in an epoch."""
        full, rest = divmod(len(self.lengths), self.step_size)
        together = self.batch_size * self.processes
        return full * (self.step_size // together) + -(-rest // together)

    def __iter__(self) -> Iterator[list[int]]:
        """The batches of the epoch; its last step is the short one, as the Trainer expects."""
        for step in self._steps():
            batches = [batch.tolist() for batch in step.split(self.batch_size)]
            batches += [[BLANK]] * (-len(batches) % self.processes)
            yield from batches[self.rank :: self.processes]

    def _steps(self) -> Iterator[torch.Tensor]:
        if self.strategy == "sequential":
            yield from torch.arange(len(self.lengths)).split(self.step_size)
            return
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        order = torch.randperm(len(self.lengths), generator=generator)
        full = len(order) // self.step_size * self.step_size
        steps: list[torch.Tensor] = []
        span = self.step_size * STEPS_SORTED_TOGETHER
        for start in range(0, full, span):
            rows = order[start : min(start + span, full)]
            if self.strategy == "group_by_length":
                rows = rows[torch.argsort(self.lengths[rows], descending=True, stable=True)]
            steps += rows.split(self.step_size)
        for index in torch.randperm(len(steps), generator=generator).tolist():
            yield steps[index]
        if full < len(order):
            yield order[full:]


class Collator:
    """Rows of token ids to tensors (batch, length), padded on the right.

    Labels exist before padding, so the pad token's id does not matter: end-of-text stays supervised where it is also
    the pad token. `lengths` (batch) are the rows', `token_count` is their sum. `position_ids` are passed on where
    documents share rows.
    """

    def __init__(self, pad_token_id: int) -> None:
        self.pad_token_id = pad_token_id

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        """Collate; the keys are those above."""
        lengths = [len(row["input_ids"]) for row in rows]
        length = max(lengths)
        batch: dict[str, Any] = {
            "input_ids": _padded([row["input_ids"] for row in rows], length, self.pad_token_id),
            "labels": _padded([row["labels"] for row in rows], length, IGNORED),
            "lengths": torch.tensor(lengths),
            "token_count": sum(lengths),
        }
        # A row of one document needs no positions: they are counted from 0, and plain causal attention is faster.
        if "position_ids" in rows[0] and any(0 in row["position_ids"][1:] for row in rows):
            batch["position_ids"] = _padded([row["position_ids"] for row in rows], length, 0)
        return batch


class ClassCollator:
    """Rows of token ids and labels to tensors.

    `input_ids` (batch, length) are padded on the right and have `lengths` (batch); `labels` are ids (batch), zeros and
    ones (batch, classes), or numbers (batch).

    `shift_labels` are zeros of that shape: by that name the Trainer counts the step's labels as they are, and leaves
    out neither the first, as it does with a language model's, nor a number that happens to be -100.
    """

    def __init__(self, pad_token_id: int, problem_type: str) -> None:
        self.pad_token_id = pad_token_id
        self.problem_type = problem_type

    @staticmethod
    def labels(rows: list[list[float]], problem_type: str) -> torch.Tensor:
        """Encoded labels as a tensor."""
        labels = torch.tensor(rows, dtype=torch.float32)
        if problem_type == "multi_label_classification":
            return labels
        return labels[:, 0] if problem_type == "regression" else labels[:, 0].long()

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        """Collate; `token_count` is the number of real tokens."""
        lengths = [len(row["input_ids"]) for row in rows]
        labels = self.labels([row["labels"] for row in rows], self.problem_type)
        return {
            "input_ids": _padded([row["input_ids"] for row in rows], max(lengths), self.pad_token_id),
            "lengths": torch.tensor(lengths),
            "labels": labels,
            "shift_labels": torch.zeros_like(labels),
            "token_count": sum(lengths),
        }


def tokens_at_once(device: torch.device, processes: int = 1) -> float:
    """About how many padded tokens are learned at once; several processes must learn alike, so all of a batch."""
    return TOKENS_AT_ONCE if device.type == "cpu" and processes == 1 else math.inf


def rows_at_once(rows: int, length: int, tokens: float) -> int:
    """How many of a batch's rows are learned at once: parts of about `tokens` padded tokens, as even as can be."""
    return math.ceil(rows / max(1, math.ceil(rows * length / tokens)))


def parts_of(batch: dict[str, Any], rows: int) -> Iterator[dict[str, Any]]:
    """A collated batch in parts of at most `rows` rows, each as long as its longest row."""
    count, length = batch["input_ids"].shape
    if count <= rows:
        yield batch
        return
    by_token = {"input_ids", "position_ids"} | ({"labels"} if "shift_labels" not in batch else set())
    for start in range(0, count, rows):
        part = {k: v[start : start + rows] if torch.is_tensor(v) else v for k, v in batch.items()}
        length = int(part["lengths"].max())
        yield {name: value[:, :length] if name in by_token else value for name, value in part.items()}


def _padded(rows: list[list[int]], length: int, value: int) -> torch.Tensor:
    return torch.tensor([[*row, *[value] * (length - len(row))] for row in rows], dtype=torch.long)


def batches_by_tokens(lengths: Sequence[int], token_budget: int) -> list[list[int]]:
    """Row numbers in batches of like length, longest first, whose padded size is at most `token_budget` tokens.

    A single row beyond the budget is a batch of its own.
    """
    batches: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if not batches or lengths[batches[-1][0]] * (len(batches[-1]) + 1) > token_budget:
            batches.append([])
        batches[-1].append(index)
    return batches
