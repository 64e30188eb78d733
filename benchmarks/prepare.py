"""Turn three of the data sets into rows: python benchmarks/prepare.py (reads and writes below $GPTFT_DATA or a copy).

    e2e             the restaurants of train under each other's names, or names made of pieces of them, and beside each
                    other: every name is met with every fact, so that a small model learns to copy, not to guess
    news            posts whose summary is not copied from the text
    movietweetings  what a user liked before, and the next film; films that fewer than FILM_RATINGS users of train liked
                    are left out everywhere (the usual k-core), the test's right answer is each user's last film

Writes train.jsonl (of news and movietweetings dev.jsonl and test.jsonl too) into OUT/NAME, OUT being --output
(default: benchmarks/prepared).
"""

from __future__ import annotations

import argparse
import csv
import gzip
import json
import os
import random
import re
from collections import Counter
from pathlib import Path
from typing import Any

from gptft.files import write_jsonl_atomically

HERE = Path(__file__).parent
SPLITS = ("train", "dev", "test")
FILM_RATINGS = 10
PAIRS_PER_USER = 12
HISTORY = 12


def read(folder: Path, split: str) -> list[dict[str, Any]]:
    with gzip.open(folder / f"{split}.jsonl.gz", "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def news(data: Path, output: Path) -> None:
    for split in SPLITS:
        rows = [row for row in read(data / "news", split) if not row["copied"]]
        kept = [{name: row[name] for name in ("title", "text", "summary")} for row in rows]
        write_jsonl_atomically(output / "news" / f"{split}.jsonl", kept)
        print(f"news/{split}: {len(kept):,} rows")


def e2e(data: Path, output: Path) -> None:
    with (data / "e2e" / "trainset.csv").open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    draw = random.Random(0)
    for attribute in ("name", "near"):
        named = [re.search(rf"{attribute}\[(.*?)\]", row["mr"]) for row in rows]
        names = sorted({found.group(1) for found in named if found})
        for row, found in zip(rows, named, strict=True):
            if found and found.group(1) in row["ref"]:
                name = draw.choice(names) if draw.random() < 0.5 else made_up(names, draw)
                row["mr"] = row["mr"].replace(found.group(), f"{attribute}[{name}]")
                row["ref"] = row["ref"].replace(found.group(1), name)
    write_jsonl_atomically(output / "e2e" / "train.jsonl", rows)
    print(f"e2e/train: {len(rows):,} rows")


def made_up(names: list[str], draw: random.Random) -> str:
    """One to three words of several names, some of them the beginning of one word and the end of another."""
    words = [word for name in names for word in name.split()]
    chosen = draw.choices(words, k=draw.choice((1, 2, 2, 3)))
    for place, word in enumerate(chosen):
        other = draw.choice(words)
        if draw.random() < 0.5:
            chosen[place] = word[: len(word) // 2] + other[len(other) // 2 :].lower()
    return " ".join(chosen)


def movietweetings(data: Path, output: Path) -> None:
    users = {split: [row["history"] for row in read(data / "movietweetings", split)] for split in SPLITS}
    ratings = Counter(film for history in users["train"] for film in history)
    draw = random.Random(0)
    for split in SPLITS:
        rows = []
        for history in users[split]:
            films = [film for film in history if ratings[film] >= FILM_RATINGS]
            places = list(range(2, len(films)))
            if split == "train":
                places = sorted(draw.sample(places, min(PAIRS_PER_USER, len(places))))
            rows += [
                {"history": "; ".join(films[max(0, place - HISTORY) : place]), "item": films[place]}
                for place in (places if split == "train" else places[-1:])
            ]
        write_jsonl_atomically(output / "movietweetings" / f"{split}.jsonl", rows)
        print(f"movietweetings/{split}: {len(rows):,} rows, {len({row['item'] for row in rows}):,} films")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--data", type=Path, default=Path(os.environ.get("GPTFT_DATA", HERE.parent.parent / "shared/data"))
    )
    parser.add_argument("--output", type=Path, default=HERE / "prepared")
    arguments = parser.parse_args()
    e2e(arguments.data, arguments.output)
    news(arguments.data, arguments.output)
    movietweetings(arguments.data, arguments.output)


if __name__ == "__main__":
    main()
