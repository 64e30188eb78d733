"""Every reading of logits is here: the model's prediction is `outputs.logits`, one score for each vocabulary entry.

The logits at position t score token t + 1. They are computed only where they are read: at the positions whose next
token is supervised (training, perplexity), or at the last position (the next token, labels).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from gptft.models.kernels import cross_entropy_sum

IGNORED = -100
"""The label of a token that is not supervised."""


class Prediction(NamedTuple):
    """A candidate for the next token."""

    token_id: int
    token: str
    probability: float
    logit: float


def supervised_logits(model: torch.nn.Module, batch: dict[str, Any]) -> tuple[Tensor, Tensor, Tensor]:
    """Run the model and project to the vocabulary only where a supervised token follows.

    Args:
        model: a causal language model that takes `logits_to_keep` (all of transformers' do).
        batch: `input_ids` and `labels` (batch, length), and `position_ids` (batch, length) where documents share a
            row: positions then start again from 0 at each document, and with neither mask nor cache transformers
            keeps the documents apart. Rows are padded on the right, where no real token can see the padding, so no
            attention mask is needed and attention stays on its fused kernel.

    Returns:
        logits (supervised tokens, vocabulary), their targets (supervised tokens), and the mask (batch, length) of the
        positions read; supervised tokens are ordered by row, then position.
    """
    targets = functional.pad(batch["labels"][:, 1:], (0, 1), value=IGNORED)
    read = targets != IGNORED
    inputs = {name: batch[name] for name in ("input_ids", "position_ids") if name in batch}
    outputs = model(**inputs, use_cache=False, logits_to_keep=read)
    return outputs.logits, targets[read], read


def supervised_loss_sum(model: torch.nn.Module, batch: dict[str, Any], label_smoothing: float = 0.0) -> Tensor:
    """Sum of the cross-entropy (nats) over the supervised tokens of a batch, as a scalar to differentiate.

    A batch without any supervised token gives a zero that still depends on the weights.
    """
    logits, targets, _ = supervised_logits(model, batch)
    if targets.numel() == 0:
        return logits.float().sum() * 0.0
    return cross_entropy_sum(logits, targets, label_smoothing)


@torch.no_grad()
def row_losses(model: torch.nn.Module, batch: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """Negative log-likelihood (nats) and number of supervised tokens of each row, both of shape (batch,)."""
    logits, targets, read = supervised_logits(model, batch)
    losses = functional.cross_entropy(logits.float(), targets, reduction="none").double()
    rows = read.nonzero()[:, 0]
    sums = torch.zeros(read.shape[0], dtype=torch.float64, device=losses.device).index_add_(0, rows, losses)
    return sums, read.sum(dim=1)


def class_logits(
    model: torch.nn.Module, batch: dict[str, Tensor], token_ids: Sequence[int] = (), with_text: bool = False
) -> tuple[Tensor, Tensor | None]:
    """Score the labels of each row, from its last real token.

    Args:
        model: with a head for sequences, whose logits are the labels'; or a causal language model.
        batch: `input_ids` (batch, length), padded on the right, and `lengths` (batch).
        token_ids: with a language model, the token that stands for each label; its logits are the label's.
        with_text: with a language model, compute the loss on the text too.

    Returns:
        logits (batch, classes), and with `with_text` the mean negative log-likelihood (nats) of each row's own tokens
        (batch; 0 for a row of one token).
    """
    ids, last = batch["input_ids"], batch["lengths"] - 1
    if not token_ids:
        return model(input_ids=ids, use_cache=False).logits, None
    positions = torch.arange(ids.shape[1], device=ids.device)
    read = positions <= last[:, None] if with_text else positions == last[:, None]
    logits = model(input_ids=ids, use_cache=False, logits_to_keep=read).logits
    # Rows after each other: a row's last position is where their lengths add up to.
    ends = read.sum(dim=1).cumsum(dim=0) - 1
    scores = logits[ends][:, torch.tensor(token_ids, device=ids.device)]
    if not with_text:
        return scores, None
    inside = torch.ones(len(logits), dtype=torch.bool, device=ids.device).index_fill_(0, ends, False)
    targets = ids[:, 1:][(positions[1:] <= last[:, None])]
    losses = functional.cross_entropy(logits[inside].float(), targets, reduction="none")
    rows = torch.repeat_interleave(torch.arange(len(last), device=ids.device), last)
    sums = torch.zeros(len(last), device=ids.device).index_add(0, rows, losses)
    return scores, sums / last.clamp(min=1)


@torch.no_grad()
def keeps_documents_apart(model: Any) -> bool:
    """Whether a document's logits stay the same when another stands before it in the row, as packing needs."""
    was_training = model.training
    model.eval()
    row = torch.tensor([[1, 2, 3, 4, 5, 6]], device=next(model.parameters()).device)
    positions = torch.tensor([[0, 1, 2, 0, 1, 2]], device=row.device)
    try:
        together = model(input_ids=row, position_ids=positions, use_cache=False).logits[:, 3:]
        alone = model(input_ids=row[:, 3:], use_cache=False).logits
    except TypeError:
        # The model takes no positions at all.
        return False
    finally:
        model.train(was_training)
    return torch.allclose(together, alone, rtol=1e-3, atol=1e-3)


@torch.no_grad()
def text_logits(model: Any, input_ids: Sequence[int]) -> Tensor:
    """All logits of one text in float32: (length, vocabulary), or (1, classes) of a model with a head for labels."""
    ids = torch.tensor([list(input_ids)], device=model.device)
    logits = model(input_ids=ids, use_cache=False).logits.float()
    return logits[0] if model.can_generate() else logits


@torch.no_grad()
def next_tokens(model: torch.nn.Module, tokenizer: Any, input_ids: Sequence[int], count: int = 10) -> list[Prediction]:
    """The `count` likeliest next tokens after `input_ids`, the likeliest first.

    The softmax of the last position's logits is a distribution over the whole vocabulary: the model's prediction.
    """
    device = next(model.parameters()).device
    outputs = model(input_ids=torch.tensor([list(input_ids)], device=device), use_cache=False, logits_to_keep=1)
    logits = outputs.logits[0, -1].float()
    probabilities = logits.softmax(dim=-1)
    best = probabilities.topk(min(count, len(probabilities)))
    return [
        Prediction(token, tokenizer.decode([token]), probability, logits[token].item())
        for probability, token in zip(best.values.tolist(), best.indices.tolist(), strict=True)
    ]


@torch.no_grad()
def answer_tokens(
    model: torch.nn.Module, tokenizer: Any, prompt: Sequence[int], answer: Sequence[int], count: int = 8
) -> list[tuple[Prediction, list[Prediction]]]:
    """Each token of an answer, and the `count` likeliest at its place, from the logits of one pass over both.

    The probabilities are the model's own, before temperature, top-p and penalties. A token's text is what it adds to
    what stands before it: of a character made of several tokens all but the last add U+FFFD, the last the character.
    """
    ids = torch.tensor([[*prompt, *answer]], device=next(model.parameters()).device)
    logits = model(input_ids=ids, use_cache=False, logits_to_keep=len(answer) + 1).logits[0, :-1].float().cpu()
    probabilities = logits.softmax(dim=-1)
    likeliest = probabilities.topk(min(count, logits.shape[1])).indices.tolist()
    before, started, places = [], [], []
    for place, chosen in enumerate(answer):
        known = len(tokenizer.decode(before))
        # Decoded after a whole character, as some tokenizers drop a text's first space.
        chosen, *candidates = (
            Prediction(
                token,
                tokenizer.decode([*before, *started, token])[known:],
                probabilities[place, token].item(),
                logits[place, token].item(),
            )
            for token in (chosen, *likeliest[place])
        )
        places.append((chosen, candidates))
        started.append(chosen.token_id)
        if not chosen.token.endswith("\ufffd"):
            before, started = started, []
    return places
