"""Answers from prompts: left-padded batches of like length, or one answer as it is being written."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gptft.errors import UserError
from gptft.models.precision import autocast

DEFAULT_NEW_TOKENS = 256
"""Longest answer in tokens where nobody says otherwise. (GenerationConfig's own default cuts after 20.)"""
BATCH_ROWS = 32


@dataclass(frozen=True)
class Answer:
    """What a model generated: the text, and whether it ended by itself rather than by the limit."""

    text: str
    stopped: bool


def generation_settings(model: Any, changes: dict[str, Any]) -> Any:
    """The model's GenerationConfig with `changes`; an answer's length is always limited within the positions.

    A length in `changes` holds as it is. Without one the model's own or the default is taken, or half the positions
    where that is less.

    Raises:
        UserError: `max_new_tokens` in `changes` leaves no position for a prompt, or more than one answer to a prompt
            is asked for.
    """
    from transformers import GenerationConfig

    from gptft.models.loading import model_positions

    settings = {**model.generation_config.to_diff_dict(), **changes}
    positions, asked = model_positions(model.config), changes.get("max_new_tokens")
    if asked is None:
        settings["max_new_tokens"] = min(settings.get("max_new_tokens") or DEFAULT_NEW_TOKENS, positions // 2)
    elif asked >= positions:
        raise UserError(
            f"generation.max_new_tokens is {asked:,}, but the model has {positions:,} positions for prompt and answer "
            f"together: set it to at most {positions - 1:,}."
        )
    settings.pop("max_length", None)
    settings.pop("transformers_version", None)
    if (settings.get("num_return_sequences") or 1) > 1:
        raise UserError("generation.num_return_sequences: a prompt gets one answer here; leave it out.")
    return GenerationConfig(**settings)


def prompt_positions(model: Any, settings: Any) -> int:
    """Tokens that a prompt may have so that the longest answer still fits."""
    from gptft.models.loading import model_positions

    return model_positions(model.config) - settings.max_new_tokens


@torch.inference_mode()
def generate_answers(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[Sequence[int]],
    settings: Any,
    dtype: torch.dtype = torch.float32,
    advance: Callable[[int], None] = lambda rows: None,
) -> list[Answer]:
    """Generate an answer to each prompt.

    Args:
        model: a causal language model.
        tokenizer: its tokenizer, with pad and end-of-text tokens.
        prompts: token ids, each at most `prompt_positions` long.
        settings: a GenerationConfig.
        dtype: precision of the matrix products.
        advance: called with the number of rows answered after each batch.

    Returns:
        Answers in the order of the prompts.
    """
    device = next(model.parameters()).device
    answers: list[Answer | None] = [None] * len(prompts)
    order = sorted(range(len(prompts)), key=lambda index: -len(prompts[index]))
    for start in range(0, len(order), BATCH_ROWS):
        rows = order[start : start + BATCH_ROWS]
        ids, mask = left_padded([prompts[index] for index in rows], tokenizer.pad_token_id, device)
        with autocast(device, dtype):
            output = model.generate(input_ids=ids, attention_mask=mask, generation_config=settings, tokenizer=tokenizer)
        for index, generated in zip(rows, output[:, ids.shape[1] :].tolist(), strict=True):
            answers[index] = _answer(tokenizer, generated, settings.max_new_tokens)
        advance(len(rows))
    return [answer for answer in answers if answer is not None]


def left_padded(prompts: Sequence[Sequence[int]], pad: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Prompts as ids and attention mask (batch, length); padding stands left, so that answers begin in one column."""
    length = max(len(prompt) for prompt in prompts)
    ids = torch.tensor([[*[pad] * (length - len(prompt)), *prompt] for prompt in prompts], device=device)
    mask = torch.tensor([[0] * (length - len(prompt)) + [1] * len(prompt) for prompt in prompts], device=device)
    return ids, mask


def _answer(tokenizer: Any, generated: list[int], limit: int) -> Answer:
    # What ended before its neighbours in the batch (at end-of-text, at a stop string) is filled up with padding.
    ends = [index for index, token in enumerate(generated) if token in (tokenizer.eos_token_id, tokenizer.pad_token_id)]
    text = tokenizer.decode(generated[: ends[0]] if ends else generated, skip_special_tokens=True)
    return Answer(text.strip(), bool(ends) or len(generated) < limit)
