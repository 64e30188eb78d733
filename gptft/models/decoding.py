"""Answers to many prompts at once: each step of the model reads prompts and continues answers together.

Generation spends its time in reading weights and multiplying them with few rows. So a step takes a fixed number of
tokens, whatever they are: the next token of every answer under way, and as many tokens of prompts as still fit. What
prompts have in common is read once. Nobody waits for the longest answer: a place that becomes free is filled at once.
How they lie in the model's batch: `lanes`.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin, DynamicCache, DynamicLayer

from gptft.models.lanes import COLUMNS, Lane, Step, Stream, Turn, answer_of, lay_out, shared_prompts, size_of

STEP_TOKENS = 128
"""Tokens in a step. Fewer use the hardware worse, more need more memory."""
LANES = 8
"""Fewer lanes mean more columns in each, and a token's attention passes over all of them."""
CACHE_BYTES = 128 * 2**20
"""Keys and values under way before prompts wait, or half of what the weights take if that is more; answers that are
longer than those before them may exceed it."""
FIRST_COLUMNS = 1024
"""Room in each lane at first."""

Choose = Callable[[Tensor, list[int], list[int]], list[int]]
"""From scores (tokens, vocabulary), each one's prompt and place in the answer, to the next tokens."""


@dataclass
class _Place:
    """Where the step's keys and values go, the same in all layers."""

    lanes: int
    columns: Tensor
    """Column of each token (lanes, tokens)."""
    seen: int = 0
    """Columns in use."""


class _LaneLayer(CacheLayerMixin):
    """Keys and values (lanes, heads, columns, head size) of a layer, written in place; steps may use fewer lanes."""

    def __init__(self, place: _Place) -> None:
        super().__init__()
        self.place, self.seen = place, 0

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        self.dtype, self.device, self.is_initialized = key_states.dtype, key_states.device, True
        self.keys, self.values = (
            states.new_empty(self.place.lanes, states.shape[1], 0, states.shape[3])
            for states in (key_states, value_states)
        )

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        assert self.keys is not None and self.values is not None
        place = self.place
        if place.seen > self.keys.shape[2]:
            self.keys, self.values = self._longer(self.keys), self._longer(self.values)
        count = len(key_states)
        lanes = torch.arange(count, device=self.device)[:, None]
        for kept, states in ((self.keys, key_states), (self.values, value_states)):
            # What is masked is still multiplied, by zero, so it must be a number.
            kept[:, :, self.seen : place.seen] = 0
            kept[lanes, :, place.columns] = states.transpose(1, 2)
        self.seen = max(self.seen, place.seen)
        return self.keys[:count, :, : place.seen], self.values[:count, :, : place.seen]

    def _longer(self, kept: Tensor) -> Tensor:
        """With room for more than is asked for: memory is taken when it is written to, copies leave holes in it."""
        lanes, heads, columns, size = kept.shape
        longer = kept.new_empty(lanes, heads, max(2 * self.place.seen, FIRST_COLUMNS), size)
        longer[:, :, :columns] = kept
        return longer

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.place.seen, 0

    def get_seq_length(self) -> int:
        return self.place.seen

    def get_max_length(self) -> int:
        return -1


class _Reader:
    """A model with the keys and values of what it has read in `lanes` lanes."""

    def __init__(self, model: Any, lanes: int) -> None:
        self.model = model
        weight = next(weight for weight in model.parameters() if weight.is_floating_point())
        self.device, self.dtype = weight.device, weight.dtype
        self.place = _Place(lanes, torch.zeros(0))
        count = model.config.get_text_config(decoder=True).num_hidden_layers
        self.layers = [_LaneLayer(self.place) for _ in range(count)]
        self.cache = Cache(layers=[*self.layers])

    def __call__(self, step: Step) -> Tensor:
        """Read tokens and predict what follows some of them: logits (tokens read, vocabulary), by lane."""
        place, visible = self.place, step.visible
        place.columns, place.seen = torch.from_numpy(step.columns).to(self.device), visible.shape[2]
        mask = torch.full(visible.shape, torch.finfo(self.dtype).min, dtype=self.dtype, device=self.device)
        mask.masked_fill_(torch.from_numpy(visible).to(self.device), 0)
        outputs = self.model(
            input_ids=torch.from_numpy(step.ids).to(self.device),
            position_ids=torch.from_numpy(step.positions).to(self.device),
            attention_mask=mask[:, None],
            past_key_values=self.cache,
            use_cache=True,
            logits_to_keep=torch.from_numpy(step.read).to(self.device),
        )
        return outputs.logits

    def most_columns(self) -> int:
        """Columns of a lane for which there is memory, known once something is read."""
        states = [states for layer in self.layers for states in (layer.keys, layer.values) if states is not None]
        weights = sum(weight.nbytes for weight in self.model.parameters())
        return max(CACHE_BYTES, weights // 2) // sum(states[:, :, 0].nbytes for states in states)


class Token(NamedTuple):
    """What a step adds to an answer."""

    row: int
    token: int
    over: bool
    """Whether the answer ends with it."""


class _Request(NamedTuple):
    prompt: int
    """Tokens of the prompt."""
    limit: int
    ends: frozenset[int]


class Decoder:
    """Answers under way, with prompts that come and go between the steps.

    Args:
        model: a causal language model for which `keeps_to_masks` holds, not in training mode.
        choose: the next tokens from their scores.
        lanes: most lanes to use (default: `LANES`).
    """

    def __init__(self, model: Any, choose: Choose, lanes: int | None = None) -> None:
        self.choose, self.lanes = choose, [Lane() for _ in range(lanes or LANES)]
        self.reader = _Reader(model, len(self.lanes))
        self.requests: dict[int, _Request] = {}
        self.waiting: deque[Stream] = deque()
        # How many columns there may be is known once something is read, how long answers get once one has ended.
        self.columns, self.ended, self.length = sys.maxsize, 0, 0

    def add(self, row: int, prompt: Sequence[int], limit: int, ends: frozenset[int]) -> None:
        """Begin an answer of at most `limit` tokens to a prompt; `row` is a number that no answer under way has."""
        self.requests[row] = _Request(len(prompt), limit, ends)
        lane = min(self.lanes, key=lambda lane: len(lane.used) + lane.waiting())
        lane.prompts.append(Stream(list(prompt), 0, ends={len(prompt): [row]}))

    def remove(self, row: int) -> None:
        """Give up an answer that was begun by `add`, if it is under way."""
        if not self.requests.pop(row, None):
            return
        for lane in self.lanes:
            for stream in [*lane.answers, *lane.prompts]:
                if stream.row == row or [row] in stream.ends.values():
                    (lane.prompts if stream.row is None else lane.answers).remove(stream)
                    stream.tokens = []
                    lane.leave(stream)

    def step(self) -> list[Token]:
        """Read once more: the next tokens of answers; maybe none yet, where prompts are long.

        Without anything to read (`requests` is empty) there are none.
        """
        for lane in self.lanes:
            while self.waiting and lane.waiting() < STEP_TOKENS // len(self.lanes):
                lane.prompts.append(self.waiting.popleft())
        lanes = self.lanes[: max((number for number, lane in enumerate(self.lanes, 1) if lane.waiting()), default=0)]
        if not lanes:
            return []
        reserve = self.length / self.ended / 2 if self.ended else 0
        step, turns = lay_out(lanes, [lane.take(STEP_TOKENS // len(lanes), self.columns, reserve) for lane in lanes])
        logits = self.reader(step)
        if self.columns == sys.maxsize:
            self.columns = self.reader.most_columns()
        if not turns:
            return []
        if len(turns) > len(logits):
            logits = logits[[turn.prediction for turn in turns]]
        # An answer's stream begins where its prompt ends, and has then read what it consists of so far.
        places = [
            turn.stream.position - self.requests[turn.row].prompt if turn.stream.row is not None else 0
            for turn in turns
        ]
        tokens = self.choose(logits, [turn.row for turn in turns], places)
        # All answers begin before any ends, so that what they follow stays.
        streams = [answer_of(turn, self.requests[turn.row].prompt) for turn in turns]
        return [
            self._grow(turn, stream, token, place + 1)
            for turn, stream, token, place in zip(turns, streams, tokens, places, strict=True)
        ]

    def _grow(self, turn: Turn, stream: Stream, token: int, length: int) -> Token:
        request = self.requests[turn.row]
        over = token in request.ends or length == request.limit
        if over:
            del self.requests[turn.row]
            turn.lane.answers.remove(stream)
            turn.lane.leave(stream)
            self.ended, self.length = self.ended + 1, self.length + length
        else:
            stream.tokens = [token]
        return Token(turn.row, token, over)


def decode(
    model: Any,
    prompts: Sequence[Sequence[int]],
    limits: Sequence[int],
    ends: frozenset[int],
    choose: Choose,
    advance: Callable[[int], None] = lambda rows: None,
) -> list[list[int]]:
    """Generate an answer to each prompt.

    Args:
        model: as for `Decoder`.
        prompts: token ids, none of them empty.
        limits: most tokens of each answer, at least 1.
        ends: tokens that close an answer.
        choose: the next tokens from their scores.
        advance: called with the number of answers that ended in a step.

    Returns:
        The tokens of each answer, the one that closed it included.
    """
    answers: list[list[int]] = [[] for _ in prompts]
    trees = sorted(shared_prompts(prompts), key=size_of, reverse=True)
    decoder = Decoder(model, choose, min(LANES, len(trees)))
    decoder.waiting.extend(trees)
    pairs = zip(prompts, limits, strict=True)
    decoder.requests = {row: _Request(len(prompt), limit, ends) for row, (prompt, limit) in enumerate(pairs)}
    while decoder.requests:
        tokens = decoder.step()
        for row, token, _ in tokens:
            answers[row].append(token)
        if over := sum(token.over for token in tokens):
            advance(over)
    return answers


@torch.no_grad()
def keeps_to_masks(model: Any) -> bool:
    """Whether a model attends to what its mask names and nothing else, whatever the order of the columns.

    Not so with attention to a window, without a standard cache, or with positions that a model counts by itself.
    """
    config = model.config.get_text_config(decoder=True)
    if any(type(layer) is not DynamicLayer for layer in DynamicCache(config=config).layers):
        return False
    text, other = np.array([[5, 11, 17, 23, 29]]) % config.vocab_size, np.array([[31]]) % config.vocab_size
    branch = np.concatenate([text[:, :2], other], axis=1)
    # The first token in the last column: what goes by the order of columns fails.
    columns, last = np.array([[15, 2, 7, 4, 1]]), np.array([[6]])
    visible, seen = np.zeros((1, 5, COLUMNS), bool), np.zeros((1, 1, COLUMNS), bool)
    visible[0][:, columns[0]] = np.tri(5, dtype=bool)
    seen[0, 0, [15, 2, 6]] = True
    try:
        reader = _Reader(model, 1)
        expected = [
            model(input_ids=torch.from_numpy(ids).to(reader.device), use_cache=False).logits[0].float()
            for ids in (text, branch)
        ]
        first = reader(Step(text, np.arange(5)[None], columns, visible, np.ones((1, 5), bool))).float()
        then = reader(Step(other, np.array([[2]]), last, seen, np.ones((1, 1), bool))).float()
        error = (first - expected[0]).norm() + (then - expected[1][-1:]).norm()
    except (TypeError, ValueError, RuntimeError, IndexError, AttributeError):
        return False
    # Between rounding in this precision (0.016 in bfloat16, 1.5e-6 in float32) and what a wrong mask does.
    return bool(error < torch.finfo(reader.dtype).eps ** 0.65 * expected[0].norm())
