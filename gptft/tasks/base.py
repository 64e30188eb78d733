"""The interface of a task: rows to examples for training, rows to prompts for generation."""

from __future__ import annotations

import hashlib
import json
import math
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from gptft.errors import UserError
from gptft.models.logits import IGNORED

if TYPE_CHECKING:
    from datasets import Dataset

CODE_VERSION = 3
"""Part of the cache's key: raised whenever the same rows give other examples."""

LENGTH_BINS = 24

Example = tuple[list[int], list[int], bool, bool, str]
"""Token ids, labels, whether its row was shortened, whether some of it was dropped (each said of a row's first example
alone, so that rows are counted once), and the row's origin."""

EXAMPLE_COLUMNS = ("input_ids", "labels", "length", "supervised", "shortened", "dropped", "origin")
"""What `Task.examples` gives of an example, whatever the task."""


@dataclass
class Preparation:
    """What became of a split's rows on the way to examples. Counts; tokens without padding."""

    rows: int = 0
    examples: int = 0
    tokens: int = 0
    supervised_tokens: int = 0
    shortened: int = 0
    dropped: int = 0
    dropped_origins: list[str] = field(default_factory=list)
    length_step: int = 1
    length_counts: list[int] = field(default_factory=list)
    """Examples by length: of 1 to `length_step` tokens, of up to twice as many, and so on."""

    def to_dict(self) -> dict[str, Any]:
        """For the manifest."""
        return asdict(self)

    def summary(self) -> str:
        """One line for the terminal."""
        parts = [
            f"{self.rows:,} rows",
            f"{self.examples:,} examples",
            f"{self.tokens:,} tokens ({self.supervised_tokens:,} supervised)",
        ]
        if self.shortened:
            parts.append(f"{self.shortened:,} shortened to fit")
        if self.dropped:
            origins = ", ".join(self.dropped_origins[:3])
            parts.append(f"{self.dropped:,} with an answer that is too long and dropped ({origins})")
        return ", ".join(parts)

    def check(self, split: str, max_length: int) -> None:
        """Refuse a split of which nothing, or less than nine tenths, can be used.

        Raises:
            UserError: naming rows and the length allowed.
        """
        if self.dropped * 10 > self.rows:
            raise UserError(
                f"{split}: {self.dropped:,} of {self.rows:,} rows have an answer that does not fit in {max_length:,} "
                f"tokens (first: {', '.join(self.dropped_origins[:5])}). More than a tenth of the data would be lost: "
                "shorten these answers, or raise `data.max_length` if the model has the positions."
            )
        if not self.supervised_tokens:
            raise UserError(f"{split}: none of the {self.rows:,} rows has a token to learn from.")


@dataclass(frozen=True)
class Prompt:
    """What the model is asked, and what a good answer is."""

    origin: str
    input_ids: list[int]
    references: list[str]


class Task(ABC):
    """Rows (columns `messages`, `text`, `targets`, `origin`) to examples (`EXAMPLE_COLUMNS`, maybe `position_ids`)."""

    name: ClassVar[str]

    def settings(self) -> dict[str, Any]:
        """What decides about the encoding beside rows and tokenizer, for the cache's key."""
        return {}

    @abstractmethod
    def examples(self, dataset: Dataset, tokenizer: Any, max_length: int, cache_key: str) -> Dataset:
        """Encode a split: lists of token ids and labels, at most `max_length` long, -100 where not supervised.

        The columns `shortened` and `dropped` flag a row's first example; a row that gives none is one without tokens.
        """

    def check_model(self, model: Any) -> None:  # noqa: B027 (most tasks take any model)
        """Refuse a model that cannot learn this task as gptft teaches it.

        Raises:
            UserError: saying why.
        """

    def prompts(self, dataset: Dataset, tokenizer: Any, max_length: int) -> list[Prompt]:
        """What to generate from for scores: none where the task has no answers."""
        return []

    def prepare(
        self, dataset: Dataset, tokenizer: Any, max_length: int, split: str, data_fingerprint: str
    ) -> tuple[Dataset, Preparation]:
        """Encode a split, count what became of it, and leave out what has nothing to learn from.

        Args:
            dataset: rows of `gptft.data.load_splits`.
            tokenizer: with a chat template.
            max_length: longest example in tokens.
            split: its name, for messages.
            data_fingerprint: digest of the rows; with the tokenizer's it keys the cache.

        Raises:
            UserError: when more than a tenth of the rows cannot be used.
        """
        digest = tokenizer_digest(tokenizer)
        key = cache_key(self.name, CODE_VERSION, data_fingerprint, digest, max_length, self.settings())
        encoded = self.examples(dataset, tokenizer, max_length, key)
        # [:] reads a column at once, a hundred times faster than going through it.
        dropped = [origin for origin, flag in zip(encoded["origin"][:], encoded["dropped"][:], strict=True) if flag]
        lengths, supervised = encoded["length"][:], encoded["supervised"][:]
        step = max(1, math.ceil(max(lengths, default=0) / LENGTH_BINS))
        by_length = Counter((length - 1) // step for length in lengths if length)
        preparation = Preparation(
            rows=len(dataset),
            examples=sum(length > 0 for length in lengths),
            tokens=sum(lengths),
            supervised_tokens=sum(supervised),
            shortened=sum(encoded["shortened"][:]),
            dropped=len(dropped),
            dropped_origins=dropped[:100],
            length_step=step,
            length_counts=[by_length[index] for index in range(max(by_length, default=-1) + 1)],
        )
        preparation.check(split, max_length)
        useful = [index for index, count in enumerate(supervised) if count]
        return (encoded if len(useful) == len(encoded) else encoded.select(useful)), preparation


def map_examples(
    dataset: Dataset, encode: Callable[[dict[str, list[Any]]], Iterable[Example]], cache_key: str
) -> Dataset:
    """A data set of the examples that `encode` makes of a batch of rows, with `EXAMPLE_COLUMNS`."""

    def columns(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        rows = [
            (ids, labels, len(ids), sum(label != IGNORED for label in labels), *rest)
            for ids, labels, *rest in encode(batch)
        ]
        return dict(zip(EXAMPLE_COLUMNS, map(list, zip(*rows, strict=True)), strict=True))

    names = dataset.column_names
    return dataset.map(columns, batched=True, remove_columns=names, new_fingerprint=cache_key, desc="Encoding")


def cache_key(*parts: Any) -> str:
    """A digest of `parts`, as `datasets` wants its fingerprints."""
    return hashlib.sha256(json.dumps(parts, default=str).encode()).hexdigest()[:32]


def tokenizer_digest(tokenizer: Any) -> str:
    """Digest of all that decides how text becomes tokens: vocabulary, merges, template, special tokens."""
    vocabulary = json.dumps(tokenizer.get_vocab(), sort_keys=True)
    merges = tokenizer.backend_tokenizer.to_str() if tokenizer.is_fast else ""
    return cache_key(vocabulary, merges, tokenizer.chat_template, tokenizer.special_tokens_map)
