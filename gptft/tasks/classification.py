"""Task classification: a label, several labels or a number for a text."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any, ClassVar

from gptft.errors import UserError
from gptft.models.classes import NUMBER, SEVERAL, SINGLE, Classes, label_tokens
from gptft.tasks.base import Task
from gptft.tasks.completion import PromptEncoder

if TYPE_CHECKING:
    from datasets import Dataset

    from gptft.recipe.schema import ClassificationSection


def classes_of(section: ClassificationSection, rows: Dataset, tokenizer: Any) -> Classes:
    """The labels of a recipe: those it names, or those that its training rows have, sorted.

    Raises:
        UserError: fewer than two labels, or no token for one with the language model's head.
    """
    if section.problem_type == NUMBER:
        return Classes(("LABEL_0",), NUMBER)
    found = {label for targets in rows["targets"][:] for label in targets}
    names = tuple(section.labels or sorted(found))
    if section.labels and section.out_of_scope in found and section.out_of_scope not in names:
        names = (*names, str(section.out_of_scope))
    if len(names) < 2:
        raise UserError(
            f"data.train has one label only ({', '.join(names) or 'none'}): there is nothing to tell apart."
        )
    if unknown := sorted(set(section.label_words) - set(names)):
        raise UserError(f"classification.label_words: {', '.join(unknown)}: no such label in {', '.join(names)}.")
    tokens = label_tokens(tokenizer, names, section.label_words) if section.head == "lm" else ()
    return Classes(names, section.problem_type, tokens, section.out_of_scope, section.threshold)


class Classification(Task):
    """Texts (column `text`) and labels (column `targets`) to examples; `labels` has one number for each output."""

    name: ClassVar[str] = "classification"

    def __init__(self, encoder: PromptEncoder | None = None, classes: Classes | None = None) -> None:
        self.encoder = encoder or PromptEncoder()
        self.classes = classes or Classes(())

    def settings(self) -> dict[str, Any]:
        """What decides about the encoding, for the cache's key."""
        encoder, classes = self.encoder, self.classes
        return {"encoder": [encoder.closing, encoder.truncation_side], "classes": [classes.names, classes.problem_type]}

    def examples(self, dataset: Dataset, tokenizer: Any, max_length: int, cache_key: str) -> Dataset:
        """The text's tokens with `labels`: an id, one 0 or 1 for each label, or the number."""
        from datasets import Features, List, Value

        id_of = self.classes.id_of

        def label(targets: list[str], origin: str) -> list[float]:
            if self.classes.problem_type == NUMBER:
                return [float(targets[0])]
            if unknown := [name for name in targets if name not in id_of and name != self.classes.out_of_scope]:
                raise UserError(f"{origin}: the label {', '.join(unknown)} is none that train has: {', '.join(id_of)}.")
            if self.classes.problem_type == SEVERAL:
                return [float(name in targets) for name in self.classes.names]
            return [float(id_of[targets[0]])] if targets[0] in id_of else []

        def encode(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
            encoded = self.encoder.encode(tokenizer, batch["text"])
            ids = [self.encoder.fit(body, end, max_length) for body, end in encoded]
            labels = [label(*pair) for pair in zip(batch["targets"], batch["origin"], strict=True)]
            return {
                "input_ids": ids,
                "labels": labels,
                "length": [len(row) for row in ids],
                # A row that is out of scope by its label, where that is none to learn, has nothing to learn from.
                "supervised": [int(bool(row)) for row in labels],
                "shortened": [len(row) < sum(map(len, parts)) for row, parts in zip(ids, encoded, strict=True)],
                "dropped": [False] * len(ids),
                "origin": batch["origin"],
            }

        columns = {"input_ids": List(Value("int32")), "labels": List(Value("float64"))}
        counts = {name: Value("int32") for name in ("length", "supervised")}
        flags = {name: Value("bool") for name in ("shortened", "dropped")}
        return dataset.map(
            encode,
            batched=True,
            remove_columns=dataset.column_names,
            features=Features({**columns, **counts, **flags, "origin": Value("string")}),
            new_fingerprint=cache_key,
            desc="Encoding",
        )

    def counts(self, dataset: Dataset) -> list[int]:
        """Rows of each label in an encoded split."""
        if self.classes.problem_type == SINGLE:
            found = Counter(int(row[0]) for row in dataset["labels"][:] if row)
            return [found[index] for index in range(len(self.classes.names))]
        return [int(sum(column)) for column in zip(*dataset["labels"][:], strict=True)]
