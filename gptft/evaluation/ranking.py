"""Where the right completion stands among all candidates, by the model's log-probability of each.

All candidates of a prompt are scored together: their tokens form a tree, each node of which attends to the prompt and
to its own ancestors, so that what candidates share is computed once. Log-probability only falls along a candidate, so
one whose first token alone is less likely than the whole right answer cannot stand before it and is not computed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gptft.models.loading import model_positions
from gptft.tasks import Prompt
from gptft.tasks.completion import plain_ids

NODES_AT_ONCE = 1024
"""Tokens of candidates in one forward pass: logits of so many are held."""


def candidate_tokens(tokenizer: Any, train: Any) -> dict[str, tuple[int, ...]]:
    """The completions that training rows have, as text -> token ids closed by end-of-text."""
    texts = list({text.strip(): text for targets in train["targets"][:] for text in targets}.items())
    ids = plain_ids(tokenizer, [text for _, text in texts])
    return {name: (*row, tokenizer.eos_token_id) for (name, _), row in zip(texts, ids, strict=True)}


@dataclass(frozen=True)
class Tree:
    """Candidates that begin with the same token: all their tokens but the last, in depth-first order.

    It has at most `NODES_AT_ONCE` tokens, or one candidate.
    """

    tokens: list[int]
    parents: list[int]
    """Index of the token before it; -1 for the first."""
    ends: list[tuple[int, int, int]]
    """Of each candidate: its number, the node before its last token, and the last token."""


def candidate_trees(candidates: Sequence[tuple[int, ...]]) -> list[Tree]:
    """The trees of candidates: one for each first token, or more where one would be too large."""
    trees: list[Tree] = []
    first: int | None = None
    places: dict[tuple[int, ...], int] = {}
    for number in sorted(range(len(candidates)), key=lambda index: candidates[index]):
        ids = candidates[number]
        if ids[0] != first or len(trees[-1].tokens) + len(ids) - 1 > NODES_AT_ONCE:
            first, places = ids[0], {}
            trees.append(Tree([], [], []))
        tree, node = trees[-1], -1
        for length in range(1, len(ids)):
            place = places.get(ids[:length])
            if place is None:
                place = places[ids[:length]] = len(tree.tokens)
                tree.tokens.append(ids[length - 1])
                tree.parents.append(node)
            node = place
        tree.ends.append((number, node, ids[-1]))
    return trees


@torch.inference_mode()
def rank_references(
    model: Any,
    prompts: Sequence[Prompt],
    candidates: dict[str, tuple[int, ...]],
    advance: Callable[[int], None] = lambda count: None,
) -> list[int]:
    """Rank of the best reference of each prompt among the candidates, from 1; 0 where none of them is a candidate.

    Args:
        model: a causal language model with a key-value cache.
        prompts: with references.
        candidates: text -> token ids closed by end-of-text. One that leaves no position for a prompt is none.
        advance: called with 1 after each prompt.
    """
    positions = model_positions(model.config)
    candidates = {text: ids for text, ids in candidates.items() if len(ids) < positions}
    numbers = {text: number for number, text in enumerate(candidates)}
    trees = candidate_trees(list(candidates.values()))
    room = positions - max(map(len, candidates.values()), default=0)
    ranks = []
    for prompt in prompts:
        right = [numbers[text] for text in prompt.references if text in numbers]
        ranks.append(_rank(model, prompt.input_ids[-room:], trees, right) if right else 0)
        advance(1)
    return ranks


def _rank(model: Any, prompt: Sequence[int], trees: list[Tree], right: list[int]) -> int:
    device = next(model.parameters()).device
    outputs = model(input_ids=torch.tensor([list(prompt)], device=device), use_cache=True, logits_to_keep=1)
    first, cache = outputs.logits[0, -1].float().log_softmax(dim=-1), outputs.past_key_values
    starts = [float(first[tree.tokens[0] if tree.tokens else tree.ends[0][2]]) for tree in trees]
    wanted = set(right)
    own = [any(number in wanted for number, *_ in tree.ends) for tree in trees]
    scores = dict(
        _scores(model, cache, len(prompt), [tree for tree, is_own in zip(trees, own, strict=True) if is_own], first)
    )
    best = max(scores[number] for number in right)
    others = [tree for tree, is_own, start in zip(trees, own, starts, strict=True) if not is_own and start >= best]
    scores |= _scores(model, cache, len(prompt), others, first)
    return 1 + sum(score >= best for number, score in scores.items() if number not in wanted)


def _scores(model: Any, cache: Any, length: int, trees: Iterable[Tree], first: Tensor) -> dict[int, float]:
    """Log-probability of each candidate of the trees after the prompt in `cache`, which stays as it is."""
    scores: dict[int, float] = {}
    batch: list[Tree] = []
    for tree in [*trees, None]:
        if batch and (tree is None or sum(len(one.tokens) for one in [*batch, tree]) > NODES_AT_ONCE):
            scores |= _score_batch(model, cache, length, batch, first)
            batch = []
        if tree is not None:
            batch.append(tree)
    return scores


def _score_batch(model: Any, cache: Any, length: int, trees: list[Tree], first: Tensor) -> dict[int, float]:
    device = first.device
    tokens: list[int] = []
    parents: list[int] = []
    ends: list[tuple[int, int, int]] = []
    for tree in trees:
        offset = len(tokens)
        tokens += tree.tokens
        parents += [parent + offset if parent >= 0 else -1 for parent in tree.parents]
        ends += [(number, node + offset if node >= 0 else -1, last) for number, node, last in tree.ends]
    scores = {number: float(first[last]) for number, node, last in ends if node < 0}
    if not tokens:
        return scores
    count = len(tokens)
    seen = torch.zeros(count, count, dtype=torch.bool)
    depths = [0] * count
    for node, parent in enumerate(parents):
        if parent >= 0:
            seen[node] = seen[parent]
            depths[node] = depths[parent] + 1
        seen[node, node] = True
    dtype = next(model.parameters()).dtype
    mask = torch.zeros(1, 1, count, length + count, dtype=dtype)
    mask[..., length:].masked_fill_(~seen, torch.finfo(dtype).min)
    outputs = model(
        input_ids=torch.tensor([tokens], device=device),
        position_ids=torch.tensor([depths], device=device) + length,
        attention_mask=mask.to(device),
        past_key_values=cache,
        use_cache=True,
    )
    cache.crop(-count)
    after = outputs.logits[0].float().log_softmax(dim=-1)
    at = torch.tensor(parents, device=device)
    own = torch.where(
        at < 0, first[torch.tensor(tokens, device=device)], after[at, torch.tensor(tokens, device=device)]
    )
    totals = own.tolist()
    for node, parent in enumerate(parents):
        totals[node] += totals[parent] if parent >= 0 else 0.0
    inner = [(number, node, last) for number, node, last in ends if node >= 0]
    closing = after[[node for _, node, _ in inner], [last for *_, last in inner]].tolist()
    return scores | {number: totals[node] + end for (number, node, _), end in zip(inner, closing, strict=True)}
