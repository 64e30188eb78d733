"""Progress for people: a live bar on a terminal, plain lines elsewhere; a JSON line for each logging step."""

from __future__ import annotations

import json
import time
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from gptft.files import disk_errors, write_jsonl_atomically
from gptft.runs.folder import Run
from gptft.runs.manifest import duration


class ProgressDisplay(TrainerCallback):
    """Shows loss, tokens per second, time left and the latest evaluation; appends what is logged to a file."""

    def __init__(self, console: Console, run: Run) -> None:
        self.console = console
        self.run = run
        self.progress: Progress | None = None
        self.bar = TaskID(0)
        self.latest: dict[str, float] = {}
        self.started = time.perf_counter()
        self.first_step = 0
        self.first_tokens = 0
        self.earlier_seconds = 0.0

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Start the clock and the bar."""
        self.started = time.perf_counter()
        self.first_step, self.first_tokens = state.global_step, state.num_input_tokens_seen
        # Of a run that is resumed: what is done again is logged again.
        kept = [line for line in self.run.log() if line["step"] <= state.global_step]
        self.earlier_seconds = kept[-1].get("seconds", 0.0) if kept else 0.0
        write_jsonl_atomically(self.run.log_file, kept)
        if self.console.is_terminal:
            columns = (TextColumn("{task.description}"), BarColumn(None), MofNCompleteColumn(), TimeElapsedColumn())
            self.progress = Progress(*columns, TextColumn("{task.fields[facts]}"), console=self.console, expand=True)
            self.progress.start()
            self.bar = self.progress.add_task("Training", total=state.max_steps, completed=state.global_step, facts="")

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Move the bar."""
        if self.progress:
            self.progress.update(self.bar, completed=state.global_step, facts=self._facts(state))

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """Keep the numbers, write them to the log file, and print a line where there is no bar."""
        logs = dict(logs or {})
        self.latest |= logs
        line = {"step": state.global_step, "tokens": state.num_input_tokens_seen, **logs}
        line["seconds"] = round(self.earlier_seconds + time.perf_counter() - self.started, 2)
        line["tokens_per_second"] = round(self._speed(state), 1)
        with disk_errors(self.run.log_file), self.run.log_file.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        if "eval_loss" in logs:
            scores = {name.removeprefix("eval_"): value for name, value in logs.items() if name.startswith("eval_")}
            said = ", ".join(f"{name} {scores[name]:.4g}" for name in scores if name not in ("loss", "runtime"))
            line = f"step {state.global_step:,} of {state.max_steps:,}: validation loss {logs['eval_loss']:.4f}, {said}"
            self.console.print(line, highlight=False, markup=False, soft_wrap=True)
        elif "loss" in logs and not self.progress:
            self.console.print(
                f"step {state.global_step:,} of {state.max_steps:,}: {self._facts(state)}", highlight=False
            )

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Leave the bar as it stands."""
        self.stop()

    def stop(self) -> None:
        """Give the terminal back, also when training failed."""
        if self.progress:
            self.progress.stop()
            self.progress = None

    def _speed(self, state: TrainerState) -> float:
        return (state.num_input_tokens_seen - self.first_tokens) / max(time.perf_counter() - self.started, 1e-9)

    def _facts(self, state: TrainerState) -> str:
        steps = state.global_step - self.first_step
        left = (time.perf_counter() - self.started) / max(steps, 1) * (state.max_steps - state.global_step)
        parts = [f"{self._speed(state):,.0f} tokens/s", f"{duration(left)} left"]
        if "loss" in self.latest:
            parts.insert(0, f"loss {self.latest['loss']:.4f}")
        if "eval_loss" in self.latest:
            parts.append(f"validation {self.latest['eval_loss']:.4f}")
        return ", ".join(parts)
