"""Answers to many prompts at once: each step of the model reads prompts and continues answers together.

Generation spends its time in reading weights and multiplying them with few rows. So a step takes a fixed number of
tokens, whatever they are: the next token of every answer under way, and as many tokens of prompts as still fit. What
prompts have in common is read once. Nobody waits for the longest answer: a place that becomes free is filled at once.

A batch's row is here a lane. Keys and values of a lane lie in columns in no order; a token sees those that its
four-dimensional attention mask names, and its place in the text is what `position_ids` says. Prompts with a common
beginning are in one lane, where the same columns serve all of them.
"""

from __future__ import annotations

import heapq
import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin, DynamicCache, DynamicLayer

STEP_TOKENS = 128
"""Tokens in a step. Fewer use the hardware worse, more need more memory."""
LANES = 8
"""Fewer lanes mean more columns in each, and a token's attention passes over all of them."""
CACHE_BYTES = 128 * 2**20
"""Keys and values under way before prompts wait, or half of what the weights take if that is more; answers that are
longer than those before them may exceed it."""
FIRST_COLUMNS = 1024
"""Room in each lane at first."""
COLUMNS = 16
"""Columns are used in multiples of it, which suits the kernels."""
TREE_ROWS = 16
"""Most prompts that share what they have in common: they are in one lane, and the lanes should be equally full."""
SHARED_TOKENS = 4
"""Fewest tokens that two prompts share, unless one is the beginning of the other."""

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


@dataclass(eq=False)
class _Stream:
    """Tokens that follow one another: a part of one or several prompts, or an answer."""

    tokens: list[int]
    """Not yet read."""
    position: int
    """Of the first of `tokens`."""
    parent: _Stream | None = None
    row: int | None = None
    """The prompt that is answered; None for a part of prompts."""
    ends: dict[int, list[int]] = field(default_factory=dict)
    """Prompts that end at a position."""
    forks: dict[int, list[_Stream]] = field(default_factory=dict)
    """Streams that begin at a position."""
    visible: NDArray[np.bool_] = field(default_factory=lambda: np.zeros(0, bool))
    """Columns of all that stands before."""
    columns: list[int] = field(default_factory=list)
    followers: int = 0
    """Streams that begin in this one and are not at their end."""


class _Lane:
    """Streams that share columns."""

    def __init__(self) -> None:
        self.answers: list[_Stream] = []
        self.prompts: deque[_Stream] = deque()
        # Column 0 is where the places of a step go that have no token.
        self.used = {0}
        self.free: list[int] = []

    def waiting(self) -> int:
        """Tokens that could be read."""
        return len(self.answers) + sum(len(stream.tokens) for stream in self.prompts)

    def take(self, places: int, columns: int, reserve: float) -> list[tuple[_Stream, int]]:
        """Choose streams and how many of their tokens are read next, at most `places`, and give them columns.

        Prompts wait while the lane has more than `columns`, `reserve` for each answer under way included.
        """
        chosen = [(stream, 1) for stream in self.answers[:places]]
        places -= len(chosen)
        if self.answers:
            places = min(places, int(columns - len(self.used) - reserve * len(self.answers)))
        for stream in self.prompts:
            if places <= 0:
                break
            count = min(places, len(stream.tokens))
            chosen.append((stream, count))
            places -= count
        for stream, count in chosen:
            for _ in range(count):
                # With none free all are used, from the first on.
                column = heapq.heappop(self.free) if self.free else len(self.used)
                self.used.add(column)
                stream.columns.append(column)
        return chosen

    def leave(self, stream: _Stream | None) -> None:
        """Free the columns of a stream that nobody needs any more, and of those before it."""
        while stream and not stream.followers and not stream.tokens:
            self.used.difference_update(stream.columns)
            for column in stream.columns:
                heapq.heappush(self.free, column)
            stream.columns = []
            stream = stream.parent
            if stream:
                stream.followers -= 1


def _trees(prompts: Sequence[Sequence[int]]) -> Iterator[_Stream]:
    """Prompts as streams, so that most of what they have in common is in one of them."""
    previous: Sequence[int] = ()
    path: list[_Stream] = []
    rows = 0
    for row in sorted(range(len(prompts)), key=lambda row: tuple(prompts[row])):
        prompt = list(prompts[row])
        shared = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(previous, prompt, strict=False)))
        if rows == TREE_ROWS or shared < min(SHARED_TOKENS, len(previous)) or not path:
            if path:
                yield path[0]
            path, rows, shared = [_Stream(prompt, 0)], 0, len(prompt)
        while path[-1].position >= shared:
            path.pop()
        if shared == path[-1].position + len(path[-1].tokens):
            path[-1].tokens += prompt[shared:]
        elif shared < len(prompt):
            stream = _Stream(prompt[shared:], shared, path[-1])
            path[-1].forks.setdefault(shared, []).append(stream)
            path[-1].followers += 1
            path.append(stream)
        path[-1].ends.setdefault(len(prompt), []).append(row)
        previous, rows = prompt, rows + 1
    if path:
        yield path[0]


def _size(stream: _Stream) -> int:
    """Tokens of a tree."""
    return len(stream.tokens) + sum(_size(fork) for forks in stream.forks.values() for fork in forks)


class _Step(NamedTuple):
    """Tokens that the model reads at once, by lane; a lane with fewer has empty places at its end."""

    ids: NDArray[np.int64]
    """Tokens (lanes, places)."""
    positions: NDArray[np.int64]
    """Of the tokens in their text (lanes, places)."""
    columns: NDArray[np.int64]
    """Where their keys and values go (lanes, places)."""
    visible: NDArray[np.bool_]
    """The columns that each token sees, its own included (lanes, places, columns)."""
    read: NDArray[np.bool_]
    """The tokens whose successors are predicted (lanes, places)."""


class _Turn(NamedTuple):
    """An answer that a step's prediction begins or continues."""

    lane: _Lane
    stream: _Stream
    """The answer, or the part of prompts at which its prompt ends."""
    row: int
    visible: NDArray[np.bool_]
    """Columns of prompt and answer as far as read."""
    prediction: int
    """Which of the step's predictions; prompts that are the same have one together."""


def _lay_out(lanes: Sequence[_Lane], taken: Sequence[Sequence[tuple[_Stream, int]]]) -> tuple[_Step, list[_Turn]]:
    """What the model reads when so many tokens of these streams are next, and whose turn its predictions are."""
    shape = len(lanes), max(sum(count for _, count in chosen) for chosen in taken)
    high = -(-max(max(lane.used) + 1 for lane in lanes) // COLUMNS) * COLUMNS
    ids, positions, columns = (np.zeros(shape, np.int64) for _ in range(3))
    step = _Step(ids, positions, columns, np.zeros((*shape, high), bool), np.zeros(shape, bool))
    turns: list[_Turn] = []
    predictions = 0
    for index, (lane, chosen) in enumerate(zip(lanes, taken, strict=True)):
        place = 0
        for stream, count in chosen:
            span = slice(place, place + count)
            step.ids[index, span] = stream.tokens[:count]
            step.positions[index, span] = range(stream.position, stream.position + count)
            step.columns[index, span] = stream.columns[-count:]
            visible = step.visible[index, span]
            known = stream.visible[:high]
            visible[:, : len(known)] = known
            visible[:, stream.columns[-count:]] = np.tri(count, dtype=bool)
            for offset in range(count):
                end = stream.position + offset + 1
                rows = stream.ends.get(end, ()) if stream.row is None else (stream.row,)
                turns += [_Turn(lane, stream, row, visible[offset].copy(), predictions) for row in rows]
                if rows:
                    step.read[index, place + offset] = True
                    predictions += 1
                for fork in stream.forks.get(end, ()):
                    fork.visible = visible[offset].copy()
                    lane.prompts.appendleft(fork)
            stream.visible = visible[-1].copy()
            stream.tokens = stream.tokens[count:]
            stream.position += count
            place += count
        # An empty place sees itself, as nothing cannot be attended to.
        step.visible[index, place:, 0] = True
        lane.prompts = deque(stream for stream in lane.prompts if stream.tokens)
    return step, turns


def _answer(turn: _Turn, position: int) -> _Stream:
    """The answer whose turn it is; a new one, at `position`, where a prompt ends."""
    if turn.stream.row is not None:
        return turn.stream
    turn.stream.followers += 1
    stream = _Stream([], position, turn.stream, turn.row, visible=turn.visible)
    turn.lane.answers.append(stream)
    return stream


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

    def __call__(self, step: _Step) -> Tensor:
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
        self.choose, self.lanes = choose, [_Lane() for _ in range(lanes or LANES)]
        self.reader = _Reader(model, len(self.lanes))
        self.requests: dict[int, _Request] = {}
        self.waiting: deque[_Stream] = deque()
        # How many columns there may be is known once something is read, how long answers get once one has ended.
        self.columns, self.ended, self.length = sys.maxsize, 0, 0

    def add(self, row: int, prompt: Sequence[int], limit: int, ends: frozenset[int]) -> None:
        """Begin an answer of at most `limit` tokens to a prompt; `row` is a number that no answer under way has."""
        self.requests[row] = _Request(len(prompt), limit, ends)
        lane = min(self.lanes, key=lambda lane: len(lane.used) + lane.waiting())
        lane.prompts.append(_Stream(list(prompt), 0, ends={len(prompt): [row]}))

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
        step, turns = _lay_out(lanes, [lane.take(STEP_TOKENS // len(lanes), self.columns, reserve) for lane in lanes])
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
        streams = [_answer(turn, self.requests[turn.row].prompt) for turn in turns]
        return [
            self._grow(turn, stream, token, place + 1)
            for turn, stream, token, place in zip(turns, streams, tokens, places, strict=True)
        ]

    def _grow(self, turn: _Turn, stream: _Stream, token: int, length: int) -> Token:
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
    trees = sorted(_trees(prompts), key=_size, reverse=True)
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
        first = reader(_Step(text, np.arange(5)[None], columns, visible, np.ones((1, 5), bool))).float()
        then = reader(_Step(other, np.array([[2]]), last, seen, np.ones((1, 1), bool))).float()
        error = (first - expected[0]).norm() + (then - expected[1][-1:]).norm()
    except (TypeError, ValueError, RuntimeError, IndexError, AttributeError):
        return False
    # Between rounding in this precision (0.016 in bfloat16, 1.5e-6 in float32) and what a wrong mask does.
    return bool(error < torch.finfo(reader.dtype).eps ** 0.65 * expected[0].norm())
