"""What `gptft inspect` takes and how near it comes: python benchmarks/inspection.py rows | memory [NAME...]

rows: a million generated questions with answers, inspected twice (the first time they are prepared): time and memory.
memory: predicted against measured peak memory (and with --probe time) of short fine-tunings. GPTFT_DATA names the data.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
GPT2 = "model.base=FOLDER/gpt2"
SCRATCH = ["model.base=null", "model.tokenizer=FOLDER/gpt2", "model.config={n_layer: 12}"]
BATCH = "training.per_device_train_batch_size"
CASES: dict[str, tuple[str, list[str]]] = {
    "starter, dialogue, batch 16": ("taskmaster4.yaml", []),
    "starter, dialogue, LoRA, batch 16": ("taskmaster4.yaml", ["adapter={type: lora, r: 16}"]),
    "starter, classification, batch 32": ("banking77.yaml", []),
    "starter, pretraining, batch 8": ("rust_book.yaml", []),
    "starter, pretraining, batch 2 x 4, length 256": (
        "rust_book.yaml",
        [f"{BATCH}=2", "training.gradient_accumulation_steps=4", "data.max_length=256"],
    ),
    "starter, translation, batch 16": ("tatoeba_en_zh.yaml", [f"{BATCH}=16"]),
    "GPT-2, dialogue, from scratch, batch 4": ("taskmaster4.yaml", [*SCRATCH, f"{BATCH}=4"]),
    "GPT-2, dialogue, LoRA, batch 8": ("taskmaster4.yaml", [GPT2, "adapter={type: lora, r: 16}", f"{BATCH}=8"]),
    "GPT-2, pretraining, batch 2, length 512": ("rust_book.yaml", [*SCRATCH, f"{BATCH}=2", "data.max_length=512"]),
}


def gptft(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "gptft", *arguments]
    return subprocess.run(command, cwd=folder, check=True, text=True, capture_output=True)


def rows(count: int) -> None:
    draw = random.Random(0)
    words = ["".join(draw.choices("abcdefghijklmnopqrstuvwxyz", k=draw.randint(2, 9))) for _ in range(20_000)]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for split, size in (("train", count), ("test", count // 100)):
            with (folder / f"{split}.jsonl").open("w") as file:
                for _ in range(size):
                    question, answer = (" ".join(draw.choices(words, k=draw.randint(5, 15))) for _ in range(2))
                    file.write(json.dumps({"prompt": question, "completion": answer}) + "\n")
        recipe = {
            "task": "dialogue",
            "model": {"base": "starter"},
            "data": {"train": "train.jsonl", "test": "test.jsonl"},
        }
        (folder / "million.yaml").write_text(json.dumps(recipe))
        os.environ["HF_DATASETS_CACHE"] = str(folder / "cache")
        for time_of in ("with preparation", "prepared"):
            started = time.perf_counter()
            command = [sys.executable, "-m", "gptft", "inspect", "million.yaml", "--json"]
            with (folder / "found.json").open("w") as out:
                child = subprocess.Popen(command, cwd=folder, stdout=out)
                _, code, used = os.wait4(child.pid, 0)
            seconds, cpu = time.perf_counter() - started, used.ru_utime + used.ru_stime
            peak = used.ru_maxrss * 1024 / 1e9
            print(
                f"{count:,} rows, {time_of}: {seconds:.0f} s ({cpu:.0f} of CPU), {peak:.2f} GB, exit {code}", flush=True
            )
        found = json.loads((folder / "found.json").read_text())
        print("findings:", [finding["name"] for finding in found["findings"]])


def memory(names: list[str], steps: int, probe: bool) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        # In a process of its own: Linux counts the size of the parent into a child's peak.
        subprocess.run([sys.executable, "-c", SAVE_GPT2, str(folder / "gpt2")], check=True, capture_output=True)
        print("| case | predicted | measured | |" + " time predicted | measured | |" * probe)
        for case in names or CASES:
            file, changes = CASES[case]
            changes = [change.replace("FOLDER", str(folder)) for change in changes]
            changes += [f"training.max_steps={steps}", 'training.save_strategy="no"', 'training.eval_strategy="no"']
            arguments = [str((HERE / file).absolute()), *changes]
            found = json.loads(gptft("inspect", *arguments, "--json", *["--probe"] * probe, folder=folder).stdout)
            gptft("finetune", *arguments, folder=folder)
            manifest: dict[str, Any] = json.loads((folder / "runs/latest/manifest.json").read_text())
            pairs = [(found["memory"]["total"], manifest["peak_memory_bytes"]["process"], 1e9, "GB")]
            if probe:
                pairs.append((found["probe"]["seconds"], manifest["training_seconds"], 1, "s"))
            cells = [f"{a / unit:.2f} {u} | {b / unit:.2f} {u} | {a / b - 1:+.0%} |" for a, b, unit, u in pairs]
            print(f"| {case} | " + " ".join(cells), flush=True)


SAVE_GPT2 = """
import os, sys
from transformers import GPT2Config, GPT2LMHeadModel, GPT2Tokenizer
GPT2LMHeadModel(GPT2Config()).save_pretrained(sys.argv[1])
GPT2Tokenizer.from_pretrained(os.environ["GPTFT_DATA"] + "/gpt2_tokenizer").save_pretrained(sys.argv[1])
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["rows", "memory"])
    parser.add_argument("names", nargs="*", help="of cases; all")
    parser.add_argument("--count", type=int, default=1_000_000, help="rows to generate")
    parser.add_argument("--steps", type=int, default=3, help="of each fine-tuning")
    parser.add_argument("--probe", action="store_true", help="time too")
    arguments = parser.parse_args()
    if arguments.what == "rows":
        rows(arguments.count)
    else:
        memory(arguments.names, arguments.steps, arguments.probe)


if __name__ == "__main__":
    main()
