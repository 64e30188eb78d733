"""Task pretraining: learn text as such. Documents end with end-of-text and share rows without seeing each other."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, ClassVar

from gptft.errors import UserError
from gptft.models.logits import IGNORED, keeps_documents_apart
from gptft.models.templates import render_conversation
from gptft.tasks.base import Task

if TYPE_CHECKING:
    from datasets import Dataset


class Pretraining(Task):
    """Documents (column `text`, or `messages` in the chat template) to full rows of tokens."""

    name: ClassVar[str] = "pretraining"

    def check_model(self, model: Any) -> None:
        """Documents share rows, so the model must keep them apart by their positions."""
        if not keeps_documents_apart(model):
            raise UserError(
                f"task pretraining: documents share rows, and this base ({model.config.model_type}) lets them see each "
                "other. Use a base whose attention in transformers reads packed rows, such as GPT-2."
            )

    def examples(self, dataset: Dataset, tokenizer: Any, max_length: int, cache_key: str) -> Dataset:
        """Rows of exactly `max_length` tokens (the last may be shorter) with `position_ids` that restart."""
        from datasets import Dataset, Features, List, Value

        def tokenize(batch: dict[str, list[Any]]) -> dict[str, list[list[int]]]:
            return {
                "ids": [document_ids(tokenizer, *pair) for pair in zip(batch["text"], batch["messages"], strict=True)]
            }

        documents = dataset.map(
            tokenize,
            batched=True,
            remove_columns=dataset.column_names,
            new_fingerprint=cache_key[:-2] + "-d",
            desc="Tokenising",
        )
        ids = List(Value("int32"))
        counts = {name: Value("int32") for name in ("length", "supervised")}
        flags = {name: Value("bool") for name in ("shortened", "dropped")}
        features = Features(
            {"input_ids": ids, "labels": ids, "position_ids": ids, **counts, **flags, "origin": Value("string")}
        )
        if not dataset.cache_files:
            # A block of a stream, of which nothing is kept.
            return Dataset.from_list(list(pack_rows(documents, max_length)), features=features)
        arguments = {"documents": documents, "max_length": max_length}
        packed = Dataset.from_generator(pack_rows, gen_kwargs=arguments, features=features, fingerprint=cache_key)
        assert isinstance(packed, Dataset)
        return packed


def document_ids(tokenizer: Any, text: str | None, messages: list[dict[str, str]] | None) -> list[int]:
    """Token ids of one document, closed by the end-of-text token."""
    if messages:
        ids, _ = render_conversation(tokenizer, messages)
    else:
        # A literal end-of-text in a document would end it early, so it is read as plain characters.
        ids = tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    return ids if ids and ids[-1] == tokenizer.eos_token_id else [*ids, tokenizer.eos_token_id]


def pack_rows(documents: Dataset, max_length: int) -> Iterator[dict[str, Any]]:
    """Join documents and cut them into full rows; no token is lost and none is predicted twice.

    Positions restart at each document, which is how transformers keeps the documents of a row apart. Each document's
    first token has nothing before it, so it is no target. Where a document goes on in the next row, that row begins
    with the last token of the one before, so that every later token is a target exactly once.
    """
    row: dict[str, list[int]] = {"input_ids": [], "labels": [], "position_ids": []}
    for document in documents:
        ids = document["ids"]  # pyright: ignore[reportCallIssue, reportArgumentType]
        start = 0
        while start < len(ids) - 1:
            piece = ids[start : start + max_length - len(row["input_ids"])]
            row["input_ids"] += piece
            row["labels"] += [IGNORED, *piece[1:]]
            row["position_ids"] += range(len(piece))
            start += len(piece) - 1
            # A last place in the row could hold a document's first token only, which is no target.
            if len(row["input_ids"]) >= max_length - 1:
                yield _finished(row)
                row = {name: [] for name in row}
    if row["input_ids"]:
        yield _finished(row)


def _finished(row: dict[str, list[int]]) -> dict[str, Any]:
    supervised = sum(label != IGNORED for label in row["labels"])
    length = len(row["input_ids"])
    return {**row, "length": length, "supervised": supervised, "shortened": False, "dropped": False, "origin": ""}
