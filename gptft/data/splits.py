"""The three splits of a recipe, and the report of what came of each row."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from gptft.data.cleaning import CONTROL_REMOVED, EMPTY, NFC_CHANGED
from gptft.data.sources import prepare_source
from gptft.errors import UserError
from gptft.recipe.schema import Recipe, Source

if TYPE_CHECKING:
    from datasets import Dataset

SPLIT_NAMES = ("train", "validation", "test")
_PROBLEMS_SHOWN = 5


@dataclass
class SplitReport:
    """What became of the rows of one split. Counts are rows; `fingerprint` is of what the kept rows say."""

    sources: list[dict[str, Any]]
    read: int = 0
    unicode_nfc: int = 0
    control_characters: int = 0
    empties: int = 0
    duplicates: int = 0
    kept: int = 0
    weighted: int = 0
    fingerprint: str = ""


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
    notes = [
        f"{count:,} {what}"
        for count, what in (
            (split.duplicates, "duplicates dropped"),
            (split.empties, "empty dropped"),
            (split.control_characters, "with control characters removed"),
            (split.unicode_nfc, "with letters rewritten as NFC"),
        )
        if count
    ]
    weighted = f", {split.weighted:,} by weight" if split.weighted != split.kept else ""
    details = f" ({', '.join(notes)})" if notes else ""
    return f"{name}: {split.kept:,} of {split.read:,} rows{weighted} from {paths}{details}"


@dataclass
class Splits:
    """The rows of each split, with columns messages, text, origin; None where the recipe has no such split."""

    train: Dataset | None
    validation: Dataset | None
    test: Dataset | None
    report: DataReport


@dataclass
class _Pool:
    """Rows of a list of sources, with the columns that decide about them."""

    dataset: Dataset
    digests: list[str]
    found: list[int]
    weights: list[float]
    sources: list[dict[str, Any]]


def load_splits(recipe: Recipe, splits: Sequence[str] = SPLIT_NAMES, num_proc: int | None = None) -> Splits:
    """Read, clean and split the data of a recipe; the second time it comes from the cache.

    A share goes by a hash of the row's content and `data.seed`: adding rows moves no other, and equal rows stay
    together, so a share is met only roughly.

    Args:
        recipe: what to read.
        splits: which splits to make; sources that none of them needs are not read.
        num_proc: processes that read the files of a source.

    Raises:
        UserError: when a source is missing, rows are unusable (the first five are shown), or a split has no row.
        GptftError: when the Hub does not answer or the disk refuses.
    """
    given = {name: getattr(recipe.data, name) for name in SPLIT_NAMES}
    shares = {name: value for name in ("test", "validation") if isinstance(value := given[name], float)}
    if sum(shares.values()) >= 1:
        raise UserError(
            f"data: the shares of {' and '.join(shares)} add up to {sum(shares.values()):g}: no row is left to train on"
        )
    wanted = [name for name in SPLIT_NAMES if name in splits and given[name] is not None]
    pools: dict[str, _Pool] = {}
    problems: list[str] = []
    for name in dict.fromkeys("train" if name in shares else name for name in wanted):
        pools[name] = _read_pool(given[name], recipe, name, num_proc, problems)
    if problems:
        raise UserError(_all_problems(problems))
    report = DataReport()
    made: dict[str, Dataset | None] = dict.fromkeys(SPLIT_NAMES)
    kept: dict[str, set[str]] = {}
    for name in wanted:
        pool = pools["train" if name in shares else name]
        members: Iterable[int] = range(len(pool.digests))
        if pool is pools.get("train") and shares:
            members = [n for n in members if _split_of(pool.digests[n], shares, recipe.data.seed) == name]
        made[name], report.splits[name], kept[name] = _make_split(pool, members, recipe, name)
    for name in ("validation", "test"):
        if name in kept and "train" in kept and (count := len(kept[name] & kept["train"])):
            report.overlap[name] = count
            report.warnings.append(
                f"data.{name}: {count:,} of {len(kept[name]):,} rows are also in train: scores on them show memory, "
                "not learning. Remove them from one of the two."
            )
    return Splits(made["train"], made["validation"], made["test"], report)


def _read_pool(sources: list[Source], recipe: Recipe, name: str, num_proc: int | None, problems: list[str]) -> _Pool:
    import datasets

    parts = [prepare_source(source, recipe, name, num_proc) for source in sources]
    for part in parts:
        if part.data.column("problem").null_count < len(part):
            problems += [problem for problem in part["problem"] if problem is not None]
    dataset = parts[0] if len(parts) == 1 else datasets.concatenate_datasets(parts)
    weights = [source.weight for source, part in zip(sources, parts, strict=True) for _ in range(len(part))]
    described = [
        {"path": source.path, "rows": len(part), "weight": source.weight}
        for source, part in zip(sources, parts, strict=True)
    ]
    return _Pool(dataset, list(dataset["digest"]), list(dataset["found"]), weights, described)


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


def _make_split(
    pool: _Pool, members: Iterable[int], recipe: Recipe, name: str
) -> tuple[Dataset, SplitReport, set[str]]:
    cleaning, report, seen = recipe.data.cleaning, SplitReport(pool.sources), set[str]()
    indices: list[int] = []
    for index in members:
        digest, found = pool.digests[index], pool.found[index]
        report.read += 1
        report.control_characters += bool(found & CONTROL_REMOVED)
        report.unicode_nfc += bool(found & NFC_CHANGED)
        if found & EMPTY and cleaning.empties:
            report.empties += 1
        elif digest in seen and cleaning.duplicates:
            report.duplicates += 1
        else:
            seen.add(digest)
            indices.append(index)
    report.kept = len(indices)
    if name == "train":
        indices = _weighted(indices, pool, recipe.data.seed)
    report.weighted = len(indices)
    if not indices:
        raise UserError(
            f"data.{name}: no row is left of {len(pool.digests):,}"
            + (f" ({report.empties:,} were empty)" if report.empties else "")
            + ("; give a larger share or a source of its own" if name != "train" else "")
        )
    digest = hashlib.sha256("".join(pool.digests[index] for index in indices).encode())
    report.fingerprint = digest.hexdigest()
    return pool.dataset.select(indices).select_columns(["messages", "text", "origin"]), report, seen


def _weighted(indices: list[int], pool: _Pool, seed: int) -> list[int]:
    """Repeat rows, or leave some out, by the weight of their source; copies come after all first ones."""
    copies = []
    for index in indices:
        whole, part = divmod(pool.weights[index], 1)
        count = int(whole) + (part > 0 and _position(pool.digests[index], f"weight {seed}") < part)
        copies += [(copy, index) for copy in range(count)]
    return [index for _, index in sorted(copies)]
