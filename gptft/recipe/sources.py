"""Tell places on this disk from names on the Hub, and find the files that a source stands for."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

DATA_SUFFIXES = (".jsonl", ".json", ".csv", ".tsv", ".parquet", ".txt", ".md", ".rst")
"""Endings of the files that gptft reads; each may be followed by `.gz`."""

_HUB_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)?")
_VARIABLE = re.compile(r"\$(?:\{(\w+)\}|(\w+))")


class SourceError(ValueError):
    """A source that cannot be found, with what to do."""


def is_data_file(path: str | Path) -> bool:
    """Whether the name of a file says that gptft reads it."""
    return Path(str(path).lower().removesuffix(".gz")).suffix in DATA_SUFFIXES


def expand(text: str) -> str:
    """Replace `$NAME`, `${NAME}` and a leading `~`.

    Raises:
        SourceError: when a variable is not set.
    """
    missing = [a or b for a, b in _VARIABLE.findall(text) if (a or b) not in os.environ]
    if missing:
        names = ", ".join(f"${name}" for name in missing)
        raise SourceError(f"the environment variable {names} is not set: export it, or write the path itself")
    return os.path.expanduser(_VARIABLE.sub(lambda match: os.environ[match[1] or match[2]], text))


def is_hub_name(text: str) -> bool:
    """Whether text has the form of a name on the Hub: `name` or `owner/name`."""
    return _HUB_NAME.fullmatch(text) is not None


def resolve(text: str, folders: list[Path]) -> str:
    """An absolute path (or glob) for what lies on this disk, else the Hub name unchanged.

    Args:
        text: a source as written in a recipe.
        folders: where relative paths start, the first that has it wins.

    Raises:
        SourceError: when it can only be a path and nothing is there, or no file of it has anything in it.
    """
    expanded = expand(text)
    for folder in folders if expanded else ():
        absolute = os.path.normpath(folder / expanded)
        if not os.path.exists(absolute) and glob.has_magic(expanded):
            absolute = os.path.normpath(os.path.join(glob.escape(str(folder)), expanded))
        files = _files(absolute)
        first = next(files, None)
        if first and (os.path.getsize(first) or any(os.path.getsize(file) for file in files)):
            return absolute
        if first:
            raise SourceError(f"{absolute}: there is nothing in it (0 bytes)")
        if os.path.exists(absolute):
            what = "the folder has no" if os.path.isdir(absolute) else "it is no"
            raise SourceError(f"{absolute}: {what} data file ({' '.join(DATA_SUFFIXES)}, also with .gz)")
    # In data/corpus where there is a folder data, the owner of a Hub name is hardly meant.
    beside = "/" in expanded and any(os.path.isdir((folder / expanded).parent) for folder in folders)
    if is_hub_name(expanded) and not is_data_file(expanded) and not beside:
        return expanded
    places = " or ".join(dict.fromkeys(str(folder) for folder in folders))
    start = "" if os.path.isabs(expanded) else f" (looked in {places})"
    what = "no data file matches the pattern" if glob.has_magic(expanded) else "no such file or folder"
    raise SourceError(f"{what}: {expanded or 'the path is empty'}{start}")


def files_of(path: str) -> list[Path]:
    """The data files that an absolute path, folder (all below it) or glob stands for, by name."""
    return sorted(Path(file) for file in _files(path))


def _files(path: str) -> Iterator[str]:
    found: Iterable[str] = glob.iglob(path, recursive=True)
    if os.path.isfile(path):
        found = [path]
    elif os.path.isdir(path):
        found = _below(path)
    return (file for file in found if is_data_file(file) and os.path.isfile(file))


def _below(folder: str) -> Iterator[str]:
    for place, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        yield from (os.path.join(place, name) for name in files if not name.startswith("."))


def find_files(path: str, folder: Path) -> list[Path] | None:
    """The files of a source as written or as resolved; None when it is a name on the Hub.

    Raises:
        SourceError: when it can only be a path and nothing is there.
    """
    resolved = resolve(path, [folder])
    return files_of(resolved) if os.path.isabs(resolved) else None


def resolve_model(text: str, folders: list[Path]) -> str:
    """An absolute folder for a model, run or tokenizer on this disk, else the Hub id (or `starter`) unchanged.

    Raises:
        SourceError: when it can only be a folder and there is none.
    """
    expanded = expand(text)
    if expanded == "starter":
        return expanded
    for folder in folders:
        candidate = folder / expanded
        if expanded and os.path.isdir(candidate):
            # runs/latest moves on with the next run; what it means now is what the recipe means.
            return os.path.realpath(candidate)
        if os.path.isfile(candidate):
            raise SourceError(f"{candidate} is a file: name the model's folder")
    if is_hub_name(expanded):
        return expanded
    raise SourceError(f"no such folder: {expanded} (and a Hub id has the form owner/name)")
