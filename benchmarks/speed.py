"""How fast gptft trains beside TRL and the plain Trainer: python benchmarks/speed.py [--workload dialogue] [--lora]

A GPT-2 of 124M parameters with random weights trains on real rows, a few steps, in a process of its own; the engines
take turns (A B A B), so that whatever else the machine does meets all of them. All have the same weights, rows,
supervised tokens, precision and step size, and rows of like length together. Only real tokens count, no padding.

    gptft     gptft's Trainer, attention dropout 0 (its default)
    trainer   transformers' Trainer with DataCollatorForSeq2Seq, as in its examples
    trl       TRL's SFTTrainer, completion_only_loss, without gradient checkpointing (its default, which is slower)

The rivals keep GPT-2's published attention dropout of 0.1 unless --attention-dropout says otherwise. TRL is installed
into .venv-trl the first time. Results are added to benchmarks/speed.json, and the table in docs/performance.md is
written from it; `--table` does only that. Workloads:

    dialogue    SGD dialogues, about 290 tokens, the assistant's turns supervised
    short       BANKING77 questions, about 17 tokens, all supervised
    long        the Rust book in rows of 1,024, all supervised
    completion  E2E facts and texts, about 70 tokens, the text supervised
"""

from __future__ import annotations

import argparse
import csv
import gzip
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
DATA = Path(os.environ.get("GPTFT_DATA", ROOT.parent / "shared/data"))
RESULTS, PAGE = HERE / "speed.json", ROOT / "docs/performance.md"
BEGIN, END = "<!-- speed: written by benchmarks/speed.py -->", "<!-- end of speed -->"
TRL = "trl==1.16.0"
# Rows of a step, and steps; the first half is warm-up.
WORKLOADS = {"dialogue": (8, 10), "short": (64, 12), "long": (2, 10), "completion": (32, 10)}
SHAPES = {"gpt2": {}, "gpt2-medium": {"n_embd": 1024, "n_layer": 24, "n_head": 16}}


def load_tokenizer() -> Any:
    from transformers import GPT2Tokenizer

    from gptft.models.templates import CHAT_TEMPLATE

    tokenizer = GPT2Tokenizer.from_pretrained(DATA / "gpt2_tokenizer")
    tokenizer.pad_token, tokenizer.chat_template = tokenizer.eos_token, CHAT_TEMPLATE
    return tokenizer


def make_rows(workload: str, tokenizer: Any, count: int) -> list[dict[str, list[int]]]:
    """Rows as gptft encodes them, drawn from the beginning of the data."""
    rows: list[dict[str, list[int]]] = []

    def add(context: list[int], target: list[int]) -> None:
        rows.append({"input_ids": context + target, "labels": [-100] * len(context) + target})

    end = tokenizer.eos_token_id
    if workload == "dialogue":
        with gzip.open(DATA / "sgd/train.jsonl.gz", "rt", encoding="utf-8") as file:
            for line, _ in zip(file, range(count), strict=False):
                encoded = tokenizer.apply_chat_template(
                    json.loads(line)["messages"],
                    return_dict=True,
                    return_assistant_tokens_mask=True,
                )
                ids, mask = encoded["input_ids"][:1024], encoded["assistant_masks"][:1024]
                rows.append({"input_ids": ids, "labels": [i if m else -100 for i, m in zip(ids, mask, strict=True)]})
    elif workload == "long":
        with (DATA / "rust_book/documents.jsonl").open(encoding="utf-8") as file:
            text = [json.loads(line)["text"] for line in file]
        ids = [token for one in text for token in [*tokenizer(one)["input_ids"], end]]
        for index in range(count):
            add([], ids[index * 1024 : (index + 1) * 1024])
    else:
        name, first, second = {
            "short": ("banking77/train.csv", None, "text"),
            "completion": ("e2e/trainset.csv", "mr", "ref"),
        }[workload]
        with (DATA / name).open(encoding="utf-8-sig", newline="") as file:
            for row, _ in zip(csv.DictReader(file), range(count), strict=False):
                context = tokenizer(row[first] + "\n")["input_ids"] if first else []
                add(context, [*tokenizer(row[second])["input_ids"], end])
    return rows


def environment_of(engine: str) -> Path:
    if engine != "trl":
        return Path(sys.executable)
    folder = ROOT / ".venv-trl"
    if not (folder / "bin/python").exists():
        print(f"Installing {TRL} into {folder.name}")
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        command = [folder / "bin/python", "-m", "pip", "install", "--quiet", "-c", ROOT / "constraints.txt"]
        subprocess.run([*command, "torch==2.13.0", "peft", TRL], check=True)
    return folder / "bin/python"


def run(engine: str, folder: Path, options: list[str]) -> dict[str, Any]:
    command = [environment_of(engine), HERE / "speed_worker.py", engine, folder, *options]
    paths = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, "STARTED": str(time.time()), "HF_HUB_OFFLINE": "1", "PYTHONPATH": paths}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{engine} failed:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def matrix_rate(dtype: str) -> float:
    """GFLOP/s of this machine's matrix products at the shapes of the 124M model's layers."""
    import torch

    rates = []
    for inner, outer in ((768, 2304), (768, 3072), (3072, 768), (768, 768)):
        left, right = (torch.randn(shape, dtype=getattr(torch, dtype)) for shape in ((2048, inner), (inner, outer)))
        best = min(_timed(lambda left=left, right=right: left @ right) for _ in range(8))
        rates.append(2 * 2048 * inner * outer / best / 1e9)
    return statistics.harmonic_mean(rates)


def _timed(call: Any) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def useful_flops(rows: list[dict[str, list[int]]]) -> float:
    """Floating point operations a token that training needs: 6 a weight of the blocks, 6 a weight of the head where a
    token is supervised, and 6 a pair of positions and a width that attend (causal)."""
    width, layers, vocabulary = 768, 12, 50257
    tokens = sum(len(row["input_ids"]) for row in rows)
    supervised = sum(label != -100 for row in rows for label in row["labels"][1:])
    pairs = sum(len(row["input_ids"]) ** 2 for row in rows)
    return (
        6 * 12 * width**2 * layers * tokens + 6 * width * vocabulary * supervised + 6 * layers * width * pairs
    ) / tokens


def measure(options: argparse.Namespace) -> dict[str, Any]:
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel, set_seed

    tokenizer = load_tokenizer()
    batch, steps = WORKLOADS[options.workload]
    batch = options.batch_size or batch
    found: dict[str, list[dict[str, Any]]] = {engine: [] for engine in options.engines}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        set_seed(0)
        GPT2LMHeadModel(GPT2Config(**SHAPES[options.shape])).save_pretrained(folder / "model")
        tokenizer.save_pretrained(folder / "model")
        rows = make_rows(options.workload, tokenizer, batch * steps)
        (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        settings = ["--batch-size", str(batch), "--dtype", options.dtype, *(["--lora"] if options.lora else [])]
        if options.attention_dropout is not None:
            settings += ["--attention-dropout", str(options.attention_dropout)]
        for number in range(options.rounds):
            for engine in options.engines:
                own = ["--rows-at-once", options.rows_at_once[engine]] if engine in options.rows_at_once else []
                result = run(engine, folder, [*settings, *own])
                found[engine].append(result)
                said = {key: round(value, 1) for key, value in result.items() if isinstance(value, float)}
                print(f"round {number + 1}  {engine:8} {said}  {result['peak_memory'] / 2**30:.1f} GiB", flush=True)
    ours = [one["tokens_per_second"] for one in found["gptft"]]
    rate = None if torch.cuda.is_available() else matrix_rate(options.dtype)
    return {
        "workload": options.workload,
        "method": "LoRA r 16" if options.lora else "full",
        "shape": options.shape,
        "dtype": options.dtype,
        "batch_size": batch,
        "rows_at_once": {engine: int(options.rows_at_once.get(engine, batch)) for engine in options.engines},
        "rival_attention_dropout": 0.1 if options.attention_dropout is None else options.attention_dropout,
        "tokens_per_row": round(sum(len(row["input_ids"]) for row in rows) / len(rows)),
        "engines": found,
        "share_of_matrix_rate": rate and statistics.median(ours) * useful_flops(rows) / rate / 1e9,
        "threads": torch.get_num_threads(),
        "hardware": torch.cuda.get_device_name() if torch.cuda.is_available() else platform.machine(),
        "versions": {"torch": torch.__version__, "trl": TRL, "python": platform.python_version()},
        "date": date.today().isoformat(),
    }


def ratios(result: dict[str, Any], rival: str, key: str = "tokens_per_second") -> list[float]:
    pairs = zip(result["engines"]["gptft"], result["engines"].get(rival, []), strict=False)
    return [ours[key] / theirs[key] for ours, theirs in pairs]


def spread(values: list[float]) -> str:
    if not values:
        return ""
    middle = f"{statistics.median(values):.2f}"
    return middle if len(values) == 1 else f"{middle} [{min(values):.2f}, {max(values):.2f}]"


def at_once(one: dict[str, Any]) -> str:
    """The rows that each engine takes at once, where they differ by name."""
    counts: dict[str, int] = one.get("rows_at_once") or {"all": one["batch_size"]}
    if len(set(counts.values())) == 1:
        return str(next(iter(counts.values())))
    return ", ".join(f"{engine} {count}" for engine, count in counts.items())


def write_table(results: list[dict[str, Any]]) -> None:
    head = (
        "| workload | rows at once | method | rivals' attention dropout | gptft tokens/s | / TRL | / Trainer | "
        "memory / TRL's | memory / Trainer's | share of the matrix rate | first step, s | rounds, threads, date |"
    )
    lines = [head, "|" + " --- |" * 12]
    for one in results:
        ours = [run["tokens_per_second"] for run in one["engines"]["gptft"]]
        first = statistics.median(run["first_step_seconds"] for run in one["engines"]["gptft"])
        cells = [
            f"{one['workload']}, {one['tokens_per_row']} tokens a row, {one['batch_size']} rows, {one['dtype']}",
            at_once(one),
            one["method"],
            f"{one['rival_attention_dropout']}",
            f"{statistics.median(ours):.0f}",
            spread(ratios(one, "trl")),
            spread(ratios(one, "trainer")),
            spread(ratios(one, "trl", "peak_memory")),
            spread(ratios(one, "trainer", "peak_memory")),
            f"{one['share_of_matrix_rate']:.0%}" if one["share_of_matrix_rate"] else "",
            f"{first:.0f}",
            f"{len(ours)}, {one['threads']}, {one['date']}",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    page = PAGE.read_text(encoding="utf-8")
    before, _, rest = page.partition(BEGIN)
    PAGE.write_text(before + BEGIN + "\n" + "\n".join(lines) + "\n" + END + rest.partition(END)[2], encoding="utf-8")
    print(f"The table is in {PAGE}.")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workload", choices=list(WORKLOADS), default="dialogue")
    parser.add_argument("--engines", nargs="+", default=["gptft", "trl", "trainer"])
    parser.add_argument("--lora", action="store_true")
    parser.add_argument("--shape", choices=list(SHAPES), default="gpt2")
    parser.add_argument("--dtype", choices=["bfloat16", "float32"], default="bfloat16")
    parser.add_argument("--batch-size", type=int)
    parser.add_argument(
        "--rows-at-once", nargs="*", default=[], metavar="ENGINE=N", help="where fewer than a step's: it accumulates"
    )
    parser.add_argument("--attention-dropout", type=float, help="of the rivals")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--table", action="store_true", help="only write the table")
    options = parser.parse_args()
    options.rows_at_once = dict(one.split("=") for one in options.rows_at_once)
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else []
    if not options.table:
        result = measure(options)
        keys = ("workload", "method", "shape", "dtype", "batch_size", "rival_attention_dropout", "hardware")
        results = [one for one in results if any(one[key] != result[key] for key in keys)] + [result]
        RESULTS.write_text(json.dumps(results, indent=1) + "\n")
    write_table(results)


if __name__ == "__main__":
    main()
