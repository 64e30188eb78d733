"""Checkpoints are complete or absent: written beside their place, with a digest of each file, synced, then renamed."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path

from gptft.files import sync, write_json_atomically

DIGESTS = "sha256.json"
"""The file in a checkpoint with the SHA-256 of each other file; it is written last."""
WRITING = ".writing"
"""The folder beside checkpoints in which one is written."""


def numbered(checkpoints: Path) -> list[Path]:
    """The checkpoints in a folder, the newest last."""
    found = [folder for folder in checkpoints.glob("checkpoint-*") if folder.name[11:].isdecimal()]
    return sorted(found, key=lambda folder: int(folder.name[11:]))


def put_in_place(written: Path, place: Path) -> None:
    """Note the digests of a checkpoint's files, sync them, and rename it from `written` to `place`."""
    write_json_atomically(written / DIGESTS, _digests(written))
    sync(*written.rglob("*"), written)
    # One of the same step, as a stop at the end of an epoch leaves; see `finish_writing` should it end here.
    _remove(place)
    os.rename(written, place)
    sync(place.parent)


def finish_writing(checkpoints: Path) -> None:
    """Put in place what a kill left between writing and renaming, and remove what it left half written."""
    for written in numbered(checkpoints / WRITING):
        if not (checkpoints / written.name).exists() and not damage(written):
            os.rename(written, checkpoints / written.name)
    for left in checkpoints.glob(".*"):
        shutil.rmtree(left, ignore_errors=True)


def remove_older(checkpoints: Path, keep: int | None, best: str | None) -> None:
    """Remove the oldest until `keep` are left, but never the newest or the best.

    The Trainer's own function, killed in the middle, leaves a checkpoint with half its files.
    """
    folders = numbered(checkpoints)
    removable = [folder for folder in folders[:-1] if str(folder) != best]
    for folder in removable[: max(0, len(folders) - keep)] if keep else []:
        _remove(folder)


def _remove(folder: Path) -> None:
    if folder.exists():
        aside = folder.with_name(f".{folder.name}.old")
        os.rename(folder, aside)
        shutil.rmtree(aside, ignore_errors=True)


def damage(folder: Path) -> str | None:
    """Why a checkpoint cannot be used; None where each of its files is as it was written."""
    try:
        noted, found = json.loads((folder / DIGESTS).read_text(encoding="utf-8")), _digests(folder)
    except FileNotFoundError:
        return "it was not written to its end"
    except (OSError, ValueError) as error:
        return f"it cannot be read ({error})"
    wrong = sorted(name for name in {**noted, **found} if noted.get(name) != found.get(name))
    return f"{', '.join(wrong)} is not as it was written" if wrong else None


def _digests(folder: Path) -> dict[str, str]:
    digests: dict[str, str] = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file() and path.name != DIGESTS):
        digest = hashlib.sha256()
        with path.open("rb") as file:
            while part := file.read(2**20):
                digest.update(part)
        digests[path.relative_to(folder).as_posix()] = digest.hexdigest()
    return digests
