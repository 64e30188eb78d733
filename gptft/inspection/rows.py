"""One pass over a split's rows, in Arrow and numpy: what is odd in texts, turns and answers, and where."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas
import pyarrow as pa
import pyarrow.compute

from gptft.inspection.findings import Finding, share

if TYPE_CHECKING:
    from datasets import Dataset

compute: Any = pyarrow.compute
_hash_array: Any = pandas.util.hash_array  # pyright: ignore[reportAttributeAccessIssue]
CHUNK = 10_000
_PLACES = 3
_PATTERNS = {
    # UTF-8 that was read as Latin-1 or Windows-1252, and the sign for what could not be read.
    "mojibake": r"[ÃÂÐ][\x{80}-\x{BF}]|â[€\x{80}]|ï[»¿]|\x{FFFD}",
    "markup": r"(?i)</?(p|div|span|br|a|li|ul|ol|td|tr|table|h[1-6]|b|i|strong|em|img|script|font)(\s[^>]*)?/?>"
    r"|&(nbsp|amp|lt|gt|quot|#\d+);",
    "url_only": r"^\s*(https?://|www\.)\S+\s*$",
}
_PLACEHOLDER = r"(?i)^\s*#?(n/?a|null|none|nan|undefined|todo|tbd|\[deleted\]|\[removed\])\s*$"
_FOUND = {
    "mojibake": "{} rows have characters such as `Ã©` or the sign for an unreadable one",
    "markup": "{} rows have HTML tags or entities",
    "url_only": "{} rows have a text that is nothing but a link",
    "end_of_text_written": "{} rows have the end-of-text token written out",
    "placeholder_answers": "{} rows have an answer such as N/A, null or [deleted]",
    "empty_turns": "{} conversations have a turn of the assistant without text",
    "empty_system_prompt": "{} conversations begin with an empty system turn",
    "same_role_twice": "{} conversations have two turns of one role after each other",
    "mixed_first_role": "{} conversations begin with the assistant",
}


@dataclass
class Chunk:
    """Some rows: their texts, flat, with the row that each stands in."""

    texts: Any
    """Arrow strings: contents of turns; or prompt and targets; or the text."""
    row: np.ndarray
    """Row of each text, counted in this chunk from 0, ascending."""
    answers: np.ndarray
    """Whether a text is learned as an answer."""
    roles: np.ndarray | None
    """Roles of the texts of a dialogue."""
    labels: list[list[str]] | None
    """Labels of each row of a classification."""
    origins: Any
    """File and line of each row, Arrow strings."""


def stride(rows: Dataset, limit: int | None) -> int:
    """Every how many-th row is looked at, so that there are at most `limit`."""
    return 1 if limit is None else max(1, -(-len(rows) // limit))


def chunks(rows: Dataset, task: str, limit: int | None = None) -> Iterator[Chunk]:
    """The rows in chunks, or every n-th so that there are at most `limit`."""
    step = stride(rows, limit)
    table = (rows if step == 1 else rows.select(range(0, len(rows), step))).with_format("arrow")
    for start in range(0, len(table), CHUNK):
        part: Any = table[start : start + CHUNK]
        columns = {name: part[name].combine_chunks() for name in part.column_names}
        columns = {
            name: pa.concat_arrays(c.chunks) if isinstance(c, pa.ChunkedArray) else c for name, c in columns.items()
        }
        messages, text, targets = columns["messages"], columns["text"], columns["targets"]
        count, roles, labels = len(part), None, None
        if messages.null_count < count:
            turns = messages.flatten()
            texts, roles = turns.field("content"), np.asarray(turns.field("role").to_numpy(zero_copy_only=False))
            row = np.repeat(np.arange(count), messages.value_lengths().fill_null(0).to_numpy())
            answers = roles == "assistant"
        elif task == "completion":
            lengths = targets.value_lengths().fill_null(0).to_numpy()
            order = np.argsort(np.concatenate([np.arange(count), np.repeat(np.arange(count), lengths)]), kind="stable")
            texts = pa.concat_arrays([text, targets.flatten()]).take(pa.array(order))
            row = np.repeat(np.arange(count), lengths + 1)
            answers = order >= count
        else:
            texts, row, answers = text, np.arange(count), np.zeros(count, bool)
            labels = targets.to_pylist() if task == "classification" else None
        yield Chunk(texts.fill_null(""), row, answers, roles, labels, columns["origin"])


def hashes(texts: Any) -> np.ndarray:
    """A number (64 bits) for each of some Arrow strings, the same everywhere."""
    values = np.asarray(texts.to_numpy(zero_copy_only=False), dtype=object)
    return _hash_array(values, categorize=False)


@dataclass
class Scan:
    """What a pass over a split has found."""

    task: str
    eos: str
    origin: Callable[[int], str]
    """File and line of the n-th row looked at."""
    rows: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    places: dict[str, list[str]] = field(default_factory=dict)
    labels: Counter[str] = field(default_factory=Counter)
    label_places: dict[str, str] = field(default_factory=dict)
    characters: list[np.ndarray] = field(default_factory=list)
    answers: list[np.ndarray] = field(default_factory=list)
    answer_of: dict[int, str] = field(default_factory=dict)
    asked: list[np.ndarray] = field(default_factory=list)
    compared: int = 0
    bytes: int = 0

    def add(self, chunk: Chunk) -> None:
        """Look at some more rows."""

        def mark(name: str, texts: Any, row: np.ndarray = chunk.row) -> None:
            found = np.unique(row[np.asarray(texts)])
            self.counts[name] += len(found)
            known = self.places.setdefault(name, [])
            known += [chunk.origins[int(index)].as_py() for index in found[: _PLACES - len(known)]]

        def matches(texts: Any, pattern: str) -> np.ndarray:
            return compute.match_substring_regex(texts, pattern).to_numpy(zero_copy_only=False).astype(bool)

        for name, pattern in _PATTERNS.items():
            # A document may be about markup: the tasks that answer should not.
            if (name, self.task) != ("markup", "pretraining"):
                mark(name, matches(chunk.texts, pattern))
        mark("end_of_text_written", compute.match_substring(chunk.texts, self.eos).to_numpy(zero_copy_only=False))
        sizes = compute.binary_length(chunk.texts).to_numpy()
        self.bytes += int(sizes.sum())
        count = len(chunk.origins)
        characters = np.bincount(chunk.row, weights=sizes, minlength=count).astype(np.int64)
        self.characters.append(characters)
        answers = chunk.texts.filter(pa.array(chunk.answers))
        row = chunk.row[chunk.answers]
        if self.task != "pretraining":
            mark("placeholder_answers", matches(answers, _PLACEHOLDER), row)
        if chunk.roles is not None:
            empty = matches(chunk.texts, r"^\s*$")
            mark("empty_turns", empty & chunk.answers)
            mark("empty_system_prompt", empty & (chunk.roles == "system"))
            same = (chunk.row[1:] == chunk.row[:-1]) & (chunk.roles[1:] == chunk.roles[:-1])
            mark("same_role_twice", np.append(False, same))
            spoken = np.flatnonzero(chunk.roles != "system")
            first = spoken[np.unique(chunk.row[spoken], return_index=True)[1]]
            mark("mixed_first_role", np.isin(np.arange(len(chunk.row)), first[chunk.roles[first] == "assistant"]))
        if self.task in ("dialogue", "completion"):
            digests = hashes(answers)
            self.answers.append(digests)
            values, index = np.unique(digests, return_index=True)
            for value, at in zip(values[:50].tolist(), index[:50].tolist(), strict=True):
                self.answer_of.setdefault(value, answers[at].as_py()[:60])
        if chunk.labels is not None:
            self._add_labels(chunk)
        self._compare(chunk)
        self.rows += count

    def _add_labels(self, chunk: Chunk) -> None:
        assert chunk.labels is not None
        joined = ["|".join(sorted(names)) for names in chunk.labels]
        self.asked.append(np.stack([hashes(chunk.texts), hashes(pa.array(joined))]))
        for index, names in enumerate(chunk.labels):
            for name in names:
                if name not in self.labels:
                    self.label_places[name] = chunk.origins[index].as_py()
                self.labels[name] += 1

    def _compare(self, chunk: Chunk) -> None:
        """Whether the first tenth of a chunk's prompts give their answers away."""
        last = len(chunk.origins) if self.rows == 0 else len(chunk.origins) // 10
        stop = int(np.searchsorted(chunk.row, last))
        texts = chunk.texts.slice(0, stop).to_pylist()
        if chunk.labels is not None:
            pairs = [(text, label) for text, names in zip(texts, chunk.labels, strict=False) for label in names[:1]]
        else:
            pairs = [
                (texts[index - 1], texts[index])
                for index in np.flatnonzero(chunk.answers[:stop]).tolist()
                if index and chunk.row[index] == chunk.row[index - 1]
            ]
        for asked, answer in pairs:
            wanted = answer.strip().casefold()
            self.compared += 1
            inside = len(wanted) > 2 and wanted in asked.casefold()
            self.counts["answer_in_prompt"] += inside and bool(
                re.search(rf"(?<!\w){re.escape(wanted)}(?!\w)", asked.casefold())
            )


def scan(rows: Dataset, task: str, eos: str, limit: int | None = None) -> Scan:
    """Look at a split's rows, or at `limit` of them."""
    step = stride(rows, limit)
    found = Scan(task, eos, lambda index: rows[index * step]["origin"])
    for chunk in chunks(rows, task, limit):
        found.add(chunk)
    return found


def row_findings(found: Scan) -> list[Finding]:
    """What a careful reader of the rows would say of them."""
    findings = []
    for name, words in _FOUND.items():
        count = found.counts[name]
        # Some markup in a thousand rows may be meant, and where most begin with the assistant it is how they are.
        enough = {"markup": count >= 0.01 * found.rows, "mixed_first_role": count <= 0.1 * found.rows}
        if count and enough.get(name, True):
            findings.append(Finding(name, words.format(share(count, found.rows)), found.places[name]))
    if found.compared >= 10 and found.counts["answer_in_prompt"] > 0.5 * found.compared:
        words = f"the answer stands in the prompt in {share(found.counts['answer_in_prompt'], found.compared)} rows"
        findings.append(Finding("answer_in_prompt", words))
    sizes = np.concatenate(found.characters)
    long = np.flatnonzero(sizes > max(100_000, 50 * np.median(sizes)))
    if len(long):
        words = f"{len(long):,} rows are over 50 times as long as most (the longest: {sizes.max():,} bytes)"
        findings.append(Finding("very_long_rows", words, [found.origin(int(index)) for index in long[:_PLACES]]))
    if found.answers:
        values, counts = np.unique(np.concatenate(found.answers), return_counts=True)
        most, total = int(counts.max()), int(counts.sum())
        said = found.answer_of.get(int(values[counts.argmax()]))
        words = f"{share(most, total)} answers are the same{f': {said!r}' if said else ''}"
        if len(values) == 1 and total > 1:
            findings.append(Finding("one_answer", words))
        elif total >= 10 and most > total / 2:
            findings.append(Finding("frequent_answer", words))
    return findings


def label_findings(found: Scan, weighted: bool, single: bool) -> list[Finding]:
    """What is odd in the labels of train.

    Args:
        found: the scan of train.
        weighted: whether the recipe weights the classes.
        single: whether a row has one label.
    """
    findings, counts = [], found.labels
    if len(counts) == 1:
        findings.append(Finding("one_label", f"all {found.rows:,} rows have the label '{next(iter(counts))}'"))
    rare = [name for name, count in counts.items() if count < 3]
    if rare:
        words = f"{len(rare):,} of {len(counts):,} labels have one or two rows: {_some(rare)}"
        findings.append(Finding("rare_labels", words, [found.label_places[name] for name in rare[:_PLACES]]))
    alike: dict[str, list[str]] = {}
    for name in counts:
        alike.setdefault(re.sub(r"[\s_\u200b-]+", " ", name.casefold()).strip(), []).append(name)
    if twins := [names for names in alike.values() if len(names) > 1]:
        words = "; ".join(" and ".join(map(repr, names)) for names in twins[:_PLACES])
        places = [found.label_places[name] for names in twins[:_PLACES] for name in names]
        findings.append(Finding("similar_labels", f"labels differ in case or spaces alone: {words}", places))
    if single and not weighted and counts:
        (most, many), (least, few) = counts.most_common()[0], counts.most_common()[-1]
        if many >= 20 * few and many > found.rows / 2:
            words = f"'{most}' has {many:,} of {found.rows:,} rows, '{least}' has {few:,}"
            findings.append(Finding("unbalanced_labels", words))
    if single and found.asked:
        texts, labels = np.concatenate(found.asked, axis=1)
        order = np.lexsort((labels, texts))
        texts, labels = texts[order], labels[order]
        clash = (texts[1:] == texts[:-1]) & (labels[1:] != labels[:-1])
        if clash.any():
            count, first = len(np.unique(texts[1:][clash])), np.flatnonzero(clash)[0]
            places = [found.origin(int(index)) for index in order[[first, first + 1]]]
            findings.append(Finding("contradicting_labels", f"{count:,} texts have more than one label", places))
    return findings


def _some(names: list[str]) -> str:
    return ", ".join(names[:5]) + ", ..." * (len(names) > 5)
