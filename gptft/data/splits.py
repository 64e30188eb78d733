"""The three splits of a recipe, and the report of what came of each row."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from gptft.data.cleaning import CONTROL_REMOVED, EMPTY, NFC_CHANGED
from gptft.data.sources import prepare_source
from gptft.data.streams import head_of
from gptft.errors import UserError
from gptft.recipe.schema import Recipe, Source

if TYPE_CHECKING:
    from datasets import Dataset

SPLIT_NAMES = ("train", "validation", "test")
_PROBLEMS_SHOWN = 5
_SHOWN = {EMPTY: "empties", CONTROL_REMOVED: "control_characters"}


@dataclass
class SplitReport:
    """What became of the rows of one split. Counts are rows; `fingerprint` is of the kept rows' exact content."""

    sources: list[dict[str, Any]]
    """Of each source its path, rows, weight, and how many rows this split read from it and kept."""
    read: int = 0
    unicode_nfc: int = 0
    control_characters: int = 0
    empties: int = 0
    duplicates: int = 0
    kept: int = 0
    weighted: int = 0
    fingerprint: str = ""
    streamed: bool = False
    """Whether these are the first rows of a stream."""
    examples: dict[str, list[str]] = field(default_factory=dict)
    """File and line of the first rows that were empty, or had control characters."""


@dataclass
class DataReport:
    """What became of the data: a report a split, and what the user should know of."""

    splits: dict[str, SplitReport] = field(default_factory=dict)
    overlap: dict[str, int] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Give the report as plain values, for the manifest."""
        return asdict(self)

    def summary(self) -> str:
        """Give one line a split, for the terminal."""
        return "\n".join(_line(name, split) for name, split in self.splits.items())


def _line(name: str, split: SplitReport) -> str:
    paths = ", ".join(source["path"] for source in split.sources)
    counted = {
        "duplicates dropped": split.duplicates,
        "empty dropped": split.empties,
        "with control characters removed": split.control_characters,
        "with letters rewritten as NFC": split.unicode_nfc,
    }
    notes = [f"{count:,} {what}" for what, count in counted.items() if count]
    weighted = f", {split.weighted:,} by weight" if split.weighted != split.kept else ""
    details = f" ({', '.join(notes)})" if notes else ""
    first = "the first " if split.streamed else ""
    return f"{name}: {first}{split.kept:,} of {split.read:,} rows{weighted} from {paths}{details}"


@dataclass
class Splits:
    """The rows of each split, with columns messages, text, targets, origin; None where the recipe has no such split."""

    train: Dataset | None
    validation: Dataset | None
    test: Dataset | None
    report: DataReport


def load_splits(recipe: Recipe, splits: Sequence[str] = SPLIT_NAMES) -> Splits:
    """Read, clean and split the data of a recipe; the second time it comes from the cache.

    A share goes by a hash of the row's content and `data.seed`: adding rows moves no other, and rows that are equal
    or have one prompt stay together, so a share is met only roughly.

    Args:
        recipe: what to read.
        splits: which splits to make; sources that none of them needs are not read.

    Raises:
        UserError: when a source is missing, rows are unusable (the first five are shown), or a split has no row.
        GptftError: when the Hub does not answer or the disk refuses.
    """
    import datasets

    given = {name: getattr(recipe.data, name) for name in SPLIT_NAMES}
    shares = {name: value for name in ("test", "validation") if isinstance(value := given[name], float)}
    wanted = [name for name in SPLIT_NAMES if name in splits and given[name] is not None]
    report, problems = DataReport(), list[str]()
    pools: dict[str, list[Dataset]] = {}
    for name in dict.fromkeys("train" if name in shares else name for name in wanted):
        if name == "train" and recipe.data.streaming:
            pools[name] = [head_of(source, recipe, len(given[name])) for source in given[name]]
        else:
            pools[name] = [prepare_source(source, recipe, name) for source in given[name]]
        for part in pools[name]:
            problems += filter(None, _column(part, "problem"))
    if problems:
        raise UserError(_all_problems(problems))
    made: dict[str, Dataset | None] = dict.fromkeys(SPLIT_NAMES)
    kept: dict[str, set[str]] = {}
    for name in wanted:
        pool = "train" if name in shares else name
        report.splits[name], indices, kept[name] = _choose(
            pools[pool], given[pool], shares if pool == "train" else {}, recipe, name
        )
        report.splits[name].streamed = name == "train" and recipe.data.streaming
        rows = datasets.concatenate_datasets(pools[pool]) if len(pools[pool]) > 1 else pools[pool][0]
        made[name] = rows.select(indices).select_columns(["messages", "text", "targets", "origin"])
    for name in ("validation", "test"):
        if count := len(kept.get(name, set()) & kept.get("train", set())):
            report.overlap[name] = count
            report.warnings.append(
                f"data.{name}: {count:,} of {len(kept[name]):,} rows are also in train: scores on them show memory, "
                "not learning. Remove them from one of the two."
            )
    return Splits(made["train"], made["validation"], made["test"], report)


def _column(dataset: Dataset, name: str) -> list[Any]:
    # Straight from Arrow: the formatting of each row takes most of the time otherwise.
    return dataset.data.column(name).to_pylist()


def _all_problems(problems: list[str]) -> str:
    here = os.getcwd() + os.sep
    lines = [f"  {problem.removeprefix(here)}" for problem in problems[:_PROBLEMS_SHOWN]]
    if more := len(problems) - len(lines):
        lines.append(f"  and {more:,} more")
    count = "1 row" if len(problems) == 1 else f"{len(problems):,} rows"
    return "\n".join([f"The data cannot be used: {count} with a problem:", *lines])


def _position(digest: str, salt: str) -> float:
    """Give the row's fixed place in [0, 1) for a purpose."""
    return int.from_bytes(hashlib.sha256(f"{salt}:{digest}".encode()).digest()[:8], "big") / 2**64


def _split_of(digest: str, shares: dict[str, float], seed: int) -> str:
    place = _position(digest, f"split {seed}")
    for name, share in shares.items():
        if place < share:
            return name
        place -= share
    return "train"


def _choose(
    parts: list[Dataset], sources: list[Source], shares: dict[str, float], recipe: Recipe, name: str
) -> tuple[SplitReport, list[int], set[str]]:
    """Choose the rows of a split among its sources'; give their indices (by weight) and the groups of those kept."""
    described = [
        {"path": s.path, "rows": len(part), "weight": s.weight, "read": 0, "kept": 0}
        for s, part in zip(sources, parts, strict=True)
    ]
    report, seed, cleaning = SplitReport(described), recipe.data.seed, recipe.data.cleaning
    chosen: list[tuple[int, int]] = []
    seen: set[str] = set()
    groups: set[str] = set()
    start = 0
    for source, part, said in zip(sources, parts, described, strict=True):
        read, kept = report.read, report.kept
        copies, part_copy = divmod(source.weight if name == "train" else 1.0, 1)
        columns = (_column(part, column) for column in ("digest", "group", "found"))
        for index, (digest, group, found) in enumerate(zip(*columns, strict=True), start):
            if shares and _split_of(group, shares, seed) != name:
                continue
            report.read += 1
            report.control_characters += bool(found & CONTROL_REMOVED)
            report.unicode_nfc += bool(found & NFC_CHANGED)
            for bit, what in (_SHOWN if found & (EMPTY | CONTROL_REMOVED) else {}).items():
                if found & bit and len(known := report.examples.setdefault(what, [])) < 3:
                    known.append(part[index - start]["origin"])
            if found & EMPTY and cleaning.empties:
                report.empties += 1
            elif digest in seen and cleaning.duplicates:
                report.duplicates += 1
            else:
                report.kept += 1
                seen.add(digest)
                groups.add(group)
                more = part_copy > 0 and _position(digest, f"weight {seed}") < part_copy
                chosen += [(copy, index) for copy in range(int(copies) + more)]
        start += len(part)
        said |= {"read": report.read - read, "kept": report.kept - kept}
    if not chosen:
        raise UserError(
            f"data.{name}: no row is left of {start:,}"
            + (f" ({report.empties:,} were empty)" if report.empties else "")
            + ("; give a larger share or a source of its own" if name in shares else "")
        )
    # Second copies come after all first ones.
    chosen.sort()
    report.weighted = len(chosen)
    indices = [index for _, index in chosen]
    # Not of the digests that found duplicates: white space at the ends makes other tokens.
    exact = [digest for part in parts for digest in _column(part, "exact")]
    report.fingerprint = hashlib.sha256("".join(exact[index] for index in indices).encode()).hexdigest()
    return report, indices, groups
