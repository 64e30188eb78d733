"""Files are complete or absent: everything is written beside its place, synced, then renamed."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gptft.errors import GptftError


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn the operating system's refusal to write into a message that names the place, and says what is free there."""
    try:
        yield
    except GptftError:
        raise
    except Exception as error:
        # Of safetensors, tokenizers and torch no OSError comes, but text that has one in it, or torch's own words.
        refused = re.search(r"os error \d|PytorchStreamWriter|enforce fail", str(error))
        if not isinstance(error, OSError) and not refused:
            raise
        reason = getattr(error, "strerror", None) or (str(error).splitlines() or [type(error).__name__])[0]
        there = next(folder for folder in [path, *path.absolute().parents] if folder.is_dir())
        reason += f" ({shutil.disk_usage(there).free / 1e9:.1f} GB are free there)"
        raise GptftError(f"{path} could not be written: {reason}. What was there before is unchanged.") from error


def sync(*paths: Path) -> None:
    """Wait until the disk has files, and folders with their names; OSError when it refuses."""
    for path in paths:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        except OSError as error:
            # Not every file system can do that for folders.
            if error.errno != errno.EINVAL or not path.is_dir():
                raise
        finally:
            os.close(descriptor)


def write_text_atomically(path: Path, text: str) -> None:
    """Write `text` as UTF-8 to `path`; see `write_bytes_atomically`."""
    write_bytes_atomically(path, text.encode("utf-8"))


def write_bytes_atomically(path: Path, content: bytes) -> None:
    """Write `content` to `path`, which is never seen half written.

    Raises:
        GptftError: when the file cannot be written (a full disk, no permission).
    """
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.chmod(temporary, 0o644)
            os.replace(temporary, path)
            sync(path.parent)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise


def write_json_atomically(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, atomically."""
    write_text_atomically(path, json.dumps(value, indent=2, ensure_ascii=False, default=str) + "\n")


def write_jsonl_atomically(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Write one JSON object a line, atomically."""
    write_text_atomically(path, "".join(json.dumps(row, ensure_ascii=False, default=str) + "\n" for row in rows))


@contextmanager
def folder_written_atomically(path: Path) -> Iterator[Path]:
    """Give a temporary folder beside `path` that takes its place when the block ends without an error.

    Raises:
        GptftError: when the disk refuses; `path` is then as it was.
    """
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
        try:
            yield temporary
            sync(*temporary.rglob("*"), temporary)
            os.chmod(temporary, 0o755)
            if path.exists():
                old = path.with_name(f".{path.name}.old")
                shutil.rmtree(old, ignore_errors=True)
                os.rename(path, old)
                try:
                    os.rename(temporary, path)
                except BaseException:
                    os.rename(old, path)
                    raise
                shutil.rmtree(old, ignore_errors=True)
            else:
                os.rename(temporary, path)
            sync(path.parent)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
