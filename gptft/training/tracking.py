"""Experiment trackers: the Trainer sends them what it logs; the recipe and the final scores are added here.

What the Trainer itself opens for `training.report_to` is used through each tracker's own public interface; how a
tracker calls the run is kept in the manifest, so that `gptft eval` finds it again.
"""

from __future__ import annotations

import os
import re
import sys
from contextlib import redirect_stdout
from importlib import import_module
from typing import TYPE_CHECKING, Any

import yaml
from rich.console import Console
from rich.markup import escape
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.integrations import TensorBoardCallback

from gptft.runs.folder import Run

if TYPE_CHECKING:
    from gptft.evaluation.scores import Score

REACHED = ("tensorboard", "wandb", "mlflow", "trackio")
"""Trackers that get the recipe and the final scores; others that transformers knows get what the Trainer logs."""


class TrackRun(TrainerCallback):
    """Adds a run's recipe to the trackers that the Trainer has opened, and notes how they call the run."""

    def __init__(self, run: Run) -> None:
        self.run = run

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Add the recipe. The Trainer calls its own callbacks, which open the trackers, before this one."""
        text = self.run.recipe_file.read_text(encoding="utf-8")
        recipe, found = yaml.safe_load(text), dict[str, Any]()
        for name in [name for name in REACHED if name in (args.report_to or ())]:
            tool: Any = import_module(name) if name != "tensorboard" else None
            if name == "tensorboard":
                found[name] = {}
                with _writer(self.run, ".recipe") as writer:
                    writer.add_text("recipe", "\n".join(f"    {line}" for line in text.splitlines()))
            elif name == "wandb":
                tool.config.update({"recipe": recipe}, allow_val_change=True)
                found[name] = {key: getattr(tool.run, key) for key in ("id", "project", "entity")}
            elif name == "mlflow":
                tool.log_text(text, "recipe.yaml")
                found[name] = {"run_id": tool.active_run().info.run_id}
            elif name == "trackio":
                tool.config["recipe"] = recipe
                found[name] = {"project": args.project, "name": args.run_name, "space_id": args.trackio_space_id}
        self.run.update_manifest(tracking=found)


def add_tracking(trainer: Trainer, run: Run) -> None:
    """Let the trackers that `training.report_to` names know of the run; TensorBoard's files go into its folder."""
    if trainer.args.report_to:
        trainer.add_callback(TrackRun(run))
    if trainer.pop_callback(TensorBoardCallback):
        # The Trainer's own would name a folder of the checkpoints by this machine.
        trainer.add_callback(TensorBoardCallback(_writer(run)))


def _writer(run: Run, suffix: str = "") -> Any:
    """A writer of TensorBoard's files; what is written in one second needs another suffix to be another file."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:  # transformers takes the other one then, too
        SummaryWriter = import_module("tensorboardX").SummaryWriter
    folder = os.environ.get("TENSORBOARD_LOGGING_DIR") or str(run.folder / "tensorboard")
    return SummaryWriter(folder, filename_suffix=suffix)


def track_scores(run: Run, split: str, scores: list[Score], console: Console) -> None:
    """Send the scores of an evaluation, with their intervals, to the trackers of a run's training.

    A tracker that fails is said and costs no more than its entry.
    """
    manifest = run.manifest
    values = {
        # Trackers take no `=` or `:` in a name.
        f"{split}/{re.sub(r'[^A-Za-z0-9_]+', '_', score.name)}{end}": value
        for score in scores
        for end, value in (("", score.value), ("_low", score.low), ("_high", score.high))
        if value is not None
    }
    for name, where in manifest.get("tracking", {}).items():
        try:
            # Trackers greet on standard output, which may be meant for a program (`gptft eval --json`).
            with redirect_stdout(sys.stderr):
                _send(run, name, where, values, manifest.get("steps", 0))
        except Exception as error:
            text = f"the scores are not in {name}: {type(error).__name__}: {error}"
            console.print(f"[yellow]Warning:[/yellow] {escape(text)}", soft_wrap=True)


def _send(run: Run, name: str, where: dict[str, Any], values: dict[str, float], step: int) -> None:
    tool: Any = import_module(name) if name != "tensorboard" else None
    if name == "tensorboard":
        with _writer(run, ".scores") as writer:
            for key, value in values.items():
                writer.add_scalar(key, value, step)
    elif name == "wandb":
        with tool.init(**where, resume="allow") as opened:
            opened.summary.update(values)
    elif name == "mlflow":
        with tool.start_run(**where):
            tool.log_metrics(values, step=step)
    elif name == "trackio":
        # Who resumes a run writes its configuration anew; keys with an underscore are trackio's own.
        known = next((one.config for one in tool.Api().runs(where["project"]) if one.name == where["name"]), None)
        kept = {key: value for key, value in (known or {}).items() if not key.startswith("_")}
        tool.init(**where, config=kept, resume="allow")
        tool.log(values, step=step)
        tool.finish()
