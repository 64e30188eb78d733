"""Answers from prompts: by our own decoding where it can, else by `model.generate` in batches of like length."""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gptft.errors import UserError
from gptft.models.kernels import use_fast_kernels

DEFAULT_NEW_TOKENS = 256
"""Longest answer in tokens where nobody says otherwise. (GenerationConfig's own default cuts after 20.)"""
BATCH_TOKENS = 8192
"""Tokens in a batch of `model.generate`, prompts and longest answers together."""
BY_SCORES = {
    "EpsilonLogitsWarper",
    "EtaLogitsWarper",
    "InfNanRemoveLogitsProcessor",
    "LogitNormalization",
    "MinPLogitsWarper",
    "SuppressTokensLogitsProcessor",
    "TemperatureLogitsWarper",
    "TopHLogitsWarper",
    "TopKLogitsWarper",
    "TopPLogitsWarper",
    "TypicalLogitsWarper",
}
"""The processors of transformers that look at a token's scores only, not at what stands before it."""


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
        model: a causal language model; its weights and its mode are left as they are.
        tokenizer: its tokenizer, with pad and end-of-text tokens.
        prompts: token ids, each at most `prompt_positions` long.
        settings: a GenerationConfig.
        dtype: precision of weights and matrix products.
        advance: called with the number of rows answered, whenever some are.

    Returns:
        Answers in the order of the prompts.
    """
    generated, ends = generate_tokens(model, tokenizer, prompts, settings, dtype, advance)
    return [_answer(tokenizer, tokens, ends, settings.max_new_tokens) for tokens in generated]


@torch.inference_mode()
def generate_tokens(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[Sequence[int]],
    settings: Any,
    dtype: torch.dtype = torch.float32,
    advance: Callable[[int], None] = lambda rows: None,
    limits: Sequence[int] | None = None,
) -> tuple[list[list[int]], frozenset[int]]:
    """Generate the tokens of an answer to each prompt.

    Greedy answers, and sampled ones whose distribution depends on the scores of the next token alone, come from
    `decode`; all else, and models that do not keep to attention masks, from `model.generate`. A sampled answer
    depends on torch's seed and the number of the prompt, not on what is generated beside it; not so from `generate`.

    Args:
        model: as for `generate_answers`, and so the next five.
        tokenizer: its tokenizer.
        prompts: token ids.
        settings: a GenerationConfig.
        dtype: precision of weights and matrix products.
        advance: called with the number of rows answered, whenever some are.
        limits: most tokens of each answer, instead of the settings' one for all.

    Returns:
        The tokens of each answer, padded where `generate` pads, and the tokens that close one.
    """
    from gptft.models.decoding import decode, keeps_to_masks

    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        ends, choose = token_choice(model, tokenizer, settings, len(prompts))
        limits = limits or [settings.max_new_tokens] * len(prompts)
        cast = _cast(model, dtype)
        if choose and all(prompts) and keeps_to_masks(cast):
            return decode(cast, prompts, limits, ends, choose, advance), ends
        return _generate(cast, tokenizer, prompts, settings, limits, advance), ends
    finally:
        for module in training:
            module.training = True


def token_choice(
    model: Any, tokenizer: Any, settings: Any, rows: int, random: torch.Generator | None = None
) -> tuple[frozenset[int], Any]:
    """The tokens that close an answer, and how `decode` chooses tokens; None where only `generate` can."""
    from transformers.generation import EosTokenCriteria, GenerationMode, MaxLengthCriteria

    prepared: dict[str, Any] = {}

    def prepare(
        model: Any, input_ids: Tensor, logits_processor: Any, stopping_criteria: Any, generation_config: Any, **_: Any
    ) -> Tensor:
        prepared.update(processors=logits_processor, criteria=stopping_criteria, settings=generation_config)
        return input_ids

    own = {tokenizer.eos_token_id, tokenizer.pad_token_id}
    ids = torch.zeros((1, 1), dtype=torch.long, device=next(model.parameters()).device)
    try:
        model.generate(
            input_ids=ids,
            attention_mask=ids + 1,
            generation_config=settings,
            custom_generate=prepare,
            tokenizer=tokenizer,
        )
    except (TypeError, ValueError):
        # What is wrong, or asks for more than these arguments, `generate` says or does.
        return frozenset(own), None
    merged = prepared["settings"]
    closing = merged.eos_token_id if isinstance(merged.eos_token_id, list) else [merged.eos_token_id]
    ends = frozenset(own | {token for token in closing if token is not None})
    simple = (
        merged.get_generation_mode() in (GenerationMode.GREEDY_SEARCH, GenerationMode.SAMPLE)
        and all(type(criterion) in (MaxLengthCriteria, EosTokenCriteria) for criterion in prepared["criteria"])
        and all(type(processor).__name__ in BY_SCORES for processor in prepared["processors"])
        and merged.use_cache
        and not (merged.cache_implementation or merged.token_healing or merged.use_mtp)
    )
    if not simple:
        return ends, None
    draws = torch.rand(rows, settings.max_new_tokens, generator=random) if merged.do_sample else None

    def choose(scores: Tensor, numbers: list[int], places: list[int]) -> list[int]:
        if prepared["processors"]:
            scores = prepared["processors"](None, scores.float())
        if draws is None:
            # In half precision torch is five times slower at it.
            return scores.float().argmax(dim=-1).tolist()
        cumulative = scores.softmax(dim=-1, dtype=torch.float32).cumsum(dim=-1)
        total = cumulative[:, -1:]
        below = total.nextafter(torch.zeros_like(total))
        drawn = (draws[numbers, places, None].to(total.device) * total).minimum(below)
        return torch.searchsorted(cumulative, drawn, right=True)[:, 0].tolist()

    return ends, choose


def _cast(model: Any, dtype: torch.dtype) -> Any:
    """The model with its weights in a half precision and the faster kernels; in float32 as it is.

    Autocast would cast the weights again at every step. What is not as exact as float32 may be computed faster.
    """
    if dtype is torch.float32:
        return model
    # A copy takes for a weight what stands under its id, so the model's own are neither changed nor copied.
    weights = {
        id(weight): torch.nn.Parameter(weight.to(dtype), requires_grad=False)
        if weight.is_floating_point() and weight.dtype != dtype
        else weight
        for weight in model.parameters()
    }
    cast = copy.deepcopy(model, weights)
    use_fast_kernels(cast)
    return cast


def _generate(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[Sequence[int]],
    settings: Any,
    limits: Sequence[int],
    advance: Callable[[int], None],
) -> list[list[int]]:
    device = next(model.parameters()).device
    generated: list[list[int]] = [[] for _ in prompts]
    order = deque(sorted(range(len(prompts)), key=lambda index: -len(prompts[index])))
    while order:
        longest = len(prompts[order[0]]) + settings.max_new_tokens
        count = max(1, BATCH_TOKENS // (longest * (settings.num_beams or 1)))
        rows = [order.popleft() for _ in range(min(count, len(order)))]
        ids, mask = left_padded([prompts[row] for row in rows], tokenizer.pad_token_id, device)
        output = model.generate(input_ids=ids, attention_mask=mask, generation_config=settings, tokenizer=tokenizer)
        for row, tokens in zip(rows, output[:, ids.shape[1] :].tolist(), strict=True):
            generated[row] = tokens[: limits[row]]
        advance(len(rows))
    return generated


def left_padded(prompts: Sequence[Sequence[int]], pad: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Prompts as ids and attention mask (batch, length); padding stands left, so that answers begin in one column."""
    length = max(len(prompt) for prompt in prompts)
    ids = torch.tensor([[*[pad] * (length - len(prompt)), *prompt] for prompt in prompts], device=device)
    mask = torch.tensor([[0] * (length - len(prompt)) + [1] * len(prompt) for prompt in prompts], device=device)
    return ids, mask


def _answer(tokenizer: Any, generated: list[int], ends: frozenset[int], limit: int) -> Answer:
    # What ended before its neighbours in the batch (at end-of-text, at a stop string) is filled up with padding.
    closed = next((index for index, token in enumerate(generated) if token in ends), None)
    text = tokenizer.decode(generated[:closed], skip_special_tokens=True)
    return Answer(text.strip(), closed is not None or len(generated) < limit)
