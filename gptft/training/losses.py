"""The loss of a data set: the mean over its supervised tokens, whatever the batches."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from gptft.models.logits import row_losses
from gptft.training.batching import Collator, batches_by_tokens

EVALUATION_TOKENS = 4096
"""Padded tokens of an evaluation batch: logits of one batch are all that is ever held."""


def dataset_losses(model: Any, dataset: Any, pad_token_id: int) -> tuple[np.ndarray, np.ndarray]:
    """Negative log-likelihood (nats, float64) and supervised tokens of each row of an encoded data set.

    Args:
        model: a causal language model; it is put in evaluation mode and back.
        dataset: rows with `input_ids`, `labels`, maybe `position_ids`.
        pad_token_id: for the collator.

    Returns:
        Two arrays of shape (rows,), in the data set's order.
    """
    device = next(model.parameters()).device
    was_training = model.training
    model.eval()
    collate = Collator(pad_token_id)
    losses, counts = np.zeros(len(dataset)), np.zeros(len(dataset), dtype=np.int64)
    try:
        for indices in batches_by_tokens(dataset["length"][:], EVALUATION_TOKENS):
            batch = collate([dataset[index] for index in indices])
            tensors = {name: value.to(device) for name, value in batch.items() if isinstance(value, torch.Tensor)}
            sums, tokens = row_losses(model, tensors)
            losses[indices], counts[indices] = sums.cpu().numpy(), tokens.cpu().numpy()
    finally:
        model.train(was_training)
    return losses, counts
