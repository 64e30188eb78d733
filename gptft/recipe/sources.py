"""Tell places on this disk from names on the Hub, and find the files that a source stands for."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

TEXT_SUFFIXES = (".txt", ".md", ".rst")
DATA_SUFFIXES = (".jsonl", ".json", ".csv", ".tsv", ".parquet", *TEXT_SUFFIXES)
"""Endings of the files that gptft reads; each may be followed by `.gz`."""
MOST_FILES = 100_000

_HUB_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)?")
_VARIABLE = re.compile(r"\$(?:\{(\w+)\}|(\w+))")
_SECRET = re.compile("TOKEN|KEY|SECRET|PASSWORD|CREDENTIAL", re.IGNORECASE)


class SourceError(ValueError):
    """A source that cannot be found, with what to do."""


def data_suffix(path: str | Path) -> str:
    """The ending that tells a file's format, lower case, `.gz` aside."""
    return Path(Path(path).name.lower().removesuffix(".gz")).suffix


def resolve(text: str, folders: list[Path]) -> str:
    """An absolute path (or glob) for what lies on this disk, else the Hub name unchanged.

    Args:
        text: a source as written in a recipe.
        folders: where relative paths start, the first that has it wins.

    Raises:
        SourceError: when it can only be a path and nothing is there, or no file of it has anything in it.
    """
    expanded = _expand(text)
    for folder in folders if expanded else ():
        absolute = os.path.normpath(folder / expanded)
        if not os.path.exists(absolute) and glob.has_magic(expanded):
            absolute = os.path.normpath(os.path.join(glob.escape(str(folder)), expanded))
        if files := files_of(absolute):
            if any(file.stat().st_size for file in files):
                return absolute
            raise SourceError(f"{absolute}: there is nothing in it (0 bytes)")
        if os.path.exists(absolute):
            what = "the folder has no" if os.path.isdir(absolute) else "it is no"
            raise SourceError(f"{absolute}: {what} data file ({' '.join(DATA_SUFFIXES)}, also with .gz)")
    # In data/corpus where there is a folder data, the owner of a Hub name is hardly meant.
    beside = "/" in expanded and any(os.path.isdir((folder / expanded).parent) for folder in folders)
    if _HUB_NAME.fullmatch(expanded) and data_suffix(expanded) not in DATA_SUFFIXES and not beside:
        return expanded
    what = "no data file matches the pattern" if glob.has_magic(expanded) else "no such file or folder"
    raise SourceError(f"{what}: {expanded or 'the path is empty'} (looked in {' and '.join(map(str, folders))})")


def files_of(path: str) -> list[Path]:
    """The data files that an absolute path, folder (all below it but what is hidden) or glob stands for, by name.

    Too many of them are a SourceError.
    """
    found = (
        [path] if os.path.isfile(path) else _below(path) if os.path.isdir(path) else glob.iglob(path, recursive=True)
    )
    taken = list(islice(found, MOST_FILES + 1))
    if len(taken) > MOST_FILES:
        raise SourceError(f"{path} stands for more than {MOST_FILES:,} files; name a folder or pattern of fewer")
    return sorted(Path(file) for file in taken if data_suffix(file) in DATA_SUFFIXES and os.path.isfile(file))


def _below(folder: str) -> Iterator[str]:
    # Links to folders are not followed: they lead in circles, or away from what the user named.
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
    expanded = _expand(text)
    for folder in folders if expanded != "starter" else ():
        candidate = folder / expanded
        if expanded and candidate.is_dir():
            # runs/latest moves on with the next run; what it means now is what the recipe means.
            return os.path.realpath(candidate)
        if candidate.is_file():
            raise SourceError(f"{candidate} is a file: name the model's folder")
    if _HUB_NAME.fullmatch(expanded):
        return expanded
    raise SourceError(f"no such folder: {expanded} (and a Hub id has the form owner/name)")


def _expand(text: str) -> str:
    """Replace `$NAME`, `${NAME}` and a leading `~`; a variable that is not set or a secret is a `SourceError`."""
    variables = [a or b for a, b in _VARIABLE.findall(text)]
    if secrets := [name for name in variables if _SECRET.search(name)]:
        names = ", ".join(f"${name}" for name in secrets)
        raise SourceError(
            f"the environment variable {names} is a secret by its name, and places are shown, asked of the Hub and "
            "written into runs: use a variable of another name, or write the path itself"
        )
    if missing := [name for name in variables if name not in os.environ]:
        names = ", ".join(f"${name}" for name in missing)
        raise SourceError(f"the environment variable {names} is not set: export it, or write the path itself")
    return os.path.expanduser(_VARIABLE.sub(lambda match: os.environ[match[1] or match[2]], text))
