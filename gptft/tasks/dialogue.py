"""Task dialogue: learn what the assistant says. Every turn of the assistant and its end of text are supervised."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from gptft.errors import UserError
from gptft.models.logits import IGNORED
from gptft.models.templates import Message, render_conversation, render_prompt
from gptft.tasks.base import Example, Prompt, Task, map_examples

if TYPE_CHECKING:
    from datasets import Dataset


class Dialogue(Task):
    """Conversations (column `messages`) to examples; the chat template decides what is supervised."""

    name: ClassVar[str] = "dialogue"

    def examples(self, dataset: Dataset, tokenizer: Any, max_length: int, cache_key: str) -> Dataset:
        """One example a conversation; a longer one gives several, each answer supervised in exactly one of them."""

        def encode(batch: dict[str, list[Any]]) -> Iterator[Example]:
            for messages, origin in zip(batch["messages"], batch["origin"], strict=True):
                try:
                    windows, shortened, lost = encode_conversation(tokenizer, messages, max_length)
                except UserError as error:
                    raise UserError(f"{origin}: {error}") from error
                for index, (ids, labels) in enumerate(windows or [([], [])]):
                    yield ids, labels, shortened and index == 0, lost > 0 and index == 0, origin

        return map_examples(dataset, encode, cache_key)

    def prompts(self, dataset: Dataset, tokenizer: Any, max_length: int) -> list[Prompt]:
        """Each turn of the assistant: the conversation before it as prompt, itself as the reference."""
        prompts = []
        for messages, origin in zip(dataset["messages"], dataset["origin"], strict=True):
            for index, message in enumerate(messages):
                if message["role"] == "assistant" and message["content"].strip():
                    ids = prompt_ids(tokenizer, messages[:index], max_length)
                    prompts.append(Prompt(f"{origin}#{index}", ids, [message["content"].strip()]))
        return prompts


def prompt_ids(tokenizer: Any, messages: Sequence[Message], max_length: int) -> list[int]:
    """The prompt for an answer to `messages`, token for token as in training, at most `max_length` tokens.

    The oldest turns go first, the system's last; if the newest message alone is too long, its beginning goes.
    """
    system, rest = _split_system(messages)
    starts = _context_starts(rest, len(rest) - 1)

    def prompt(turns: int) -> list[int]:
        return render_prompt(tokenizer, [*system, *rest[starts[turns] :]])

    return prompt(_most(len(starts) - 1, lambda turns: len(prompt(turns)) <= max_length))[-max_length:]


def _split_system(messages: Sequence[Message]) -> tuple[list[Message], list[Message]]:
    first = 1 if messages and messages[0]["role"] == "system" else 0
    return list(messages[:first]), list(messages[first:])


def _context_starts(messages: Sequence[Message], newest: int) -> list[int]:
    """Where a context may begin, nearest first: at its newest message, at a turn of the user before, at the first."""
    before = range(newest - 1, -1, -1)
    return [max(newest, 0), *(index for index in before if index == 0 or messages[index]["role"] == "user")]


def _most(limit: int, fits: Callable[[int], bool]) -> int:
    """The largest number up to `limit` that fits, or 0, where all smaller ones fit too; small ones are tried first."""
    beyond = 1
    while beyond <= limit and fits(beyond):
        beyond *= 2
    tried = beyond // 2
    return tried + bisect_left(range(tried + 1, min(beyond, limit + 1)), True, key=lambda number: not fits(number))


class Encoded(NamedTuple):
    """A conversation as examples."""

    windows: list[tuple[list[int], list[int]]]
    """Token ids and labels of each example."""
    shortened: bool
    """Whether it did not fit whole."""
    lost: int
    """Answers left out because they do not fit."""


def encode_conversation(tokenizer: Any, messages: Sequence[Message], max_length: int) -> Encoded:
    """Encode a conversation as examples of (input_ids, labels), each at most `max_length` tokens.

    What is too long loses the oldest context, never an answer: the conversation is cut into windows, each with as
    much of what was said before as fits, and every answer is supervised in exactly one window. An answer that does
    not fit with at least one token before it is left out.
    """
    ids, mask = render_conversation(tokenizer, messages)
    if len(ids) <= max_length:
        return Encoded([(ids, _labels(ids, mask))], False, 0)
    system, rest = _split_system(messages)
    answers = [index for index, message in enumerate(rest) if message["role"] == "assistant"]
    windows, lost, done = [], 0, 0

    def window(first: int, last: int) -> tuple[list[int], list[bool]]:
        return render_conversation(tokenizer, [*system, *rest[first : last + 1]])

    def fits(first: int, last: int) -> bool:
        return len(window(first, last)[0]) <= max_length

    while done < len(answers):
        # From the answer next in line on as many as fit, the message before it as their context; then more context.
        starts = _context_starts(rest, answers[done] - 1)
        count = max(1, _most(len(answers) - done, lambda n: fits(starts[0], answers[done + n - 1])))  # noqa: B023
        last = answers[done + count - 1]
        ids, mask = window(starts[_most(len(starts) - 1, lambda n: fits(starts[n], last))], last)  # noqa: B023
        spans = _spans(mask)[-count:]
        if spans and len(ids) - spans[0][0] < max_length:
            supervised = [any(start <= index < stop for start, stop in spans) for index in range(len(ids))]
            windows.append((ids[-max_length:], _labels(ids, supervised)[-max_length:]))
        else:
            lost += 1
        done += count
    return Encoded(windows, True, lost)


def _spans(mask: list[bool]) -> list[tuple[int, int]]:
    """Start and stop of each run of True."""
    edges = [i for i in range(len(mask) + 1) if (mask[i] if i < len(mask) else False) != (mask[i - 1] if i else False)]
    return list(zip(edges[::2], edges[1::2], strict=True))


def _labels(ids: list[int], mask: list[bool]) -> list[int]:
    return [token if said else IGNORED for token, said in zip(ids, mask, strict=True)]
