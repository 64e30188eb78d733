"""What a model says of a whole data set: losses of its rows or logits of their labels, never more than a batch's."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch

from gptft.models.classes import Classes
from gptft.models.logits import class_logits, row_losses
from gptft.training.batching import ClassCollator, Collator, batches_by_tokens
from gptft.training.processes import rank, summed, world_size

EVALUATION_TOKENS = 4096
EVALUATION_LOGITS = 2**26
"""Padded tokens of an evaluation batch, and how many numbers their logits may have (256 MB in float32, and as much for
their softmax): those of one batch are all that is ever held."""


def dataset_losses(model: Any, dataset: Any, pad_token_id: int) -> tuple[np.ndarray, np.ndarray]:
    """Negative log-likelihood (nats, float64) and supervised tokens of each row of an encoded data set.

    Args:
        model: a causal language model; it is put in evaluation mode and back.
        dataset: rows with `input_ids`, `labels`, maybe `position_ids`.
        pad_token_id: for the collator.

    Returns:
        Two arrays of shape (rows,), in the data set's order.
    """
    losses, counts = np.zeros(len(dataset)), np.zeros(len(dataset), dtype=np.int64)
    for indices, (sums, tokens) in _read(
        model, dataset, Collator(pad_token_id), lambda batch: row_losses(model, batch)
    ):
        losses[indices], counts[indices] = sums.cpu().numpy(), tokens.cpu().numpy()
    device = next(model.parameters()).device
    return summed(losses, device), summed(counts, device)


@torch.no_grad()
def dataset_class_logits(model: Any, dataset: Any, classes: Classes, pad_token_id: int) -> np.ndarray:
    """Logits of the labels, shape (rows, classes), float32, in the data set's order; arguments as `dataset_losses`."""
    logits = np.zeros((len(dataset), len(classes.names)), dtype=np.float32)
    collate = ClassCollator(pad_token_id, classes.problem_type)
    for indices, found in _read(
        model, dataset, collate, lambda batch: class_logits(model, batch, classes.token_ids)[0]
    ):
        logits[indices] = found.float().cpu().numpy()
    return summed(logits, next(model.parameters()).device)


def _read(
    model: Any,
    dataset: Any,
    collate: Callable[[list[dict[str, Any]]], dict[str, Any]],
    read: Callable[[dict[str, torch.Tensor]], Any],
) -> Iterator[tuple[list[int], Any]]:
    """Row numbers of a batch and what is read from it, on the model's device and in evaluation mode.

    Several processes share the batches, and ask the model equally often, as one whose weights are spread over them must
    be asked by all at once.
    """
    device = next(model.parameters()).device
    was_training = model.training
    model.eval()
    budget = min(EVALUATION_TOKENS, EVALUATION_LOGITS // model.config.vocab_size)
    try:
        batches = batches_by_tokens(dataset["length"][:], budget)
        for first in range(0, len(batches), world_size()):
            own = first + rank()
            indices = batches[min(own, len(batches) - 1)]
            batch = collate([dataset[index] for index in indices])
            found = read({name: value.to(device) for name, value in batch.items() if isinstance(value, torch.Tensor)})
            if own < len(batches):
                yield indices, found
    finally:
        model.train(was_training)
