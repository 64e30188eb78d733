"""From a recipe's sources to one `datasets.Dataset` each, prepared once and then read from the cache of `datasets`.

A prepared row has `messages`, `text` and `origin`, and what splitting needs: `digest` of its content, `found` (bits of
what cleaning did) and `problem` (why it cannot be used; the other columns are then empty).
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gptft.data import cleaning as cleaning_module
from gptft.data import columns as columns_module
from gptft.data import readers
from gptft.data.cleaning import EMPTY, clean_row, content_digest
from gptft.data.columns import RowError, detect_layout, read_row
from gptft.data.readers import SUFFIXES, TEXT_SUFFIXES, Bad, data_suffix, read_file
from gptft.errors import GptftError, UserError
from gptft.recipe.schema import CleaningSection, Recipe, Source, Task

if TYPE_CHECKING:
    from datasets import Dataset


@dataclass(frozen=True)
class FileRows:
    """A file of a source. `label` is its name in origins; `alone`: the source names this very file."""

    path: Path
    label: str
    alone: bool

    def rows(self) -> readers.Rows:
        """Read the file."""
        return read_file(self.path)

    def identity(self) -> list[Any]:
        """What changes when the file changes."""
        status = self.path.stat()
        return [str(self.path), self.label, self.alone, status.st_size, status.st_mtime_ns]


@dataclass(frozen=True)
class HubRows:
    """A split of a data set from the Hub."""

    dataset: Dataset
    label: str
    alone: bool = True

    @property
    def path(self) -> str:
        """Its name in messages."""
        return self.label

    def rows(self) -> readers.Rows:
        """Read the split."""
        yield from enumerate(iter(self.dataset), start=1)  # type: ignore[misc]

    def identity(self) -> list[Any]:
        """What changes when the data set changes."""
        return [self.label, self.dataset._fingerprint]


def prepare_source(source: Source, recipe: Recipe, key: str, num_proc: int | None = None) -> Dataset:
    """Read, check and clean all rows of a source (`key`: train, validation or test).

    Raises:
        UserError: when the source does not exist or has no data file.
        GptftError: when the Hub does not answer, or a file cannot be read or the cache not be written.
    """
    import datasets

    shards = find_files(source.path, recipe.folder, key) or [_from_hub(source, key)]
    columns = {**recipe.data.columns, **source.columns}
    cleaning = recipe.data.cleaning.model_copy(update={"duplicates": True})
    # The code that prepares is part of the key: a cache from another version of it is never taken for this one's.
    code = [Path(str(m.__file__)).read_text("utf-8") for m in (cleaning_module, columns_module, readers)]
    key_parts = [[s.identity() for s in shards], columns, recipe.task, cleaning.model_dump(), code]
    turn = {"role": datasets.Value("string"), "content": datasets.Value("string")}
    strings = {name: datasets.Value("string") for name in ("text", "origin", "digest", "problem")}
    try:
        return datasets.Dataset.from_generator(
            _prepared_rows,
            features=datasets.Features({"messages": [turn], "found": datasets.Value("int8"), **strings}),
            gen_kwargs={"shards": shards, "columns": columns, "task": recipe.task, "cleaning": cleaning},
            num_proc=min(num_proc, len(shards)) if num_proc and len(shards) > 1 else None,
            fingerprint=hashlib.sha256(json.dumps(key_parts).encode()).hexdigest()[:32],
        )  # type: ignore[return-value]
    except (datasets.exceptions.DatasetGenerationError, OSError) as error:
        cause = error.__cause__ or error
        raise GptftError(
            f"data.{key}: {source.path} could not be prepared: {cause}. The cache is in {datasets.config.HF_DATASETS_CACHE}"
        ) from error


def find_files(text: str, folder: Path, key: str) -> list[FileRows]:
    """Give the data files that a path, folder or glob stands for, in order of name; none for a name on the Hub.

    Raises:
        UserError: when it is written as a path and nothing is there, or no file is of a known format.
    """
    expanded = os.path.expandvars(os.path.expanduser(text))
    if expanded.startswith("$") or "/$" in expanded:
        raise UserError(f"data.{key}: {text} names an environment variable that is not set")
    path = folder / expanded
    is_glob = any(character in expanded for character in "*?[") and not path.exists()
    if is_glob:
        base = Path(*path.parts[: next(n for n, part in enumerate(path.parts) if set(part) & set("*?["))])
        paths = sorted(p for p in base.glob(str(path.relative_to(base))) if p.is_file())
    elif path.is_dir():
        base, paths = path, sorted(p for p in path.rglob("*") if p.is_file())
    elif path.exists():
        base, paths = path.parent, [path]
    elif data_suffix(path) or expanded.startswith((".", "/", "~")):
        raise UserError(f"data.{key}: there is no file or folder {path}")
    else:
        return []
    visible = [p for p in paths if not any(part.startswith(".") for part in p.relative_to(base).parts)]
    known = [p for p in visible if data_suffix(p)]
    if not known:
        raise UserError(f"data.{key}: {path} has no data file: known are {', '.join(SUFFIXES)}, also .gz")
    alone = not is_glob and not path.is_dir()
    return [FileRows(p.absolute(), p.relative_to(base).as_posix(), alone) for p in known]


def _from_hub(source: Source, key: str) -> HubRows:
    import datasets

    split = source.split or key
    try:
        dataset = datasets.load_dataset(source.path, source.name, split=split)
    except Exception as error:
        raise GptftError(f"data.{key}: {source.path}: {error}") from error
    return HubRows(dataset, f"{source.path}/{split}")  # type: ignore[arg-type]


def _prepared_rows(
    shards: list[FileRows | HubRows], columns: dict[str, str], task: Task, cleaning: CleaningSection
) -> Iterator[dict[str, Any]]:
    nothing = dict.fromkeys(("messages", "text", "origin", "digest", "problem"))
    for shard in shards:
        layout, number, empty = None, 0, True
        for number, row in shard.rows():
            empty = False
            try:
                if isinstance(row, Bad):
                    raise RowError(row)
                # Only the first row decides, so that a file is read in one way.
                layout = layout or detect_layout(list(row), columns, task)
                messages, text, found = clean_row(*read_row(row, layout), cleaning)
                if messages is not None and found & EMPTY and not cleaning.empties:
                    raise RowError("no turn of the assistant has any text")
            except ValueError as error:
                yield {**nothing, "found": 0, "problem": f"{shard.path}:{number}: {error}"}
                if layout is None and not isinstance(row, Bad):
                    break
                continue
            digest = content_digest(messages, text)
            origin = f"{shard.label}:{number}"
            yield {**nothing, "messages": messages, "text": text, "found": found, "origin": origin, "digest": digest}
        if empty and (shard.alone or data_suffix(Path(shard.path)) not in TEXT_SUFFIXES):
            yield {**nothing, "found": 0, "problem": f"{shard.path}: the file is empty: it has no row"}
