"""Rows for ever, in an order that a seed decides: for more data than disk or memory hold."""

from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING, Any

from gptft.data.cleaning import EMPTY
from gptft.data.sources import prepared_features, stream_source
from gptft.errors import UserError
from gptft.recipe.schema import Recipe, Source

if TYPE_CHECKING:
    from datasets import Dataset

COLUMNS = ("messages", "text", "targets", "origin")


def head_of(source: Source, recipe: Recipe, sources: int) -> Dataset:
    """The first rows of a source of train, as `prepare_source` gives all of them: its part of `data.buffer_rows`."""
    count = -(-recipe.data.buffer_rows // sources)
    return _dataset(list(islice(stream_source(source, recipe, "train"), count)))


def blocks(recipe: Recipe, share: int = 0, shares: int = 1) -> Iterator[Dataset]:
    """Blocks of `data.buffer_rows` rows of train, shuffled, for ever; what is empty is left out, as elsewhere.

    Which source a row comes from is drawn by their weights; a source that ends begins anew, its files in another order.
    Only this share's rows are given, every `shares`-th from `share` on: no two shares have one in common.

    Raises:
        UserError: a row that cannot be used, or no row at all.
    """
    draw = random.Random(recipe.data.seed)
    sources: list[Source] = recipe.data.train  # type: ignore[assignment]
    endless = [_endless(source, recipe, random.Random(draw.getrandbits(64))) for source in sources]
    weights = [source.weight for source in sources]

    def mixed() -> Iterator[dict[str, Any]]:
        while True:
            yield from (next(rows) for rows in draw.choices(endless, weights, k=1000))

    rows = islice(mixed(), share, None, shares)
    while True:
        block = list(islice(rows, recipe.data.buffer_rows))
        random.Random(draw.getrandbits(64)).shuffle(block)
        yield _dataset(block).select_columns(list(COLUMNS))


def _endless(source: Source, recipe: Recipe, draw: random.Random) -> Iterator[dict[str, Any]]:
    while True:
        useful = 0
        for row in stream_source(source, recipe, "train", draw):
            if not (row["found"] & EMPTY and recipe.data.cleaning.empties):
                useful += 1
                yield row
        if not useful:
            raise UserError(f"data.train: {source.path} has no row that can be used.")


def _dataset(rows: list[dict[str, Any]]) -> Dataset:
    import datasets

    columns = {name: [row[name] for row in rows] for name in prepared_features()}
    return datasets.Dataset.from_dict(columns, features=prepared_features())
