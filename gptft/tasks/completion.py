"""Task completion: text to text. A template makes prompt and completion; the completion and its end are supervised."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from gptft.models.logits import IGNORED
from gptft.tasks.base import Example, Prompt, Task, map_examples

if TYPE_CHECKING:
    from datasets import Dataset


@dataclass(frozen=True)
class PromptEncoder:
    """Text to the token ids of a prompt, in training and at inference alike.

    The template's closing words are encoded apart from what stands before them, so that they stay whole where the rest
    is too long. A literal end-of-text in a row is read as plain characters.
    """

    closing: str = ""
    truncation_side: Literal["left", "right"] = "left"

    def encode(self, tokenizer: Any, texts: Sequence[str]) -> list[tuple[list[int], list[int]]]:
        """Give the ids of what stands before the closing words, and theirs."""
        end = plain_ids(tokenizer, [self.closing])[0] if self.closing else []
        bodies = plain_ids(tokenizer, [text.removesuffix(self.closing) for text in texts])
        # Cleaning may have changed the words: they then belong to the text.
        ends = [end if text.endswith(self.closing) else [] for text in texts]
        return list(zip(bodies, ends, strict=True))

    def fit(self, body: list[int], end: list[int], limit: int) -> list[int]:
        """Join them in at most `limit` tokens."""
        room = max(limit - len(end), 0)
        if len(body) > room:
            body = body[:room] if self.truncation_side == "right" else body[len(body) - room :]
        return [*body, *end][-limit:] if limit > 0 else []

    def prompts(self, tokenizer: Any, texts: Sequence[str], limit: int) -> list[list[int]]:
        """The prompts of texts, each in at most `limit` tokens."""
        return [self.fit(body, end, limit) for body, end in self.encode(tokenizer, texts)]


def plain_ids(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    """Token ids of texts, without special tokens."""
    if not texts:
        return []
    return tokenizer(list(texts), add_special_tokens=False, split_special_tokens=True)["input_ids"]


class Completion(Task):
    """Prompts (column `text`) and completions (column `targets`) to examples, one for each completion."""

    name: ClassVar[str] = "completion"

    def __init__(self, encoder: PromptEncoder | None = None) -> None:
        self.encoder = encoder or PromptEncoder("\n")

    def settings(self) -> dict[str, Any]:
        """What decides about the encoding, for the cache's key."""
        return {"closing": self.encoder.closing, "truncation_side": self.encoder.truncation_side}

    def examples(self, dataset: Dataset, tokenizer: Any, max_length: int, cache_key: str) -> Dataset:
        """Prompt, completion, end of text. A prompt that is too long is cut, a completion that is too long dropped."""

        def encode(batch: dict[str, list[Any]]) -> Iterator[Example]:
            encoded = self.encoder.encode(tokenizer, batch["text"])
            for (body, end), targets, origin in zip(encoded, batch["targets"], batch["origin"], strict=True):
                answers = [[*target, tokenizer.eos_token_id] for target in plain_ids(tokenizer, targets)]
                fitting = [answer for answer in answers if len(answer) < max_length]
                prompts = [self.encoder.fit(body, end, max_length - len(answer)) for answer in fitting]
                shortened = any(len(prompt) < len(body) + len(end) for prompt in prompts)
                lost = len(fitting) < len(answers)
                for index, (prompt, answer) in enumerate(zip(prompts, fitting, strict=True) if fitting else [([], [])]):
                    ids, labels = [*prompt, *answer], [IGNORED] * len(prompt) + answer
                    yield ids, labels, shortened and index == 0, lost and index == 0, origin

        return map_examples(dataset, encode, cache_key)

    def prompts(self, dataset: Dataset, tokenizer: Any, max_length: int) -> list[Prompt]:
        """Each prompt once, with the completions of all rows that have it as references."""
        found: dict[str, tuple[str, list[str]]] = {}
        for text, targets, origin in zip(dataset["text"][:], dataset["targets"][:], dataset["origin"][:], strict=True):
            references = found.setdefault(text, (origin, []))[1]
            references += [target.strip() for target in targets if target.strip() not in references]
        ids = self.encoder.prompts(tokenizer, list(found), max_length)
        return [Prompt(origin, ids, refs) for ids, (origin, refs) in zip(ids, found.values(), strict=True)]
