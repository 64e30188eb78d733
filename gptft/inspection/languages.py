"""In which languages a split is written, by py3langid, which needs no network. Short texts are left out."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from gptft.inspection.findings import Finding
from gptft.inspection.rows import chunks

if TYPE_CHECKING:
    from datasets import Dataset

SAMPLE = 2000
_LEAST, _SURE = 40, 0.95
"""Bytes that a text must have, and the probability below which a guess counts as none."""


@dataclass(frozen=True)
class Languages:
    """Texts by language (ISO 639-1), of a sample of rows; what is learned, where that is told apart."""

    counts: Counter[str]
    places: dict[str, str]
    """Where a language was first met."""

    @property
    def main(self) -> str | None:
        """The language of most texts, if it is one."""
        language, count = next(iter(self.counts.most_common(1)), (None, 0))
        return language if count > 0.5 * self.counts.total() else None


@cache
def _identifier() -> Any:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    # A second to unpack.
    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)


def find_languages(rows: Dataset, task: str) -> Languages:
    """Guess the language of the texts that are learned, in at most `SAMPLE` rows spread over the split."""
    identifier, counts, places = _identifier(), Counter[str](), dict[str, str]()
    for chunk in chunks(rows, task, SAMPLE):
        learned = chunk.answers if chunk.answers.any() else np.ones(len(chunk.row), bool)
        for index in np.flatnonzero(learned).tolist():
            text = chunk.texts[index].as_py()[:1000]
            language, sure = identifier.classify(text) if len(text.encode()) >= _LEAST else ("", 0.0)
            if sure >= _SURE:
                counts[language] += 1
                places.setdefault(language, chunk.origins[int(chunk.row[index])].as_py())
    return Languages(counts, places)


def language_findings(found: dict[str, Languages]) -> list[Finding]:
    """Rows in another language than the rest, and splits in another than train."""
    findings, train = [], found["train"]
    total, main = train.counts.total(), train.main
    others = {name: count for name, count in train.counts.items() if name != main and count >= max(3, 0.01 * total)}
    if main and others:
        said = ", ".join(f"{name} {count / total:.1%}" for name, count in others.items())
        words = f"most of train is in the language {main}, some is in another: {said}"
        findings.append(Finding("other_language", words, [train.places[name] for name in others][:3]))
    for name, languages in found.items():
        if main and languages.main and languages.main != main:
            words = f"{name} is in the language {languages.main}, train in {main}"
            findings.append(Finding("held_out_in_another_language", words))
    return findings
