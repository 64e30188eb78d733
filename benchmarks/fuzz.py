"""Feed broken recipes and broken data to gptft, and look for tracebacks and hangs.

    python benchmarks/fuzz.py --recipes 100000 --data 100000 --seed 0 --output benchmarks/fuzz.json

Inputs are the recipes that ship with gptft and small data files of each format, mutated: bytes, lines, YAML values and
keys, JSON values, columns, compression; some are made to do harm (aliases, nesting, long lines, archives that expand).
Each input has a seed of its own (`--seed` and its number), so that any can be made again: `--only recipe:123`. A
finding is an error that is not gptft's own (GptftError), a time of more than five seconds, or a recipe that reads back
as another; the input is saved in `--findings`.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import io
import json
import math
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ |= {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}

import datasets
import pyarrow
import pyarrow.parquet
import yaml

from gptft.data import load_splits
from gptft.data.sources import Shard, _prepared_rows
from gptft.data.templates import TemplateReader
from gptft.errors import GptftError
from gptft.recipe import dump_recipe, load_recipe

ROOT = Path(__file__).resolve().parents[1]
SECONDS = 5
TEXTS = [
    "", " ", "\n", "\r\n", "\0", "\ufeff", "\ud800", "\udfff\ud800", "\u202e", "é", "e\u0301", "日本", "😀", "'", '"',
    "{}", "{a}", "{0}", "{a.b}", "{a[0]}", "{a!r}", "{{", "}", "%s", "${HOME}", "$HF_TOKEN", "~", "..",
    "../../etc/passwd",
    "/dev/null", "/", "*", "**/*", "[", "a" * 300, "<|endoftext|>", "-", "1e400", "nan", "null", "true", "no", "0x1F",
    "2024-01-01", "1_000", "!!python/object:os.system", "&a", "*a", "<<", "?", "train.jsonl", "openai-community/gpt2",
]  # fmt: skip
NUMBERS = [0, -1, 1, 2**31, 2**63, -(2**63) - 1, 10**400, 0.0, -0.0, 0.5, 1e-320, 1e308, math.inf, -math.inf, math.nan]


class Hang(BaseException):
    pass


def expire(*_: Any) -> None:
    raise Hang(f"more than {SECONDS} seconds")


def scalar(draw: random.Random) -> Any:
    return draw.choice(
        [draw.choice(TEXTS), draw.choice(NUMBERS), draw.choice([None, True, False]), draw.randint(-9, 99)]
    )


def value(draw: random.Random, depth: int = 0) -> Any:
    kind = draw.random()
    if depth > 3 or kind < 0.6:
        return scalar(draw)
    if kind < 0.8:
        return [value(draw, depth + 1) for _ in range(draw.randrange(4))]
    return {
        draw.choice([*TEXTS[:20], "role", "content", "path", "a"]): value(draw, depth + 1)
        for _ in range(draw.randrange(4))
    }


def places(tree: Any) -> list[tuple[Any, Any]]:
    """Each (container, key) of a tree."""
    found: list[tuple[Any, Any]] = []
    pairs = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, item in pairs:
        found += [(tree, key), *places(item)]
    return found


def mutate_tree(tree: Any, draw: random.Random, keys: list[str]) -> Any:
    for _ in range(draw.choice([1, 1, 1, 2, 3, 6])):
        spots = places(tree)
        if not spots:
            return value(draw)
        container, key = draw.choice(spots)
        deed = draw.randrange(7)
        if deed == 0:
            container.pop(key)
        elif deed == 1 and isinstance(container, dict):
            container[draw.choice([*keys, str(scalar(draw))])] = container[key]
        elif deed == 2 and isinstance(container, dict):
            container[draw.choice(keys)] = value(draw)
        elif deed == 3:
            other, its = draw.choice(spots)
            container[key] = json.loads(json.dumps(other[its]))
        elif deed == 4:
            container[key] = [container[key]] * draw.randrange(3)
        elif deed == 5 and isinstance(container[key], str):
            container[key] = mutate_text(container[key], draw)
        else:
            container[key] = value(draw)
    return tree


def mutate_text(text: str, draw: random.Random) -> str:
    at, to = sorted(draw.randrange(len(text) + 1) for _ in range(2))
    piece = draw.choice([draw.choice(TEXTS), text[at:to], "", chr(draw.randrange(0x250)), "\t", ":", "- ", "#", ","])
    return text[:at] + piece + text[draw.choice([at, to, at + 1]) :]


def mutate_bytes(data: bytes, draw: random.Random) -> bytes:
    for _ in range(draw.choice([0, 1, 1, 2, 5])):
        at, to = sorted(draw.randrange(len(data) + 1) for _ in range(2))
        deed = draw.randrange(6)
        if deed == 0:
            data = data[:at] + bytes([draw.randrange(256)]) + data[at + 1 :]
        elif deed == 1:
            data = data[:at] + data[to:]
        elif deed == 2:
            data = data[:at] + data[at:to] * 2 + data[to:]
        elif deed == 3:
            data = (
                data[:at]
                + draw.choice([b"\0", b"\r\n", b"\xef\xbb\xbf", b"\xff\xfe", b'"', b"\xc3", b"\n\n"])
                + data[at:]
            )
        elif deed == 4:
            data = data[:at]
        else:
            data = data.replace(b"\n", draw.choice([b"\r\n", b"\r", b"", b"\n\n"]))
    return data


def harmful_yaml(draw: random.Random) -> str:
    depth = draw.choice([10, 100, 5000])
    return draw.choice([
        "b0: &b0 [x]\n" + "".join(f"b{n}: &b{n} [{', '.join([f'*b{n - 1}'] * 9)}]\n" for n in range(1, 30)),
        "task: " + "[" * depth + "]" * depth,
        "task:\n" + "".join(" " * n + "a:\n" for n in range(min(depth, 300))),
        "{" * depth,
        "a: &a\n  <<: *a\n",
        "&a [*a]",
        "task: !!python/object/apply:os.system ['true']",
        "task: !!binary aGk=\ndata: !!set {a, b}",
        "? [a, b]\n: c",
        "task: dialogue\n" * 1000,
        "a: " + "9" * 10000,
        "x" * 300_000,
        "- " * depth,
        "data: {train: " + "../" * depth + "}",
    ])  # fmt: skip


class Recipes:
    """Recipe files, mutated, with overrides."""

    def __init__(self, folder: Path) -> None:
        shutil.copytree(ROOT / "recipes", folder)
        self.folder, self.file = folder, folder / "fuzzed.yaml"
        self.texts = [path.read_text() for path in sorted(folder.glob("*.yaml"))]
        trees = [yaml.safe_load(text) for text in self.texts]
        keys = {key for tree in trees for _, key in places(tree) if isinstance(key, str)}
        self.keys = sorted(
            keys | {"path", "weight", "split", "columns", "adapter", "config", "hub", "classification", "tokenizer"}
        )
        self.overrides: list[str] = []

    def make(self, draw: random.Random) -> bytes:
        text, kind = draw.choice(self.texts), draw.random()
        self.overrides = []
        if kind < 0.45:
            tree = mutate_tree(yaml.safe_load(text), draw, self.keys)
            try:
                content = yaml.safe_dump(
                    tree, allow_unicode=draw.random() < 0.5, default_flow_style=draw.random() < 0.2
                ).encode()
            except (ValueError, yaml.YAMLError):
                content = repr(tree).encode(errors="replace")
        elif kind < 0.65:
            content = mutate_text(mutate_text(text, draw), draw).encode("utf-8", "surrogatepass")
        elif kind < 0.95:
            content = mutate_bytes(text.encode(), draw)
        else:
            content = harmful_yaml(draw).encode()
        for _ in range(draw.choice([0, 0, 0, 1, 2])):
            path = ".".join(draw.choice([*self.keys, "0", "", "1"]) for _ in range(draw.randint(1, 3)))
            self.overrides.append(draw.choice([f"{path}={scalar(draw)}", mutate_text(f"{path}=[1, {{a: b}}]", draw)]))
        return content

    def run(self, content: bytes) -> str:
        self.file.write_bytes(content)
        recipe = load_recipe(self.file, self.overrides)
        again = self.folder / "again.yaml"
        again.write_text(dump_recipe(recipe), encoding="utf-8")
        if load_recipe(again).model_dump() != recipe.model_dump() and dump_recipe(load_recipe(again)) != dump_recipe(
            recipe
        ):
            raise AssertionError("the recipe reads back as another")
        return "read"


TASKS: dict[str, dict[str, Any]] = {
    "dialogue": {},
    "pretraining": {},
    "classification": {},
    "completion": {},
    "templates": {"task": "completion", "template": {"prompt": "{a} of {b}: ", "completion": "{c}"}},
    "numbers": {"task": "classification", "classification": {"problem_type": "regression"}},
    "several": {"task": "classification", "classification": {"problem_type": "multi_label_classification"}},
    "raw": {"task": "pretraining", "data": {"cleaning": {"control_characters": False, "unicode_nfc": False}}},
}
ROWS: dict[str, list[dict[str, Any]]] = {
    "dialogue": [
        {"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello, you"}]},
        {"conversations": [{"from": "human", "value": "a\nb"}, {"from": "gpt", "value": "c"}], "system": "be good"},
        {"prompt": "what?", "completion": "that"},
        {"instruction": "add", "input": "1, 2", "output": "3"},
    ],
    "pretraining": [{"text": "once upon a time"}, {"text": "é and ü"}],
    "classification": [
        {"text": "good", "label": "yes"},
        {"text": "bad", "label": 1},
        {"text": "x", "labels": ["a", "b"]},
    ],
    "completion": [{"prompt": "p", "completion": "c"}, {"source": "s", "target": ["t", "u"]}],
    "templates": [{"a": 1, "b": ["x", "y"], "c": "z"}, {"a": None, "b": 0.5, "c": ["z", "w"]}],
    "numbers": [{"text": "long", "label": 3.5}, {"text": "short", "label": "1"}],
    "several": [{"text": "x", "label": "a|b"}, {"text": "y", "label": ["c"]}],
    "raw": [{"text": "once\x0bupon"}, {"text": "e\u0301"}],
}
FORMATS = (".jsonl", ".jsonl", ".jsonl", ".json", ".csv", ".csv", ".tsv", ".txt", ".parquet")
SCHEMA = pyarrow.schema(
    [(name, pyarrow.string()) for name in ("text", "origin", "digest", "group", "exact", "problem")]
    + [("messages", pyarrow.list_(pyarrow.struct([("role", pyarrow.string()), ("content", pyarrow.string())])))]
    + [("targets", pyarrow.list_(pyarrow.string())), ("found", pyarrow.int8())]
)


class Data:
    """Data files of each format, mutated, read for each task."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.folder = folder
        (folder / "whole.jsonl").write_text('{"text": "a", "label": "b"}\n')
        self.recipes, self.name, self.task, self.full = {}, "", "", False
        for task, sections in TASKS.items():
            tree = {"task": task, "model": {"base": "starter"}, **sections}
            tree["data"] = {"train": "whole.jsonl", **sections.get("data", {})}
            (folder / f"{task}.yaml").write_text(json.dumps(tree))
            self.recipes[task] = load_recipe(folder / f"{task}.yaml")

    def make(self, draw: random.Random) -> bytes:
        self.task, suffix = draw.choice(list(TASKS)), draw.choice(FORMATS)
        self.full = draw.random() < 0.003
        keys = [
            "messages",
            "conversations",
            "prompt",
            "completion",
            "text",
            "label",
            "role",
            "content",
            "from",
            "value",
            "a",
            "system",
        ]
        kinds = ROWS[self.task] if draw.random() < 0.8 else draw.choice(list(ROWS.values()))
        rows = [json.loads(json.dumps(draw.choice(kinds))) for _ in range(draw.randrange(5))]
        if rows and draw.random() < 0.6:
            row = draw.randrange(len(rows))
            rows[row] = mutate_tree(rows[row], draw, keys)
        if suffix == ".parquet":
            content = self.parquet(rows)
        elif suffix in (".csv", ".tsv"):
            table = io.StringIO()
            writer = csv.writer(table, delimiter="\t" if suffix == ".tsv" else draw.choice(",;"))
            names = list(dict.fromkeys(str(key) for row in rows if isinstance(row, dict) for key in row)) or ["text"]
            writer.writerows([names, *([row.get(name) for name in names] for row in rows if isinstance(row, dict))])
            content = table.getvalue().encode("utf-8", "surrogatepass")
        elif suffix == ".txt":
            content = "\n".join(map(str, rows)).encode("utf-8", "surrogatepass")
        elif draw.random() < 0.15 or suffix == ".json":
            content = json.dumps(rows, ensure_ascii=draw.random() < 0.5).encode("utf-8", "surrogatepass")
        else:
            lines = [json.dumps(row, ensure_ascii=draw.random() < 0.5) for row in rows]
            content = "\n".join(lines).encode("utf-8", "surrogatepass")
        if draw.random() < 0.02:
            content = self.harmful(draw)
        if draw.random() < 0.6:
            content = mutate_bytes(content, draw)
        if draw.random() < 0.05:
            content = content.decode("utf-8", "replace").encode(draw.choice(["utf-16", "utf-32", "latin-1"]), "replace")
        if draw.random() < 0.1:
            suffix += ".gz"
            content = gzip.compress(content, 1) if draw.random() < 0.9 else content
            content = mutate_bytes(content, draw) if draw.random() < 0.4 else content
        self.name = f"fuzzed{suffix}"
        return content

    def parquet(self, rows: list[Any]) -> bytes:
        sink = io.BytesIO()
        try:
            table = pyarrow.Table.from_pylist([row for row in rows if isinstance(row, dict)])
            pyarrow.parquet.write_table(table, sink)
        except (pyarrow.ArrowException, ValueError, TypeError, OverflowError):
            sink = io.BytesIO(b"PAR1 and no more")
        return sink.getvalue()

    def harmful(self, draw: random.Random) -> bytes:
        depth = draw.choice([50, 900, 990, 1100, 100_000])
        nest = "[" * depth + "]" * depth
        return draw.choice([
            nest, '{"text": ' + nest + ', "label": ' + nest + "}", '{"a": ' + nest + ', "b": 1, "c": ' + nest + "}",
            '{"text": ' + '{"a":' * depth + "1" + "}" * depth + "}",
            '{"prompt": "a", "prompt": "b", "completion": "c"}',
            '{"text": NaN, "label": Infinity}', '{"text": "a", "label": ' + "9" * 5000 + "}",
            '{"text": 1e999, "label": 1e999}',
            '{"text": "\\ud800", "label": "\\udfff"}', 'text,label\n"' + "a\n" * 1000, "text\n" * 50_000, "\0" * 1000,
            '{"text": "' + "a" * 3_000_000 + '", "label": 1}', "\n" * 100_000, '"', "text,text\na,b", ",",
            "a;b\n1;2\n1,2;3",
        ]).encode()  # fmt: skip

    def run(self, content: bytes) -> str:
        path = self.folder / self.name
        path.write_bytes(content)
        recipe = self.recipes[self.task]
        if self.full:
            data = recipe.data.model_copy(
                update={"train": [recipe.data.train[0].model_copy(update={"path": str(path)})]}
            )
            load_splits(recipe.model_copy(update={"data": data}), ["train"])
            return "read by load_splits"
        labelled = recipe.task in ("classification", "completion")
        reader = TemplateReader.of(recipe, recipe.data.columns) if labelled else None
        rows = list(
            _prepared_rows(
                [Shard(str(path), path.name)], recipe.data.columns, recipe.task, recipe.data.cleaning, reader
            )
        )
        pyarrow.Table.from_pylist(rows, schema=SCHEMA)
        for row in rows:
            content_there = row["messages"] or row["text"] is not None
            if bool(row["problem"]) == bool(content_there):
                raise AssertionError(f"a row has neither content nor a problem, or both: {row}")
        bad = sum(row["problem"] is not None for row in rows)
        return "all rows read" if not bad else "no row read" if bad == len(rows) else "some rows read"


def run(what: str, inputs: Any, number: int, seed: int, findings: Path) -> tuple[str, float]:
    """Try an input; how it went, and the seconds that took."""
    draw = random.Random(f"{what}:{seed}:{number}")
    content = inputs.make(draw)
    started = time.perf_counter()
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    trace = ""
    try:
        ended = inputs.run(content)
    except GptftError as error:
        ended = "refused"
        if not str(error).strip():
            ended, trace = "finding", traceback.format_exc()
    except (Exception, Hang):
        ended, trace = "finding", traceback.format_exc()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    if ended == "finding":
        findings.mkdir(parents=True, exist_ok=True)
        stem = f"{what}-{seed}-{number}"
        (findings / f"{stem}.input").write_bytes(content)
        told = {
            "overrides": getattr(inputs, "overrides", None),
            "task": getattr(inputs, "task", None),
            "name": getattr(inputs, "name", None),
        }
        (findings / f"{stem}.txt").write_text(f"{told}\n{trace}", errors="backslashreplace")
    return ended, time.perf_counter() - started


def fuzz(what: str, inputs: Any, numbers: range, seed: int, findings: Path, stop: Callable[[], bool]) -> dict[str, Any]:
    ends: Counter[str] = Counter()
    slowest, began = 0.0, time.monotonic()
    for done, number in enumerate(numbers, start=1):
        if stop():
            break
        ended, seconds = run(what, inputs, number, seed, findings)
        ends[ended] += 1
        slowest = max(slowest, seconds)
        if done % 5000 == 0 or ended == "finding":
            print(f"{what}: {done:,} in {time.monotonic() - began:.0f} s, {dict(ends)}", file=sys.stderr, flush=True)
    return {
        "inputs": sum(ends.values()),
        "first": numbers.start,
        "ends": dict(ends),
        "slowest_seconds": round(slowest, 2),
        "seconds": round(time.monotonic() - began),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--recipes", type=int, default=1000)
    parser.add_argument("--data", type=int, default=1000)
    parser.add_argument("--first", type=int, default=0, help="number of the first input")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", help="recipe:NUMBER or data:NUMBER")
    parser.add_argument("--seconds", type=float, default=math.inf, help="stop after so many")
    parser.add_argument("--findings", type=Path, default=Path("fuzz-findings"))
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    signal.signal(signal.SIGALRM, expire)
    datasets.disable_progress_bars()
    until = time.monotonic() + options.seconds
    result: dict[str, Any] = {"seed": options.seed}
    with tempfile.TemporaryDirectory() as temporary:
        datasets.config.HF_DATASETS_CACHE = Path(temporary) / "cache"
        kinds = {"recipe": Recipes(Path(temporary) / "recipes"), "data": Data(Path(temporary) / "data")}
        counts = {"recipe": options.recipes, "data": options.data}
        for what, inputs in kinds.items():
            numbers = range(options.first, options.first + counts[what])
            if options.only:
                kind, _, number = options.only.partition(":")
                numbers = range(int(number), int(number) + 1) if kind == what else range(0)
            result[what] = fuzz(what, inputs, numbers, options.seed, options.findings, lambda: time.monotonic() > until)
    text = json.dumps(result, indent=2)
    print(text)
    if options.output:
        options.output.write_text(text + "\n")
    if any(part["ends"].get("finding") for part in (result["recipe"], result["data"])):
        sys.exit(1)


if __name__ == "__main__":
    main()
