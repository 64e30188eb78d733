"""Sample answers of a run: the best, the middling and the worst, with what differs from the reference marked."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from markupsafe import Markup

SAMPLES = {"best": 7, "median": 6, "worst": 7}
RANKED = 1000
"""Of more rows, so many, evenly chosen, are ranked: chrF of long texts takes a millisecond each."""
LENGTH = 1500
_ALONE = "\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af"
WORDS = re.compile(rf"(?:[{_ALONE}]|[^\W{_ALONE}]+|[^\w\s])\s*|^\s+")
"""What is compared as one: a word, a mark, or a Chinese, Japanese or Korean character, and the space after it."""


@dataclass(frozen=True)
class Answer:
    """What one model said: `text` with the words that the reference does not have marked, its score and confidence."""

    who: str
    text: Markup
    score: str


@dataclass(frozen=True)
class Sample:
    """A row: what was asked, what was expected (with the words that the answer lacks marked), what was answered."""

    kind: str
    origin: str
    prompt: str
    reference: Markup
    answers: list[Answer]


def read_rows(folder: Path) -> list[dict[str, Any]]:
    """The lines of predictions.jsonl; none where there is no such file."""
    file = folder / "predictions.jsonl"
    return [json.loads(line) for line in file.open(encoding="utf-8")] if file.is_file() else []


def choose_samples(models: Sequence[tuple[str, str, list[dict[str, Any]]]]) -> list[Sample]:
    """Rank the rows of the first model and take the best, the middling and the worst.

    Labels are ranked by being right and by confidence, numbers by their distance, texts by chrF (sacreBLEU), ranks of
    candidates where nothing else was asked for.

    Args:
        models: each as (name, prefix of its keys: `base_` for a base, rows of predictions.jsonl); rows of other models
            are found by their origin.
    """
    _, prefix, rows = models[0]
    rows = [row for row in rows[:: -(-len(rows) // RANKED) or 1] if prefix + "prediction" in row or "rank" in row]
    scored = sorted(rows, key=lambda row: -_score(row, prefix)[0])
    by_origin = [(name, start, {row["origin"]: row for row in theirs}) for name, start, theirs in models]
    return [
        _sample(kind, row, [(name, start, known.get(row["origin"])) for name, start, known in by_origin])
        for kind, chosen in _chosen(scored).items()
        for row in chosen
    ]


def _chosen(ranked: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    if len(ranked) <= sum(SAMPLES.values()):
        return {"all, the best first": ranked} if ranked else {}
    middle = (len(ranked) - SAMPLES["median"]) // 2
    return {
        "best": ranked[: SAMPLES["best"]],
        "median": ranked[middle : middle + SAMPLES["median"]],
        "worst": ranked[-SAMPLES["worst"] :],
    }


def _score(row: dict[str, Any], prefix: str) -> tuple[float, str]:
    """By what a row is ranked, higher for better, and how that is said."""
    answer = row.get(prefix + "prediction")
    if prefix + "correct" in row:
        right, sure = row[prefix + "correct"], row[prefix + "confidence"]
        return (1 if right else -1) * sure, f"{'right' if right else 'wrong'}, confidence {sure:.3f}"
    if isinstance(row["references"], float):
        distance = abs(row[prefix + "prediction"] - row["references"])
        return -distance, f"off by {distance:.4g}"
    rank = row.get(prefix + "rank")
    if answer is None:
        return -(rank or float("inf")), f"rank {rank}" if rank else "none of the candidates"
    value = max(_chrf()(str(answer), [reference]).score for reference in row["references"])
    return value, f"chrF {value:.1f}" + (f", rank {rank}" if rank else "")


@cache
def _chrf() -> Callable[..., Any]:
    from sacrebleu.metrics.chrf import CHRF

    return CHRF().sentence_score


def _sample(kind: str, row: dict[str, Any], models: Sequence[tuple[str, str, dict[str, Any] | None]]) -> Sample:
    references = row["references"] if isinstance(row["references"], list) else [row["references"]]
    own = _text(row.get(models[0][1] + "prediction"))
    if "correct" in row:  # all its labels are right ones
        references = [", ".join(references)]
    # Of several right answers, the one that the answer comes nearest to.
    expected = max(map(str, references), key=lambda reference: _chrf()(own, [reference]).score)
    answers = [
        Answer(name, marked(_text(found[start + "prediction"]), expected, "extra"), _score(found, start)[1])
        for name, start, found in models
        if found and start + "prediction" in found
    ]
    return Sample(kind, row["origin"], _end(row["prompt"]), marked(expected, own, "missing"), answers)


def _text(value: Any) -> str:
    return ", ".join(value) if isinstance(value, list) else str(value or "").strip()


def _end(text: str) -> str:
    return text if len(text) <= LENGTH else f"… {text[-LENGTH:]}"


def marked(text: str, other: str, css_class: str) -> Markup:
    """`text` with the words marked that `other` does not have at their place; both are cut at `LENGTH`."""
    words, others = WORDS.findall(text[:LENGTH]), WORDS.findall(other[:LENGTH])
    parts = []
    bare, others = ([word.strip() for word in side] for side in (words, others))
    for what, start, end, *_ in difflib.SequenceMatcher(None, bare, others).get_opcodes():
        piece = "".join(words[start:end])
        mark = "{}" if what == "equal" or not piece.strip() else f'<mark class="{css_class}">{{}}</mark>'
        parts.append(Markup(mark).format(piece))
    return Markup("").join(parts) + ("…" if len(text) > LENGTH else "")
