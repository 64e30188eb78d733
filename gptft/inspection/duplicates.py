"""Rows that say nearly the same, found by MinHash (Broder 1997) with the library rensa.

A row is the set of its words and of its pairs of neighbouring words, without case and punctuation; two rows are near
each other where these sets have at least `NEAR` in common (Jaccard). Signatures are cut into bands, and rows that share
a band with an earlier one are compared with it: first the signatures (which estimate the similarity with a standard
error of 0.06), then the sets themselves, of the first `COMPARED` pairs; beyond these the estimate counts.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import rensa

from gptft.inspection.rows import Chunk, chunks, compute, hashes

if TYPE_CHECKING:
    from datasets import Dataset

NEAR = 0.8
COMPARED = 50_000
BANDS, WIDTH = 8, 5
_SEED = 1
_MINHASH: Any = getattr(rensa, "RMinHash")  # noqa: B009 - an extension module without types
_MIX = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True)
class Near:
    """Two rows that say nearly the same."""

    split: str
    origin: str
    other: str
    similarity: float
    text: str
    other_text: str


@dataclass(frozen=True)
class Duplicates:
    """Rows of each split that are near an earlier row of train, or repeat it."""

    counts: dict[str, int]
    rows: dict[str, int]
    examples: list[Near]


def find_duplicates(splits: dict[str, Dataset], task: str, shown: int = 3) -> Duplicates:
    """Look for rows of train that are near an earlier one, and rows of other splits that are near one of train.

    Args:
        splits: rows by split, train first.
        task: the recipe's.
        shown: how many examples to give of each split.
    """
    sizes = [len(rows) for rows in splits.values()]
    signatures, filled = np.empty((sum(sizes), BANDS * WIDTH), dtype=np.uint32), 0
    for rows in splits.values():
        for part in chunks(rows, task):
            signatures[filled : filled + len(part.origins)] = signature(part)
            filled += len(part.origins)
    nearest = np.split(_nearest(signatures, sizes[0]), np.cumsum(sizes)[:-1])
    del signatures
    counts, examples = {}, []
    for (name, rows), before in zip(splits.items(), nearest, strict=True):
        candidates = np.flatnonzero(before >= 0)
        counts[name], near = max(0, len(candidates) - COMPARED), []
        for start in range(0, min(len(candidates), COMPARED), 5000):
            some = candidates[start : start + 5000]
            sets = zip(_word_sets(rows, some, task), _word_sets(splits["train"], before[some], task), strict=True)
            common = [len(one & other) / max(len(one | other), 1) for one, other in sets]
            near += [pair for pair in zip(common, some.tolist(), before[some].tolist(), strict=True) if pair[0] >= NEAR]
        counts[name] += len(near)
        for similarity, index, other in near[:: max(1, len(near) // shown)][:shown]:
            (origin, text), (first, said) = _said(rows, index, task), _said(splits["train"], other, task)
            examples.append(Near(name, origin, first, similarity, text, said))
    return Duplicates(counts, dict(zip(splits, sizes, strict=True)), examples)


def _word_sets(rows: Dataset, indices: np.ndarray, task: str) -> list[set[int]]:
    numbers, starts = _sets(next(chunks(rows.select(indices), task)))
    return [set(numbers[start:stop].tolist()) for start, stop in pairwise(starts)]


def _said(rows: Dataset, index: int, task: str) -> tuple[str, str]:
    chunk = next(chunks(rows.select([index]), task))
    return chunk.origins[0].as_py(), " ".join(" ".join(chunk.texts.to_pylist()).split())[:200]


def _sets(chunk: Chunk) -> tuple[np.ndarray, np.ndarray]:
    """Words and pairs of words as numbers, row after row, and where each row begins."""
    letters = compute.replace_substring_regex(compute.utf8_lower(chunk.texts), r"[^\p{L}\p{N}]+", " ")
    if compute.sum(compute.binary_length(letters)) != compute.sum(compute.utf8_length(letters)):
        # Scripts without spaces: each sign is a word.
        letters = compute.replace_substring_regex(letters, r"([\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}])", r" \1 ")
    words: Any = compute.split_pattern(compute.utf8_trim_whitespace(letters), " ")
    flat = words.flatten().dictionary_encode()
    numbers = hashes(flat.dictionary)[flat.indices.to_numpy()]
    row = np.repeat(chunk.row, words.value_lengths().to_numpy())
    inside = row[1:] == row[:-1]
    pairs = (numbers[:-1] * _MIX ^ numbers[1:])[inside]
    every, rows = np.concatenate([numbers, pairs]), np.concatenate([row, row[1:][inside]])
    starts = np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=len(chunk.origins)))])
    return every[np.argsort(rows, kind="stable")], starts.astype(np.uint64)


def signature(chunk: Chunk) -> np.ndarray:
    """MinHash signatures of a chunk's rows, shape (rows, BANDS * WIDTH), 32 bits each."""
    numbers, starts = _sets(chunk)
    matrix = _MINHASH.digest_matrix_from_flat_token_hashes(numbers, starts, BANDS * WIDTH, _SEED)
    return np.array(matrix.to_rows(), dtype=np.uint32)


def _nearest(signatures: np.ndarray, train: int) -> np.ndarray:
    """For each row an earlier one of train (the first `train` rows) that is near it, else -1."""
    nearest = np.full(len(signatures), -1, dtype=np.int64)
    for columns in np.split(signatures, BANDS, axis=1):
        band = columns[:, 0].astype(np.uint64)
        for column in columns.T[1:]:
            band = (band ^ column) * _MIX
            band ^= band >> np.uint64(29)
        # Stable: of equal bands the earliest row comes first, and that of train before others.
        order = np.argsort(band, kind="stable")
        new = np.concatenate([[True], band[order][1:] != band[order][:-1]])
        first = order[np.flatnonzero(new)[np.cumsum(new) - 1]]
        asked = (first != order) & (nearest[order] < 0) & (first < train)
        rows, before = order[asked], first[asked]
        for part in np.array_split(np.arange(len(rows)), len(rows) // 100_000 + 1):
            same = (signatures[rows[part]] == signatures[before[part]]).mean(axis=1) >= NEAR
            nearest[rows[part][same]] = before[part][same]
    return nearest
