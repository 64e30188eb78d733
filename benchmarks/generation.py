"""Speed and memory of answers for evaluation, beside transformers' own ways.

The workload: one prompt before each turn of the assistant in Taskmaster-4 dialogues (test, then dev; in the order of
the files), in gptft's chat template and GPT-2's tokens, for a GPT-2 of 124M parameters with random weights. Greedy. A
random model never ends an answer, so each answer ends after as many tokens as its reference has (end-of-text included):
through a StoppingCriteria for transformers, through `limits` for gptft. Only these tokens are counted.

    pipeline   transformers.pipeline("text-generation"), batches of 8 in the order of the files
    generate   model.generate, left-padded batches of 32 in the order of the files
    gptft      gptft.models.generation.generate_tokens, and the texts

Each in a process of its own, one after the other, as many rounds as asked. Loading is not timed. Peak memory is the
most that the process held (resident; on a GPU, allocated there) while it generated, weights included.

    python benchmarks/generation.py --rows 512 --dtype bfloat16 --rounds 3
"""

from __future__ import annotations

import argparse
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

ENGINES = ("pipeline", "generate", "gptft")
DATA = Path(os.environ.get("GPTFT_DATA", Path(__file__).resolve().parents[2] / "shared/data"))


def load_tokenizer() -> Any:
    from transformers import GPT2Tokenizer

    from gptft.models.templates import CHAT_TEMPLATE

    tokenizer = GPT2Tokenizer.from_pretrained(DATA / "gpt2_tokenizer", padding_side="left")
    tokenizer.pad_token, tokenizer.chat_template = tokenizer.eos_token, CHAT_TEMPLATE
    return tokenizer


def workload(tokenizer: Any, rows: int) -> tuple[list[list[int]], list[int]]:
    """Prompts, and how many tokens each answer gets."""
    from gptft.tasks.dialogue import prompt_ids

    prompts, stops = [], []
    for split in ("test", "dev", "train"):
        with gzip.open(DATA / f"taskmaster4/{split}.jsonl.gz", "rt", encoding="utf-8") as file:
            for line in file:
                messages = json.loads(line)["messages"]
                for index, message in enumerate(messages):
                    if message["role"] == "assistant" and message["content"].strip():
                        stops.append(len(tokenizer(message["content"].strip())["input_ids"]) + 1)
                        prompts.append(prompt_ids(tokenizer, messages[:index], 768))
                        if len(prompts) == rows:
                            return prompts, stops
    raise SystemExit(f"Taskmaster-4 has only {len(prompts):,} prompts.")


def stop_after(stops: list[int]) -> Any:
    """A criterion that ends each row after its number of tokens, for batches that come in order."""
    import torch
    from transformers import StoppingCriteria

    class After(StoppingCriteria):
        def __init__(self) -> None:
            self.next, self.before, self.begin, self.limits = 0, torch.zeros(0, 0), 0, torch.zeros(0)

        def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
            if self.before.shape != input_ids[:, :-1].shape or not torch.equal(self.before, input_ids[:, :-1]):
                self.begin = input_ids.shape[1] - 1
                self.limits = torch.tensor(stops[self.next : self.next + len(input_ids)], device=input_ids.device)
                self.next += len(input_ids)
            self.before = input_ids
            return input_ids.shape[1] - self.begin >= self.limits

    return After()


def peak_memory(torch: Any, reset: bool = False) -> int:
    """Most bytes held since the last reset."""
    if torch.cuda.is_available():
        if reset:
            torch.cuda.reset_peak_memory_stats()
        return torch.cuda.max_memory_allocated()
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


def measure(engine: str, model_folder: str, rows: int, dtype: str) -> dict[str, Any]:
    """Generate with one engine in this process."""
    import torch
    from transformers import GPT2LMHeadModel, pipeline

    from gptft.models.generation import generate_tokens, generation_settings, left_padded
    from gptft.models.precision import best_device
    from gptft.models.quiet import quiet_libraries

    quiet_libraries()
    tokenizer, device = load_tokenizer(), best_device()
    prompts, stops = workload(tokenizer, rows)
    texts = [tokenizer.decode(prompt) for prompt in prompts]
    model = GPT2LMHeadModel.from_pretrained(model_folder, dtype=getattr(torch, dtype)).eval().to(device)
    settings = generation_settings(model, {"max_new_tokens": max(stops), "do_sample": False})
    settings.pad_token_id = tokenizer.pad_token_id

    def answer(prompts: list[list[int]], stops: list[int], texts: list[str]) -> list[list[int]]:
        if engine == "gptft":
            generated, _ = generate_tokens(model, tokenizer, prompts, settings, getattr(torch, dtype), limits=stops)
            tokenizer.batch_decode(generated)
            return generated
        if engine == "pipeline":
            pipe = pipeline("text-generation", model=model, tokenizer=tokenizer)
            pipe(
                texts,
                batch_size=8,
                generation_config=settings,
                stopping_criteria=[stop_after(stops)],
                return_full_text=False,
            )
            return []
        generated = []
        criterion = stop_after(stops)
        for start in range(0, len(prompts), 32):
            ids, mask = left_padded(prompts[start : start + 32], tokenizer.pad_token_id, device)
            output = model.generate(
                input_ids=ids, attention_mask=mask, generation_config=settings, stopping_criteria=[criterion]
            )
            generated += output[:, ids.shape[1] :].tolist()
        tokenizer.batch_decode(generated)
        return generated

    # The first pass through a model is slower than all others.
    answer(prompts[:2], [2, 2], texts[:2])
    before = peak_memory(torch, reset=True)
    start, started = time.perf_counter(), time.process_time()
    generated = answer(prompts, stops, texts)
    seconds, processor_seconds = time.perf_counter() - start, time.process_time() - started
    return {
        "seconds": seconds,
        "processor_seconds": processor_seconds,
        "tokens_per_second": sum(stops) / seconds,
        "peak_bytes": peak_memory(torch),
        "resident_before_bytes": before,
        "tokens": sum(stops),
        "prompt_tokens": sum(map(len, prompts)),
        "answers": [tokens[:stop] for tokens, stop in zip(generated, stops, strict=False)],
    }


def ratio(ours: list[float], theirs: list[float]) -> str:
    """The median of the rounds' ratios, with the least and the most."""
    ratios = [our / their for our, their in zip(ours, theirs, strict=True)]
    return f"{statistics.median(ratios):.2f} [{min(ratios):.2f}, {max(ratios):.2f}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=512)
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), default="float32")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--engines", nargs="+", choices=ENGINES, default=ENGINES)
    parser.add_argument("--output", type=Path, default=Path("runs/benchmarks"), help="folder of the JSON file")
    parser.add_argument("--engine", choices=ENGINES, help=argparse.SUPPRESS)
    parser.add_argument("--model", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.engine:
        print(json.dumps(measure(arguments.engine, arguments.model, arguments.rows, arguments.dtype)))
        return

    import torch
    import transformers

    measured: dict[str, list[dict[str, Any]]] = {engine: [] for engine in arguments.engines}
    with tempfile.TemporaryDirectory() as folder:
        transformers.set_seed(0)
        model = transformers.GPT2LMHeadModel(transformers.GPT2Config())
        model.to(getattr(torch, arguments.dtype)).save_pretrained(folder)
        del model
        for number in range(arguments.rounds):
            for engine in arguments.engines:
                load = os.getloadavg()[0]
                command = [sys.executable, __file__, "--engine", engine, "--model", folder]
                command += ["--rows", str(arguments.rows), "--dtype", arguments.dtype]
                result = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout.splitlines()[-1])
                measured[engine].append(result | {"load_before": load})
                print(
                    f"round {number + 1}  {engine:9} {result['tokens_per_second']:8.1f} tokens/s  "
                    f"{result['seconds']:7.1f} s ({result['processor_seconds']:.1f} s of processor)  "
                    f"peak {result['peak_bytes'] / 1e6:6.0f} MB  load before {load:.2f}",
                    flush=True,
                )
    report: dict[str, Any] = {
        "workload": " ".join((__doc__ or "").split("\n\n")[1].split()),
        "rows": arguments.rows,
        "dtype": arguments.dtype,
        "tokens": next(iter(measured.values()))[0]["tokens"],
        "prompt_tokens": next(iter(measured.values()))[0]["prompt_tokens"],
        "date": date.today().isoformat(),
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
        "hardware": {"cpu": processor(), "threads": torch.get_num_threads(), "cores": os.cpu_count(), "gpu": None},
    }
    report["versions"]["transformers"] = transformers.__version__
    if torch.cuda.is_available():
        report["hardware"]["gpu"] = torch.cuda.get_device_name()
    if "gptft" in measured:
        ours = measured["gptft"]
        for rival in [engine for engine in measured if engine != "gptft"]:
            theirs = measured[rival]
            report[f"speed over {rival}"] = ratio(*([r["tokens_per_second"] for r in runs] for runs in (ours, theirs)))
            report[f"processor time of {rival} over ours"] = ratio(
                *([r["processor_seconds"] for r in runs] for runs in (theirs, ours))
            )
            report[f"peak memory over {rival}"] = ratio(*([r["peak_bytes"] for r in runs] for runs in (ours, theirs)))
        if "generate" in measured:
            pairs = list(zip(ours[0]["answers"], measured["generate"][0]["answers"], strict=True))
            report["answers identical to generate's"] = sum(our == their for our, their in pairs)
    for name, value in report.items():
        print(f"{name}: {value}")
    for runs in measured.values():
        for run in runs:
            del run["answers"]
    arguments.output.mkdir(parents=True, exist_ok=True)
    path = arguments.output / f"generation-{arguments.dtype}-{date.today():%Y%m%d}-{time.strftime('%H%M%S')}.json"
    path.write_text(json.dumps(report | {"measured": measured}, indent=1) + "\n", encoding="utf-8")
    print(f"saved {path}")


def processor() -> str:
    """The name of the processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()


if __name__ == "__main__":
    main()
