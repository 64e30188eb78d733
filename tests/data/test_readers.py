import csv
import gzip
import io
import json

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gptft.data import readers
from gptft.data.readers import Bad, read_file

storable = st.text(st.characters(exclude_categories=["Cs"]) | st.sampled_from('\u2028\r\n",;\ufeff'))


@given(st.lists(storable, min_size=1), st.booleans())
@example(["a\u2028b\x85c\x1c", "\r", "\ufeff"], True)
def test_json_lines_keep_any_unicode(tmp_path_factory, texts, compressed):
    path = tmp_path_factory.mktemp("jsonl") / ("a.jsonl.gz" if compressed else "a.jsonl")
    data = "".join(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in texts).encode()
    path.write_bytes(gzip.compress(data) if compressed else data)
    assert list(read_file(path)) == [(number, {"text": text}) for number, text in enumerate(texts, start=1)]


@given(st.lists(st.tuples(storable, storable), min_size=1), st.sampled_from(["csv", "tsv", ";"]))
def test_csv_keeps_any_unicode(tmp_path_factory, rows, kind):
    # Python 3.10's csv refuses the null character.
    rows = [tuple(field.replace("\0", "") for field in row) for row in rows]
    path = tmp_path_factory.mktemp("csv") / ("a.tsv" if kind == "tsv" else "a.csv")
    buffer = io.StringIO(newline="")
    delimiter = {"csv": ",", "tsv": "\t"}.get(kind, kind)
    csv.writer(buffer, delimiter=delimiter, quoting=csv.QUOTE_ALL).writerows([("q", "a"), *rows])
    path.write_bytes(buffer.getvalue().encode())
    assert [row for _, row in read_file(path)] == [{"q": q, "a": a} for q, a in rows]


def test_csv_rows_are_numbered_by_their_first_line(write):
    path = write("a.csv", 'q,a\none,"1\n1"\n\ntwo,2\n')
    assert list(read_file(path)) == [(2, {"q": "one", "a": "1\n1"}), (5, {"q": "two", "a": "2"})]


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_byte_order_mark_and_windows_line_ends(write, suffix):
    mark = b"\xef\xbb\xbf"
    assert list(read_file(write(f"a.jsonl{suffix}", mark + b'{"text": "x"}\r\n\r\n'))) == [(1, {"text": "x"})]
    assert list(read_file(write(f"a.csv{suffix}", mark + b"q,a\r\n1,2\r\n"))) == [(2, {"q": "1", "a": "2"})]
    assert list(read_file(write(f"a.json{suffix}", mark + b'[{"text": "x"}]'))) == [(1, {"text": "x"})]
    assert list(read_file(write(f"a.txt{suffix}", mark + b"one\ntwo"))) == [(1, {"text": "one\ntwo"})]


def test_json_list_and_json_lines_under_either_suffix(write):
    rows = [(1, {"a": 1}), (2, {"a": 2})]
    for suffix in ("json", "jsonl"):
        assert list(read_file(write(f"list.{suffix}", ' [{"a": 1},\n {"a": 2}]'))) == rows
        assert list(read_file(write(f"lines.{suffix}", '{"a": 1}\n{"a": 2}'))) == rows


def test_parquet(tmp_path):
    rows = [{"messages": [{"role": "user", "content": "Hi"}], "text": None}] * 3
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "a.parquet")
    assert list(read_file(tmp_path / "a.parquet")) == [(number, rows[0]) for number in (1, 2, 3)]


def test_a_field_longer_than_csv_modules_default_bound(write):
    long = "word " * 50_000
    assert list(read_file(write("a.csv", f"text\n{long}\n"))) == [(2, {"text": long})]


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        (
            "a.jsonl",
            '{"a": 1}\n{"a": 1\n',
            [(2, "not JSON: Expecting ',' delimiter at column 8; a row is one JSON object")],
        ),
        ("a.jsonl", '{"a": 1}\n[1]\n"x"\n', [(2, "a row must be a JSON object, found [1]"), (3, 'found "x"')]),
        ("a.jsonl", b'{"a": 1}\n{"a": "caf\xe9"}\n', [(2, "byte 11 of the line (0xe9) is not UTF-8; save the file")]),
        ("a.jsonl", b'\xff\xfe{\x00"\x00', [(1, "byte 1 of the line (0xff) is not UTF-8; the file looks like UTF-16")]),
        ("a.jsonl", "[" * 100_000, [(1, "not usable JSON: ")]),
        ("a.jsonl", '{"a": ' + "9" * 5000 + "}", [(1, "not usable JSON: Exceeds the limit")]),
        ("a.jsonl", '{"a": NaN}\n{"a": -Infinity}', [(1, "NaN is no number"), (2, "-Infinity is no number")]),
        ("a.jsonl", '{"a": 1, "b": {"c": 1, "c": 2}}', [(1, "the key 'c' stands in it twice")]),
        ("a.json", '[{"a": 1}, 2]', [(2, "a row must be a JSON object, found 2")]),
        ("a.json", '[{"a": 1},\n{"b"}]', [(2, "not JSON: Expecting ':' delimiter at column 5")]),
        ("a.json", b'[{"a": 1},\n"\xff"]', [(2, "byte 2 of the line (0xff)")]),
        (
            "a.csv",
            "q,a\n1,2,3\n4\n",
            [(2, "3 fields where the header has 2 (q, a); a field with ','"), (3, "1 field where")],
        ),
        ("a.csv", 'q,a\n1,"2\n3,4\n', [(2, "not CSV: a quote is opened and never closed")]),
        ("a.csv", 'q,a\n1,"say "hi""\n', [(2, "not CSV: ',' expected after '\"'")]),
        ("a.csv", "q,q\n1,2\n", [(1, "the header names a column twice: q, q")]),
        ("a.csv", b"q,a\n1,\xe9\n3,4\n", [(2, "byte 3 of the line (0xe9) is not UTF-8")]),
        ("a.txt", b"fine\nna\xefve\n", [(2, "byte 3 of the line (0xef) is not UTF-8")]),
        ("a.parquet", b"PAR1 but no more", [(1, "not a Parquet file, or a damaged one: ")]),
    ],
)
def test_what_cannot_be_read_is_named_with_its_line(write, name, content, expected):
    bad = [(number, row) for number, row in read_file(write(name, content)) if isinstance(row, Bad)]
    assert [number for number, _ in bad] == [number for number, _ in expected]
    for (_, message), (_, part) in zip(bad, expected, strict=True):
        assert part in message


def test_damaged_gzip(tmp_path):
    whole = gzip.compress(b"".join(b'{"n": %d}\n' % n for n in range(1000)))
    for content in (b'{"a": 1}\n', whole[:-20], whole[:200] + b"\0\0\0\0" + whole[204:]):
        (tmp_path / "a.jsonl.gz").write_bytes(content)
        *_, (_, last) = read_file(tmp_path / "a.jsonl.gz")
        assert isinstance(last, Bad)
        assert "the .gz file is damaged or cut short" in last


def test_reading_goes_on_after_a_bad_line(write):
    rows = list(read_file(write("a.jsonl", '{"a": 1}\nx\n{"a": 3}\n')))
    assert [number for number, row in rows if not isinstance(row, Bad)] == [1, 3]


def test_what_is_longer_than_any_row_is_refused_where_it_begins(write, monkeypatch, tmp_path):
    monkeypatch.setattr(readers, "LONGEST_LINE", 1000)
    long = "a" * 2000
    for name, content in (
        ("a.jsonl", f'{{"a": 1}}\n{{"a": "{long}"}}\n{{"a": 2}}'),
        ("a.csv", f"a\n1\n{long}"),
        ("b.csv", 'a\n1\n"' + "not closed\n" * 200),
    ):
        first, *_ = [(number, row) for number, row in read_file(write(name, content)) if isinstance(row, Bad)]
        assert first[0] == (2 if name == "a.jsonl" else 3)
        assert ("longer than 1,000 bytes" if name != "b.csv" else "field larger than field limit (1000)") in first[1]
    monkeypatch.setattr(readers, "LARGEST_DOCUMENT", 3000)
    for name, content in (("a.txt", f"{long}\n{long}"), ("a.json", f'["{long}",\n"{long}"]')):
        [(number, row)] = read_file(write(name, content))
        assert (number, "more than 3,000 bytes" in row) == (2, True)
    assert list(read_file(write("b.txt", long))) == [(1, {"text": long})]


@pytest.mark.parametrize("line", [b'{"a": 1}\n', b"\n", b"0"])
def test_an_archive_that_expands_beyond_reason_is_not_read_to_its_end(tmp_path, monkeypatch, line):
    monkeypatch.setattr(readers, "LONGEST_LINE", 10_000)
    monkeypatch.setattr(readers, "LARGEST_RATIO", 20)
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(line * (5_000_000 // len(line))))
    rows = [row for _, row in read_file(tmp_path / "a.jsonl.gz")]
    assert isinstance(rows[-1], Bad) and "bytes: nothing is read from here on" in rows[-1]
    assert len(rows) < 50_000


def test_a_damaged_parquet_page_is_a_bad_row_and_an_unreadable_disk_an_error(tmp_path, monkeypatch):
    path = tmp_path / "a.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"a": ["x" * 100] * 50}), path)
    content = bytearray(path.read_bytes())
    content[4:40] = b"\xff" * 36
    path.write_bytes(content)
    [(_, bad)] = read_file(path)
    assert isinstance(bad, Bad) and "damaged" in bad

    def unreadable(*args, **options):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(pyarrow.parquet, "ParquetFile", unreadable)
    with pytest.raises(OSError, match="Input/output error"):
        list(read_file(path))
