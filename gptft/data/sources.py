"""From a recipe's source to a `datasets.Dataset`, prepared once and then read from the cache of `datasets`.

A prepared row has `messages`, `text`, `targets` and `origin`, and what splitting needs: `digest` of its content,
`group` (the same without targets: rows with one prompt stay together), `found` (bits of what cleaning found) and
`problem` (why it cannot be used; the other columns are then empty).
"""

from __future__ import annotations

import hashlib
import json
import os
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gptft.data.cleaning import EMPTY, clean_row, clean_targets, content_digest
from gptft.data.columns import RowError, detect_layout, read_row
from gptft.data.readers import Bad, Rows, read_file
from gptft.data.templates import TemplateReader
from gptft.errors import GptftError, UserError
from gptft.network import hub_problem
from gptft.recipe.schema import CleaningSection, Recipe, Source, Task
from gptft.recipe.sources import TEXT_SUFFIXES, SourceError, data_suffix, find_files

if TYPE_CHECKING:
    from datasets import Dataset, Features


@dataclass(frozen=True)
class Shard:
    """A file of a source, or a split from the Hub (`dataset`). `label` is its name in origins; `alone`: it is all."""

    path: str
    label: str
    alone: bool = True
    dataset: Dataset | None = None

    def rows(self) -> Rows:
        """Read it."""
        return read_file(Path(self.path)) if self.dataset is None else enumerate(_named(self.dataset), start=1)

    def identity(self) -> list[Any]:
        """What changes when its content may have changed."""
        if self.dataset is not None:
            return [self.label, self.dataset._fingerprint]
        status = os.stat(self.path)
        return [self.path, self.label, self.alone, status.st_size, status.st_mtime_ns]


def _named(dataset: Dataset) -> Iterator[dict[str, Any]]:
    """Rows with the names of classes in place of their numbers (-1: none), also in lists of them."""
    kinds = {column: getattr(kind, "feature", kind) for column, kind in dataset.features.items()}
    names = {column: kind.names for column, kind in kinds.items() if hasattr(kind, "names")}
    for row in dataset:
        assert isinstance(row, dict)
        yield {**row, **{column: _class_name(row[column], names[column]) for column in names}}


def _class_name(value: int | list[int] | None, names: list[str]) -> Any:
    if isinstance(value, list):
        return [_class_name(item, names) for item in value]
    return None if value is None or value < 0 else names[value]


def prepare_source(source: Source, recipe: Recipe, key: str) -> Dataset:
    """Read, check and clean all rows of a source (`key`: train, validation or test).

    Raises:
        UserError: when the source does not exist or has no data file.
        GptftError: when the Hub does not answer, a file cannot be read or the cache not be written.
    """
    import datasets
    import datasets.config
    import datasets.exceptions

    shards = _find_shards(source, recipe, key)
    how = _how(source, recipe)
    # The code that prepares is part of the key: rows that other code prepared are never taken for this one's.
    code = [path.read_text("utf-8") for path in sorted(Path(__file__).parent.glob("*.py"))]
    settings = [how["columns"], how["task"], how["cleaning"].model_dump(), str(how["reader"])]
    parts = [[shard.identity() for shard in shards], *settings, code]
    try:
        return datasets.Dataset.from_generator(
            _prepared_rows,
            features=prepared_features(),
            gen_kwargs={"shards": shards, **how},
            fingerprint=hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32],
        )  # type: ignore[return-value]
    except (datasets.exceptions.DatasetGenerationError, OSError) as error:
        cache = datasets.config.HF_DATASETS_CACHE
        raise GptftError(
            f"data.{key}: {source.path} could not be prepared (cache: {cache}): {error.__cause__ or error}"
        ) from error


def stream_source(
    source: Source, recipe: Recipe, key: str, draw: random.Random | None = None
) -> Iterator[dict[str, Any]]:
    """The prepared rows of a source once, read as they are asked for; files in an order that `draw` gives.

    Raises:
        UserError: a row that cannot be used; and as `prepare_source`.
    """
    shards = _find_shards(source, recipe, key, streaming=True)
    if draw:
        draw.shuffle(shards)
    for row in _prepared_rows(shards, **_how(source, recipe)):
        if row["problem"]:
            raise UserError(f"The data cannot be used:\n  {row['problem']}")
        yield row


def prepared_features() -> Features:
    """The columns of prepared rows."""
    import datasets

    turn = {"role": datasets.Value("string"), "content": datasets.Value("string")}
    strings = {name: datasets.Value("string") for name in ("text", "origin", "digest", "group", "exact", "problem")}
    lists = {"messages": [turn], "targets": datasets.List(datasets.Value("string"))}
    return datasets.Features({**lists, "found": datasets.Value("int8"), **strings})


def _how(source: Source, recipe: Recipe) -> dict[str, Any]:
    """How the rows of a source are read: the further arguments of `_prepared_rows`."""
    columns = {**recipe.data.columns, **source.columns}
    reader = TemplateReader.of(recipe, columns) if recipe.task in ("classification", "completion") else None
    return {"columns": columns, "task": recipe.task, "cleaning": recipe.data.cleaning, "reader": reader}


def _find_shards(source: Source, recipe: Recipe, key: str, streaming: bool = False) -> list[Shard]:
    try:
        files = find_files(source.path, recipe.folder)
    except SourceError as error:
        raise UserError(f"data.{key}: {source.path}: {error}") from error
    if files is None:
        return [_from_hub(source, key, streaming)]
    base = os.path.commonpath([file.parent for file in files])
    return [Shard(str(file), file.relative_to(base).as_posix(), len(files) == 1) for file in files]


def _from_hub(source: Source, key: str, streaming: bool = False) -> Shard:
    from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError, RevisionNotFoundError

    split = source.split or key
    neither = f"data.{key}: {source.path} is no file or folder beside the recipe, and"
    try:
        unreachable = hub_problem(source.path, "dataset", source.revision)
    except RevisionNotFoundError as error:
        raise UserError(f"data.{key}: {source.path} has no revision {source.revision!r} on the Hub.") from error
    except (RepositoryNotFoundError, HFValidationError) as error:
        reason = str(error).partition("\n")[0]
        raise UserError(f"{neither} the Hub shows you no data set of that name: {reason}") from error
    try:
        dataset = load_from_hub(source, split, offline=bool(unreachable), streaming=streaming)
    except ValueError as error:  # such as a split or configuration that it does not have
        raise UserError(f"data.{key}: {source.path} on the Hub: {error}") from error
    except Exception as error:
        if not unreachable:
            raise GptftError(f"data.{key}: {source.path} on the Hub cannot be loaded: {error}") from error
        raise GptftError(
            f"{neither} the Hub, where it could be a data set, does not answer ({unreachable}), nor is it in the "
            "cache. Mend the path; or load it once with a network, and it is read from the cache from then on."
        ) from error
    return Shard(source.path, f"{source.path}/{split}", dataset=dataset)


def load_from_hub(source: Source, split: str, offline: bool, streaming: bool = False) -> Dataset:
    """Load a split from the Hub, with `offline` from the cache alone, with `streaming` row by row.

    What `datasets` raises is passed on.
    """
    import datasets
    import datasets.config

    was_offline = datasets.config.HF_HUB_OFFLINE
    try:
        # Else `datasets` asks an absent Hub for half a minute before it looks into its cache.
        datasets.config.HF_HUB_OFFLINE = was_offline or offline
        options: dict[str, Any] = {"split": split, "revision": source.revision, "streaming": streaming}
        return datasets.load_dataset(f"hf://datasets/{source.path}", source.name, **options)  # type: ignore[return-value]
    finally:
        datasets.config.HF_HUB_OFFLINE = was_offline


def _prepared_rows(
    shards: list[Shard],
    columns: dict[str, str],
    task: Task,
    cleaning: CleaningSection,
    reader: TemplateReader | None,
) -> Iterator[dict[str, Any]]:
    for shard in shards:
        layout, number = None, 0
        for number, row in shard.rows():
            try:
                if isinstance(row, Bad):
                    raise RowError(row)
                # The first row decides, so that a file is read in one way.
                messages, targets = None, None
                if reader is None:
                    layout = layout or detect_layout(row, columns, task)
                    messages, text, found = clean_row(*read_row(row, layout), cleaning)
                else:
                    layout = layout or reader.layout(row)
                    text, targets, found = clean_targets(*reader.read(row, layout), cleaning)
                if (messages or targets) and found & EMPTY and not cleaning.empties:
                    raise RowError("no turn of the assistant has any text" if messages else "prompt or answer is empty")
            except (ValueError, RecursionError) as error:  # nested too deeply to be text
                yield _problem(f"{shard.path}:{number}: {error}")
                if layout is None and not isinstance(row, Bad):
                    break
                continue
            yield {
                "messages": messages,
                "text": text,
                "targets": targets,
                "origin": _storable(f"{shard.label}:{number}"),
                "digest": content_digest(messages, text, targets=targets),
                "group": content_digest(messages, text),
                "exact": content_digest(messages, text, exact=True, targets=targets),
                "found": found,
                "problem": None,
            }
        if number == 0 and (shard.alone or data_suffix(shard.path) not in TEXT_SUFFIXES):
            yield _problem(f"{shard.path}: the file is empty, or has no row")


def _problem(message: str) -> dict[str, Any]:
    return {
        **dict.fromkeys(("messages", "text", "targets", "origin", "digest", "group", "exact")),
        "found": 0,
        "problem": _storable(message),
    }


def _storable(text: str) -> str:
    """Replace what Arrow cannot hold: halves of characters, from file names or column names."""
    return text.encode("utf-8", "replace").decode("utf-8")
