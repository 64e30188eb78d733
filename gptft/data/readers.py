"""From a file to numbered rows. A line that cannot be read is given as a `Bad` that says why, and reading goes on."""

from __future__ import annotations

import csv
import gzip
import json
import math
import os
import zlib
from collections.abc import Iterator
from io import BufferedReader
from pathlib import Path
from typing import Any

from gptft.recipe.sources import TEXT_SUFFIXES, data_suffix

LONGEST_LINE = 2**26
"""Bytes of a line, and characters of a field of CSV: what is longer is no row of text, and would fill the memory."""
LARGEST_DOCUMENT = 2**30
"""Bytes of a file that is read as a whole: a text, a JSON list."""
LARGEST_RATIO = 100
"""A .gz that expands to so many times its size (and a longest line) is a bomb: text shrinks to a tenth, rarely less."""


class Bad(str):
    """Why a line is no row."""


Rows = Iterator[tuple[int, "dict[str, Any] | Bad"]]
"""The 1-based line that a row starts in (in Parquet and JSON lists: its number), and the row."""


def read_file(path: Path) -> Rows:
    """Read a file of any known format; memory holds one row at a time, of a JSON list the whole file.

    Raises:
        OSError: when the file cannot be opened or read.
    """
    suffix, number = data_suffix(path), 0
    if suffix == ".parquet":
        yield from _read_parquet(path)
        return
    try:
        # Lines of a GzipFile itself are found by Python, ten times slower.
        raw: Any = gzip.open(path) if path.name.lower().endswith(".gz") else path.open("rb", buffering=0)  # noqa: SIM115 - closed with the reader around it
        with BufferedReader(raw) as file:
            head = file.peek(4096).removeprefix(b"\xef\xbb\xbf")
            if suffix in TEXT_SUFFIXES:
                rows = _read_document(file)
            elif suffix in (".csv", ".tsv"):
                first_line = head.split(b"\n")[0].decode("utf-8", "replace")
                rows = _read_csv(file, "\t" if suffix == ".tsv" else max(",;\t", key=first_line.count))
            else:
                rows = _read_json_list(file) if head.lstrip()[:1] == b"[" else _read_json_lines(file)
            for number, row in rows:
                yield number, row
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        yield number + 1, Bad(f"the .gz file is damaged or cut short ({error}); make it again")


def _lines(file: BufferedReader, longest: int, most: float = math.inf) -> Iterator[tuple[int, str | Bad]]:
    if isinstance(file.raw, gzip.GzipFile):
        most = min(most, LARGEST_RATIO * os.fstat(file.fileno()).st_size + LONGEST_LINE)
    size = 0
    for number, line in enumerate(iter(lambda: file.readline(longest + 1), b""), start=1):
        size += len(line)
        if len(line) > longest or size > most:
            what = f"the line is longer than {longest:,} bytes" if len(line) > longest else f"more than {most:,} bytes"
            yield number, Bad(f"{what}: nothing is read from here on; split the file, or write JSON Lines or Parquet")
            return
        try:
            yield number, line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            wide = "; the file looks like UTF-16" if line.startswith((b"\xff\xfe", b"\xfe\xff")) else ""
            bad = f"byte {error.start + 1} of the line (0x{line[error.start]:02x}) is not UTF-8{wide}"
            yield number, Bad(f"{bad}; save the file as UTF-8")


def _read_document(file: BufferedReader) -> Rows:
    parts = []
    for number, line in _lines(file, LARGEST_DOCUMENT, LARGEST_DOCUMENT):
        if isinstance(line, Bad):
            yield number, line
            return
        parts.append(line)
    if parts:
        yield 1, {"text": "".join(parts)}


def _no_number(name: str) -> Any:
    raise ValueError(f"{name} is no number; write null where there is none")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the key {next(name for name in names if names.count(name) > 1)!r} stands in it twice")
    return found


_DECODER = json.JSONDecoder(parse_constant=_no_number, object_pairs_hook=_object)


def _parse_json(text: str) -> tuple[int, Any]:
    """Give the value, or a Bad with the line of the text that it is about."""
    try:
        return 1, _DECODER.decode(text)
    except json.JSONDecodeError as error:
        return error.lineno, Bad(f"not JSON: {error.msg} at column {error.colno}; a row is one JSON object on one line")
    except (ValueError, RecursionError) as error:
        return 1, Bad(f"not usable JSON: {error}")


def _json_row(value: Any) -> dict[str, Any] | Bad:
    if isinstance(value, (dict, Bad)):
        return value
    return Bad(f"a row must be a JSON object, found {json.dumps(value, ensure_ascii=False)[:60]}")


def _read_json_lines(file: BufferedReader) -> Rows:
    for number, line in _lines(file, LONGEST_LINE):
        if isinstance(line, Bad):
            yield number, line
        elif line.strip():
            yield number, _json_row(_parse_json(line.rstrip())[1])


def _read_json_list(file: BufferedReader) -> Rows:
    for number, document in _read_document(file):
        line, value = (number, document) if isinstance(document, Bad) else _parse_json(document["text"])
        if isinstance(value, Bad):
            yield line, value
        else:
            yield from ((number, _json_row(item)) for number, item in enumerate(value, start=1))


def _read_csv(file: BufferedReader, delimiter: str) -> Rows:
    bad: list[tuple[int, Bad]] = []

    def good_lines() -> Iterator[str]:
        for number, line in _lines(file, LONGEST_LINE):
            if isinstance(line, Bad):
                bad.append((number, line))
            else:
                yield line

    # The default bound of 131,072 characters a field is less than one long document.
    csv.field_size_limit(LONGEST_LINE)
    reader = csv.reader(good_lines(), delimiter=delimiter, strict=True)
    header: list[str] = []
    while True:
        start = reader.line_num + len(bad) + 1
        try:
            fields = next(reader)
        except StopIteration:
            break
        except csv.Error as error:
            reason = "a quote is opened and never closed" if "unexpected end" in str(error) else error
            yield start, Bad(f'not CSV: {reason}; a field with quotes in it is written "a ""b"" c"')
            continue
        if not header:
            header = fields
            if len(set(header)) < len(header):
                yield start, Bad(f"the header names a column twice: {', '.join(header)}")
                return
        elif fields and len(fields) != len(header):
            counts = (
                f"{len(fields)} field{'s' * (len(fields) > 1)} where the header has {len(header)} ({', '.join(header)})"
            )
            yield start, Bad(f"{counts}; a field with {delimiter!r} or a line end in it needs quotes around it")
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
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        if getattr(error, "errno", None):  # the disk's, not the file's
            raise
        yield number + 1, Bad(f"not a Parquet file, or a damaged one: {error} (it may not be packed as .gz)")
