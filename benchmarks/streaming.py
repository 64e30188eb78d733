"""What a stream of any size holds in memory: python benchmarks/streaming.py --gigabytes 5

Writes so much JSONL, texts beside a long column that is not asked for, and trains a tiny model
on a stream of all of it. Prints the memory of the process beyond that of the same training on the first thousandth, and
how fast rows were read.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[1] / "tests")]
ROW = 20_000
"""Bytes of a row."""


def write_rows(file: Path, size: int) -> int:
    draw, rows = random.Random(0), 0
    words = ["".join(draw.choices("abcdefghij", k=draw.randint(2, 9))) for _ in range(5000)]
    with file.open("w") as out:
        while out.tell() < size:
            text = " ".join(draw.choices(words, k=40))
            out.write(json.dumps({"text": text, "rest": str(rows) * (ROW // max(1, len(str(rows))))}) + "\n")
            rows += 1
    return rows


def train(folder: Path, name: str, rows: int, batch: int) -> dict[str, float]:
    recipe = {
        "task": "pretraining",
        "name": name,
        "model": {"base": "base", "dtype": "float32"},
        "data": {"train": f"{name}.jsonl", "streaming": True, "max_length": 128},
        "training": {"max_steps": max(1, rows // batch), "per_device_train_batch_size": batch, "save_strategy": "no"},
    }
    (folder / f"{name}.yaml").write_text(json.dumps(recipe))
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(folder / "cache")}
    subprocess.run([sys.executable, "-m", "gptft", "finetune", f"{name}.yaml"], cwd=folder, env=environment, check=True)
    (manifest,) = (folder / "runs").glob(f"{name}-2*/manifest.json")
    facts = json.loads(manifest.read_text())
    cached = sum(one.stat().st_size for one in (folder / "cache").rglob("*") if one.is_file())
    return {"memory": facts["peak_memory_bytes"]["process"], "seconds": facts["training_seconds"], "cache": cached}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--gigabytes", type=float, default=5)
    parser.add_argument("--folder", type=Path, help="where the data is written (default: a temporary folder)")
    options = parser.parse_args()
    from tiny import make_model, make_tokenizer

    with tempfile.TemporaryDirectory(dir=options.folder) as temporary:
        folder = Path(temporary)
        make_model().save_pretrained(folder / "base")
        make_tokenizer().save_pretrained(folder / "base")
        size = int(options.gigabytes * 1e9)
        small = train(folder, "small", write_rows(folder / "small.jsonl", size // 1000), 64)
        rows = write_rows(folder / "large.jsonl", size)
        large = train(folder, "large", rows * 2, 64)
    result = {
        "bytes": size,
        "rows": rows,
        "beyond_bytes": large["memory"] - small["memory"],
        "peak_bytes": large["memory"],
        "bytes_a_second": round(size / large["seconds"]),
        "cached_bytes": large["cache"],
        "python": platform.python_version(),
    }
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
