"""Prompts and answers as streams of tokens in lanes, and what a step of the model reads of them.

A batch's row is here a lane. Keys and values of a lane lie in columns in no order; a token sees those that its
four-dimensional attention mask names, and its place in the text is what `position_ids` says. Prompts with a common
beginning are in one lane, where the same columns serve all of them.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

COLUMNS = 16
"""Columns are used in multiples of it, which suits the kernels."""
TREE_ROWS = 16
"""Most prompts that share what they have in common: they are in one lane, and the lanes should be equally full."""
SHARED_TOKENS = 4
"""Fewest tokens that two prompts share, unless one is the beginning of the other."""


@dataclass(eq=False)
class Stream:
    """Tokens that follow one another: a part of one or several prompts, or an answer."""

    tokens: list[int]
    """Not yet read."""
    position: int
    """Of the first of `tokens`."""
    parent: Stream | None = None
    row: int | None = None
    """The prompt that is answered; None for a part of prompts."""
    ends: dict[int, list[int]] = field(default_factory=dict)
    """Prompts that end at a position."""
    forks: dict[int, list[Stream]] = field(default_factory=dict)
    """Streams that begin at a position."""
    visible: NDArray[np.bool_] = field(default_factory=lambda: np.zeros(0, bool))
    """Columns of all that stands before."""
    columns: list[int] = field(default_factory=list)
    followers: int = 0
    """Streams that begin in this one and are not at their end."""


class Lane:
    """Streams that share columns."""

    def __init__(self) -> None:
        self.answers: list[Stream] = []
        self.prompts: deque[Stream] = deque()
        # Column 0 is where the places of a step go that have no token.
        self.used = {0}
        self.free: list[int] = []

    def waiting(self) -> int:
        """Tokens that could be read."""
        return len(self.answers) + sum(len(stream.tokens) for stream in self.prompts)

    def take(self, places: int, columns: int, reserve: float) -> list[tuple[Stream, int]]:
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

    def leave(self, stream: Stream | None) -> None:
        """Free the columns of a stream that nobody needs any more, and of those before it."""
        while stream and not stream.followers and not stream.tokens:
            self.used.difference_update(stream.columns)
            for column in stream.columns:
                heapq.heappush(self.free, column)
            stream.columns = []
            stream = stream.parent
            if stream:
                stream.followers -= 1


def shared_prompts(prompts: Sequence[Sequence[int]]) -> Iterator[Stream]:
    """Prompts as streams, so that most of what they have in common is in one of them."""
    previous: Sequence[int] = ()
    path: list[Stream] = []
    rows = 0
    for row in sorted(range(len(prompts)), key=lambda row: tuple(prompts[row])):
        prompt = list(prompts[row])
        shared = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(previous, prompt, strict=False)))
        if rows == TREE_ROWS or shared < min(SHARED_TOKENS, len(previous)) or not path:
            if path:
                yield path[0]
            path, rows, shared = [Stream(prompt, 0)], 0, len(prompt)
        while path[-1].position >= shared:
            path.pop()
        if shared == path[-1].position + len(path[-1].tokens):
            path[-1].tokens += prompt[shared:]
        elif shared < len(prompt):
            stream = Stream(prompt[shared:], shared, path[-1])
            path[-1].forks.setdefault(shared, []).append(stream)
            path[-1].followers += 1
            path.append(stream)
        path[-1].ends.setdefault(len(prompt), []).append(row)
        previous, rows = prompt, rows + 1
    if path:
        yield path[0]


def size_of(stream: Stream) -> int:
    """Tokens of a tree."""
    return len(stream.tokens) + sum(size_of(fork) for forks in stream.forks.values() for fork in forks)


class Step(NamedTuple):
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


class Turn(NamedTuple):
    """An answer that a step's prediction begins or continues."""

    lane: Lane
    stream: Stream
    """The answer, or the part of prompts at which its prompt ends."""
    row: int
    visible: NDArray[np.bool_]
    """Columns of prompt and answer as far as read."""
    prediction: int
    """Which of the step's predictions; prompts that are the same have one together."""


def lay_out(lanes: Sequence[Lane], taken: Sequence[Sequence[tuple[Stream, int]]]) -> tuple[Step, list[Turn]]:
    """What the model reads when so many tokens of these streams are next, and whose turn its predictions are."""
    shape = len(lanes), max(sum(count for _, count in chosen) for chosen in taken)
    high = -(-max(max(lane.used) + 1 for lane in lanes) // COLUMNS) * COLUMNS
    ids, positions, columns = (np.zeros(shape, np.int64) for _ in range(3))
    step = Step(ids, positions, columns, np.zeros((*shape, high), bool), np.zeros(shape, bool))
    turns: list[Turn] = []
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
                turns += [Turn(lane, stream, row, visible[offset].copy(), predictions) for row in rows]
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


def answer_of(turn: Turn, position: int) -> Stream:
    """The answer whose turn it is; a new one, at `position`, where a prompt ends."""
    if turn.stream.row is not None:
        return turn.stream
    turn.stream.followers += 1
    stream = Stream([], position, turn.stream, turn.row, visible=turn.visible)
    turn.lane.answers.append(stream)
    return stream
