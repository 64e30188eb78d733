"""What an evaluation holds beyond the model: python benchmarks/evaluation_memory.py [--rows 2000]

Perplexity of rows of 1,024 tokens, all supervised, by a random GPT-2 of the 124M shape in float32. The process's memory
is read fifty times a second and compared with what it was when model and rows were there; beside it stands what the
logits of all rows would take, were they gathered.
"""

from __future__ import annotations

import argparse
import threading
import time

import psutil
import torch
from datasets import Dataset
from transformers import GPT2Config, GPT2LMHeadModel

from gptft.training.losses import dataset_losses

LENGTH = 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=2000)
    arguments = parser.parse_args()
    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config()).eval()
    ids = torch.randint(0, 50257, (arguments.rows, LENGTH), generator=torch.Generator().manual_seed(0)).tolist()
    dataset = Dataset.from_dict({"input_ids": ids, "labels": ids, "length": [LENGTH] * arguments.rows})
    del ids
    process = psutil.Process()
    peak, before, done = 0, process.memory_info().rss, threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.is_set():
            peak = max(peak, process.memory_info().rss)
            time.sleep(0.02)

    watcher = threading.Thread(target=watch)
    watcher.start()
    started = time.perf_counter()
    losses, counts = dataset_losses(model, dataset, 50256)
    seconds = time.perf_counter() - started
    done.set()
    watcher.join()
    gathered = arguments.rows * LENGTH * 50257 * 4
    print(f"{arguments.rows:,} rows of {LENGTH:,} tokens, loss {losses.sum() / counts.sum():.4f}, {seconds:,.0f} s")
    print(f"beyond model and rows: {(peak - before) / 1e9:.2f} GB at most; all logits: {gathered / 1e9:,.0f} GB")


if __name__ == "__main__":
    main()
