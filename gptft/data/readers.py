"""From a file to numbered rows. A line that cannot be read is given as a `Bad` that says why, and reading goes on."""

from __future__ import annotations

import csv
import gzip
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

ROW_SUFFIXES = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet")
TEXT_SUFFIXES = (".txt", ".md", ".rst")
SUFFIXES = ROW_SUFFIXES + TEXT_SUFFIXES


class Bad(str):
    """Why a line is no row."""


Rows = Iterator[tuple[int, "dict[str, Any] | Bad"]]


def data_suffix(path: Path) -> str | None:
    """Give the known suffix of a data file, `.gz` aside; None for any other file."""
    name = path.name.lower()
    suffix = Path(name.removesuffix(".gz")).suffix
    return suffix if suffix in SUFFIXES and not (suffix == ".parquet" and name.endswith(".gz")) else None


def read_file(path: Path) -> Rows:
    """Give (1-based line or row, row) for a file of any known format; memory holds a line at a time, or a document."""
    suffix = data_suffix(path)
    if suffix == ".parquet":
        yield from _read_parquet(path)
        return
    number = 0
    try:
        with gzip.open(path) if path.name.lower().endswith(".gz") else path.open("rb") as file:
            if suffix in TEXT_SUFFIXES:
                rows = _read_document(file)
            elif suffix in (".csv", ".tsv"):
                rows = _read_csv(file, "\t" if suffix == ".tsv" else ",")
            else:
                rows = _read_json(file)
            for number, row in rows:
                yield number, row
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        yield number + 1, Bad(f"the .gz file is damaged or cut short ({error}); make it again")


def _decode(line: bytes) -> str | Bad:
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError as error:
        wide = "; the file looks like UTF-16" if line.startswith((b"\xff\xfe", b"\xfe\xff")) else ""
        return Bad(f"byte {error.start + 1} of the line (0x{line[error.start]:02x}) is not UTF-8{wide}; save it as UTF-8")


def _lines(file: IO[bytes]) -> Iterator[tuple[int, str | Bad]]:
    for number, line in enumerate(file, start=1):
        text = _decode(line)
        yield number, text if isinstance(text, Bad) or number > 1 else text.removeprefix("\ufeff")


def _read_document(file: IO[bytes]) -> Rows:
    parts = []
    for number, line in _lines(file):
        if isinstance(line, Bad):
            yield number, line
            return
        parts.append(line)
    if parts:
        yield 1, {"text": "".join(parts)}


def _read_json(file: IO[bytes]) -> Rows:
    if file.peek(64)[:64].removeprefix(b"\xef\xbb\xbf").lstrip()[:1] == b"[":  # type: ignore[attr-defined]
        yield from _read_json_list(file)
        return
    for number, line in _lines(file):
        if isinstance(line, Bad):
            yield number, line
        elif line.strip():
            yield number, _json_row(line)


def _json_row(line: str) -> dict[str, Any] | Bad:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        where = f" at column {error.colno}" if isinstance(error, json.JSONDecodeError) else ""
        reason = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
        return Bad(f"not JSON: {reason}{where}; each line must be one JSON object")
    return row if isinstance(row, dict) else Bad(f"the row must be a JSON object, found {json.dumps(row)[:40]}")


def _read_json_list(file: IO[bytes]) -> Rows:
    text = _decode(file.read().removeprefix(b"\xef\xbb\xbf"))
    try:
        rows = json.loads(text) if not isinstance(text, Bad) else None
    except json.JSONDecodeError as error:
        yield error.lineno, Bad(f"not JSON: {error.msg} at column {error.colno}")
        return
    if rows is None:
        yield 1, Bad(text)
        return
    for number, row in enumerate(rows, start=1):
        good = isinstance(row, dict)
        yield number, row if good else Bad(f"item {number} must be a JSON object, found {json.dumps(row)[:40]}")


def _read_csv(file: IO[bytes], delimiter: str) -> Rows:
    bad: list[tuple[int, Bad]] = []

    def good_lines() -> Iterator[str]:
        for number, line in _lines(file):
            if isinstance(line, Bad):
                bad.append((number, line))
            else:
                yield line

    # The default bound of 131,072 characters a field is less than one long document.
    csv.field_size_limit(2**31 - 1)
    reader = csv.reader(good_lines(), delimiter=delimiter, strict=True)
    header: list[str] | None = None
    while True:
        start = reader.line_num + 1 + len(bad)
        try:
            fields = next(reader)
        except StopIteration:
            break
        except csv.Error as error:
            yield start, Bad(f"not CSV: {error}; a field with a quote in it is written \"...\"\"...\"")
            continue
        if header is None:
            header = fields
            if len(set(header)) < len(header):
                yield start, Bad(f"the header names a column twice: {', '.join(header)}")
                return
        elif fields and len(fields) != len(header):
            yield start, Bad(
                f"{len(fields)} fields where the header has {len(header)} ({', '.join(header)}); "
                "a field with a separator or line end in it needs quotes around it"
            )
        elif fields:
            yield start, dict(zip(header, fields, strict=True))
    yield from bad


def _read_parquet(path: Path) -> Rows:
    import pyarrow
    import pyarrow.parquet

    number = 0
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=1000):
                for row in batch.to_pylist():
                    number += 1
                    yield number, row
    except pyarrow.ArrowException as error:
        yield number + 1, Bad(f"not a Parquet file, or a damaged one: {error}")
