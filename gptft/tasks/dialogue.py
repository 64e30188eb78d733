"""Task dialogue: learn what the assistant says. Every turn of the assistant and its end of text are supervised."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from gptft.models.logits import IGNORED
from gptft.tasks.base import Prompt, Task
from gptft.models.templates import Message, render_conversation, render_prompt

if TYPE_CHECKING:
    from datasets import Dataset


class Dialogue(Task):
    """Conversations (column `messages`) to examples; the chat template decides what is supervised."""

    name: ClassVar[str] = "dialogue"
    generates: ClassVar[bool] = True

    def examples(self, dataset: Dataset, tokenizer: Any, max_length: int, cache_key: str) -> Dataset:
        """One example a conversation; a longer one gives several, each answer supervised in exactly one of them."""

        def encode(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
            columns: dict[str, list[Any]] = {name: [] for name in COLUMNS}
            for messages, origin in zip(batch["messages"], batch["origin"], strict=True):
                encoded = encode_conversation(tokenizer, messages, max_length)
                for index, (ids, labels) in enumerate(encoded or [([], [])]):
                    supervised = sum(label != IGNORED for label in labels[1:])
                    shortened = len(encoded) > 1 and index == 0
                    row = (ids, labels, len(ids), supervised, shortened, not encoded, origin)
                    for name, value in zip(COLUMNS, row, strict=True):
                        columns[name].append(value)
            return columns

        return dataset.map(
            encode, batched=True, remove_columns=dataset.column_names, new_fingerprint=cache_key, desc="Encoding"
        )

    def prompts(self, dataset: Dataset, tokenizer: Any, max_length: int) -> list[Prompt]:
        """Each turn of the assistant: the conversation before it as prompt, itself as the reference."""
        prompts = []
        for messages, origin in zip(dataset["messages"], dataset["origin"], strict=True):
            for index, message in enumerate(messages):
                if message["role"] == "assistant" and message["content"].strip():
                    ids = prompt_ids(tokenizer, messages[:index], max_length)
                    prompts.append(Prompt(f"{origin}#{index}", ids, [message["content"].strip()]))
        return prompts


COLUMNS = ("input_ids", "labels", "length", "supervised", "shortened", "dropped", "origin")


def prompt_ids(tokenizer: Any, messages: Sequence[Message], max_length: int) -> list[int]:
    """The prompt for an answer to `messages`, token for token as in training, at most `max_length` tokens.

    The oldest messages go first, the system's last; if the newest message alone is too long, its beginning goes.
    """
    kept = list(messages)
    ids = render_prompt(tokenizer, kept)
    while len(ids) > max_length and (shorter := _without_oldest(kept)):
        kept = shorter
        ids = render_prompt(tokenizer, kept)
    return ids[-max_length:]


def _without_oldest(messages: list[Message]) -> list[Message] | None:
    """The messages less the oldest that is not the system's; None when only the newest would be left to go."""
    system = messages[:1] if messages and messages[0]["role"] == "system" else []
    rest = messages[len(system) :]
    return system + rest[1:] if len(rest) > 1 else None


def encode_conversation(
    tokenizer: Any, messages: Sequence[Message], max_length: int
) -> list[tuple[list[int], list[int]]]:
    """Encode a conversation as one or more examples of (input_ids, labels), each at most `max_length` tokens.

    What is too long loses the oldest context, never an answer: the conversation is cut into windows, each with as
    much of what was said before as fits, and every answer is supervised in exactly one window. An answer that does
    not fit with at least one token before it is left out; an empty list says that none fitted.
    """
    ids, mask = render_conversation(tokenizer, messages)
    if len(ids) <= max_length:
        return [(ids, _labels(ids, mask))] if any(mask) else []
    lengths = [len(render_conversation(tokenizer, [message])[0]) for message in messages]
    pending = [index for index, message in enumerate(messages) if message["role"] == "assistant"]
    windows = []
    while pending:
        # From the answer next in line on, take as many turns as fit, with the message before it as context.
        first, last = max(0, pending[0] - 1), pending[0]
        while last + 1 < len(messages) and sum(lengths[first : last + 2]) <= max_length:
            last += 1
        answers = [index for index in pending if index <= last]
        window = _window(tokenizer, messages, answers, max_length)
        while window is None and len(answers) > 1:
            answers = answers[:-1]
            window = _window(tokenizer, messages, answers, max_length)
        if window:
            windows.append(window)
        pending = [index for index in pending if index > answers[-1]]
    return windows


def _window(
    tokenizer: Any, messages: Sequence[Message], answers: list[int], max_length: int
) -> tuple[list[int], list[int]] | None:
    """The conversation up to the last of `answers`, the oldest context dropped to fit; None if an answer would go."""
    kept = list(messages[: answers[-1] + 1])
    ids, mask = render_conversation(tokenizer, kept)
    turns_after_first = answers[-1] - answers[0] + 1
    while len(ids) > max_length and len(kept) > turns_after_first + 1 and (shorter := _without_oldest(kept)):
        kept = shorter
        ids, mask = render_conversation(tokenizer, kept)
    spans = _spans(mask)[-len(answers) :]
    if not spans or len(ids) - spans[0][0] >= max_length:
        return None
    supervised = [any(start <= index < stop for start, stop in spans) for index in range(len(ids))]
    return ids[-max_length:], _labels(ids, supervised)[-max_length:]


def _spans(mask: list[bool]) -> list[tuple[int, int]]:
    """Start and stop of each run of True."""
    edges = [i for i in range(len(mask) + 1) if (mask[i] if i < len(mask) else False) != (mask[i - 1] if i else False)]
    return list(zip(edges[::2], edges[1::2], strict=True))


def _labels(ids: list[int], mask: list[bool]) -> list[int]:
    return [token if said else IGNORED for token, said in zip(ids, mask, strict=True)]
