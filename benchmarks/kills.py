"""Kill short trainings with SIGKILL at random moments, resume them, and hold the weights against those never killed.

    python benchmarks/kills.py --kills 200 --seed 0 --output benchmarks/kills.json

A kill is a moment drawn from a phase: anywhere in the run, while a checkpoint is written, in an evaluation, while the
model is written. Each run is killed a few times, then left to finish; after each kill every checkpoint in place must be
whole. Trainings are forks of one process that has imported everything, so that a kill costs a second, not ten.
"""

# ruff: noqa: E402 - the folder of the tests is made known first
from __future__ import annotations

import argparse
import gc
import hashlib
import json
import mmap
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).resolve().parents[1] / "tests")]
os.environ |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}

import datasets
import peft  # noqa: F401 - imported before the forks, as is what gptft imports late
import torch
from rich.console import Console
from tiny import DIALOGUES, make_model, make_tokenizer

from gptft.recipe import load_recipe
from gptft.report import add_report  # noqa: F401 - imported late otherwise, in each fork
from gptft.runs import Run
from gptft.runs.checkpoints import damage
from gptft.training import faults, finetune, trainer

PHASES = ("prepare", "step", "evaluate", "checkpoint", "model")
AIMS = ("any", "any", "step", "evaluate", "checkpoint", "checkpoint", "model")
DROPOUT = {"config": {"resid_pdrop": 0.2, "embd_pdrop": 0.1, "attn_pdrop": 0.1}}
STEPS: dict[str, Any] = {"save_strategy": "steps", "save_steps": 3, "eval_strategy": "steps", "eval_steps": 3}
SCENARIOS: dict[str, dict[str, Any]] = {
    "dialogue": {
        "model": DROPOUT,
        "training": {**STEPS, "per_device_train_batch_size": 4, "load_best_model_at_end": True},
        "evaluation": {"during_training": 2, "generation": {"max_new_tokens": 4}, "metrics": ["bleu"]},
    },
    "accumulation": {
        "model": DROPOUT,
        "training": {
            **STEPS,
            "per_device_train_batch_size": 1,
            "gradient_accumulation_steps": 4,
            "max_steps": 11,
            "save_total_limit": 1,
        },
    },
    "lora": {
        "adapter": {"type": "lora", "r": 4, "lora_dropout": 0.2},
        "training": {
            "per_device_train_batch_size": 2,
            "gradient_accumulation_steps": 2,
            "metric_for_best_model": "loss",
            "load_best_model_at_end": True,
        },
        "evaluation": {"early_stopping_patience": 2, "early_stopping_threshold": 100.0},
    },
    "streaming": {
        "model": DROPOUT,
        "data": {"streaming": True, "buffer_rows": 8, "validation": "held.jsonl"},
        "training": {**STEPS, "per_device_train_batch_size": 3, "max_steps": 14},
    },
}


class Phase:
    """What a training is doing, as its parent sees it: one byte that both share."""

    def __init__(self) -> None:
        self.byte = mmap.mmap(-1, 1)

    def __str__(self) -> str:
        return PHASES[self.byte[0]]

    def during(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def inside(*args: Any, **options: Any) -> Any:
            before, self.byte[0] = self.byte[0], PHASES.index(name)
            try:
                return function(*args, **options)
            finally:
                self.byte[0] = before

        return inside

    def watch(self) -> None:
        """Note phases from here on; called once, before any fork."""
        trainer.FineTuner.evaluate = self.during("evaluate", trainer.FineTuner.evaluate)
        faults.CarefulTrainer._save_checkpoint = self.during("checkpoint", faults.CarefulTrainer._save_checkpoint)
        trainer.FineTuner.train = self.during("step", trainer.FineTuner.train)
        finetune.folder_written_atomically = self.during("model", finetune.folder_written_atomically)
        faults.CarefulTrainer.check_weights = self.during("step", faults.CarefulTrainer.check_weights)


def forked(action: Callable[[], Any], log: Path) -> int:
    """Start `action` in a fork and give its process id; what it prints goes to `log`."""
    process = os.fork()
    if process:
        return process
    code = 1
    try:
        with log.open("a") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        torch.set_num_threads(1)
        action()
        code = 0
    except BaseException as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
    finally:
        os._exit(code)


def make_base(folder: Path) -> None:
    make_model().save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)


def write_recipe(folder: Path, base: Path, name: str) -> Path:
    sections = SCENARIOS[name]
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in DIALOGUES))
    (folder / "held.jsonl").write_text("".join(json.dumps(row) + "\n" for row in DIALOGUES[:5]))
    recipe = {
        "task": "dialogue",
        "model": {"base": str(base), "dtype": "float32"} | sections.get("model", {}),
        "data": {"train": "train.jsonl", "validation": 0.2, "max_length": 64} | sections.get("data", {}),
        "training": {"num_train_epochs": 3, "learning_rate": 1e-3, "use_cpu": True, "logging_steps": 1}
        | {"report_to": "none"}
        | sections["training"],
        **{key: value for key, value in sections.items() if key not in ("model", "data", "training")},
    }
    path = folder / f"{name}.yaml"
    path.write_text(json.dumps(recipe))
    return path


def digest(run: Run) -> str:
    return hashlib.sha256((run.model / "model.safetensors").read_bytes()).hexdigest()


def steps_logged(run: Run) -> list[tuple[int, float]]:
    return [(line["step"], line.get("loss", line.get("eval_loss"))) for line in run.log() if "train_loss" not in line]


class Killing:
    """One scenario: its run that was never killed, and runs that are."""

    def __init__(self, name: str, base: Path, folder: Path, phase: Phase, draw: random.Random) -> None:
        self.name, self.folder, self.phase, self.draw = name, folder, phase, draw
        folder.mkdir()
        self.recipe = write_recipe(folder, base, name)
        self.number = 0
        started = time.monotonic()
        [run] = self.finish(Path("whole"), resume=False)
        self.seconds = time.monotonic() - started
        self.whole, self.log = digest(run), steps_logged(run)
        self.tokens = run.manifest["tokens_seen"]

    def start(self, runs: Path, resume: bool) -> int:
        recipe = load_recipe(self.recipe)
        self.phase.byte[0] = 0

        def train() -> None:
            console = Console(file=sys.stderr, width=200)
            finetune.finetune(recipe, resume=resume, runs=self.folder / runs, console=console)

        return forked(train, self.folder / f"{runs}.log")

    def finish(self, runs: Path, resume: bool) -> list[Run]:
        process = self.start(runs, resume)
        _, status = os.waitpid(process, 0)
        if status:
            raise SystemExit(f"{self.name}: did not finish:\n" + (self.folder / f"{runs}.log").read_text()[-3000:])
        return [run for run in self.runs(runs) if run.manifest.get("state") == "finished"]

    def runs(self, runs: Path) -> list[Run]:
        folders = (self.folder / runs).glob(f"{self.name}-*")
        return [Run(folder) for folder in sorted(folders)]

    def kill_once(self, runs: Path, resume: bool) -> str | None:
        """Kill a training at a moment of a drawn phase; its phase then, None when it ended before."""
        aim = self.draw.choice(AIMS)
        process = self.start(runs, resume)
        started = time.monotonic()
        due = started + self.draw.uniform(0, self.seconds) if aim == "any" else 0.0
        skipped = self.draw.randrange(3) if aim in ("evaluate", "checkpoint") else 0
        inside = False
        while True:
            ended, status = os.waitpid(process, os.WNOHANG)
            if ended:
                if status:
                    log = (self.folder / f"{runs}.log").read_text()[-3000:]
                    raise SystemExit(f"{self.name}: a resumed training failed:\n{log}")
                return None
            now, phase = time.monotonic(), str(self.phase)
            if not due and phase == aim and not inside:
                if skipped == 0:
                    longest = {"step": self.seconds / 2, "evaluate": 0.1, "model": 0.01}.get(aim, 0.06)
                    due = now + self.draw.uniform(0, longest)
                skipped -= 1
            inside = phase == aim
            if due and now >= due:
                os.kill(process, signal.SIGKILL)
                os.waitpid(process, 0)
                return phase
            time.sleep(0.0005)

    def run(self, kills: int) -> tuple[Counter[str], int, int]:
        """Kill a run `kills` times, then finish it; gives phases, how often it was resumed and started anew."""
        runs = Path(f"killed-{self.number}")
        self.number += 1
        phases: Counter[str] = Counter()
        resumed = anew = 0
        while sum(phases.values()) < kills:
            resume = any(run.checkpoint() for run in self.runs(runs))
            resumed, anew = resumed + resume, anew + (not resume)
            phase = self.kill_once(runs, resume)
            self.check_checkpoints(runs)
            if phase is None:
                break
            phases[phase] += 1
            # The last moments, in which the report is written, come after a run is marked as finished.
            if any(run.manifest.get("state") == "finished" for run in self.runs(runs)):
                break
        if not any(run.manifest.get("state") == "finished" for run in self.runs(runs)):
            resume = any(run.checkpoint() for run in self.runs(runs))
            resumed, anew = resumed + resume, anew + (not resume)
            self.finish(runs, resume)
        [run] = [run for run in self.runs(runs) if run.manifest.get("state") == "finished"]
        if digest(run) != self.whole:
            raise SystemExit(f"{self.name}: {run.folder} has other weights than the run never killed")
        if steps_logged(run) != self.log or run.manifest["tokens_seen"] != self.tokens:
            raise SystemExit(f"{self.name}: the log of {run.folder} differs: {steps_logged(run)}, not {self.log}")
        shutil.rmtree(self.folder / runs)
        return phases, resumed, anew

    def check_checkpoints(self, runs: Path) -> None:
        for run in self.runs(runs):
            for checkpoint in (run.folder / "checkpoints").glob("checkpoint-*"):
                if reason := damage(checkpoint):
                    raise SystemExit(f"{self.name}: {checkpoint}: {reason}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--each", type=int, default=4, help="kills of one run, at most")
    parser.add_argument("--seconds", type=float, default=1e9, help="stop after so many, with the figures so far")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    draw, phase, began = random.Random(options.seed), Phase(), time.monotonic()
    phase.watch()
    # What was imported is no matter for the collector of each fork.
    gc.freeze()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        datasets.config.HF_DATASETS_CACHE = folder / "cache"
        os.waitpid(forked(lambda: make_base(folder / "base"), folder / "base.log"), 0)
        scenarios = [Killing(name, folder / "base", folder / name, phase, draw) for name in SCENARIOS]
        total: dict[str, Counter[str]] = {one.name: Counter() for one in scenarios}
        runs = Counter[str]()
        resumed = anew = done = 0
        while done < options.kills and time.monotonic() - began < options.seconds:
            one = scenarios[sum(runs.values()) % len(scenarios)]
            phases, again, new = one.run(min(options.kills - done, draw.randint(1, options.each)))
            total[one.name] += phases
            runs[one.name] += 1
            done, resumed, anew = done + sum(phases.values()), resumed + again, anew + new
            print(f"{done} kills, {sum(runs.values())} runs, {time.monotonic() - began:.0f} s", file=sys.stderr)
    result = {
        "kills": done,
        "seed": options.seed,
        "runs": dict(runs),
        "resumed": resumed,
        "started_anew_as_no_checkpoint_was_there": anew,
        "bit_identical": sum(runs.values()),
        "kills_by_phase": dict(sum(total.values(), Counter())),
        "kills_by_scenario": {name: dict(phases) for name, phases in total.items()},
        "seconds": round(time.monotonic() - began),
    }
    text = json.dumps(result, indent=2)
    print(text)
    if options.output:
        options.output.write_text(text + "\n")


if __name__ == "__main__":
    main()
