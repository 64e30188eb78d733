"""What a model says of a whole data set: losses of its rows or logits of their labels, never more than a batch's."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch

from gptft.models.classes import Classes
from gptft.models.logits import class_logits, row_losses
from gptft.training.batching import ClassCollator, Collator, batches_by_tokens

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
    for indices, batch in _batches(model, dataset, Collator(pad_token_id)):
        sums, tokens = row_losses(model, batch)
        losses[indices], counts[indices] = sums.cpu().numpy(), tokens.cpu().numpy()
    return losses, counts


@torch.no_grad()
def dataset_class_logits(model: Any, dataset: Any, classes: Classes, pad_token_id: int) -> np.ndarray:
    """Logits of the labels, shape (rows, classes), float32, in the data set's order; arguments as `dataset_losses`."""
    logits = np.zeros((len(dataset), len(classes.names)), dtype=np.float32)
    for indices, batch in _batches(model, dataset, ClassCollator(pad_token_id, classes.problem_type)):
        logits[indices] = class_logits(model, batch, classes.token_ids)[0].float().cpu().numpy()
    return logits


def _batches(
    model: Any, dataset: Any, collate: Callable[[list[dict[str, Any]]], dict[str, Any]]
) -> Iterator[tuple[list[int], dict[str, torch.Tensor]]]:
    """Row numbers and their tensors on the model's device; the model is in evaluation mode meanwhile."""
    device = next(model.parameters()).device
    was_training = model.training
    model.eval()
    budget = min(EVALUATION_TOKENS, EVALUATION_LOGITS // model.config.vocab_size)
    try:
        for indices in batches_by_tokens(dataset["length"][:], budget):
            batch = collate([dataset[index] for index in indices])
            yield indices, {name: value.to(device) for name, value in batch.items() if isinstance(value, torch.Tensor)}
    finally:
        model.train(was_training)
