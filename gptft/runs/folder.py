"""The run folder: where everything of one fine-tuning lies, and how a run is found again.

runs/NAME-YYYYMMDD-HHMMSS/
recipe.yaml  manifest.json  log.jsonl  checkpoints/  model/  eval/SPLIT/
runs/latest -> the newest finished or resumable run
"""

from __future__ import annotations

import fcntl
import json
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from gptft.errors import UserError
from gptft.files import disk_errors, write_json_atomically
from gptft.runs.checkpoints import DIGESTS, damage, finish_writing, numbered

RUNS = Path("runs")
"""The folder of the runs, in the current folder."""


@dataclass(frozen=True)
class Run:
    """One run folder; nothing in it is read before it is asked for."""

    folder: Path

    @property
    def recipe_file(self) -> Path:
        """The recipe as resolved: `gptft finetune` on it repeats the run."""
        return self.folder / "recipe.yaml"

    @property
    def model(self) -> Path:
        """The result, complete for transformers alone; it exists once the run is finished."""
        return self.folder / "model"

    @property
    def adapter(self) -> Path:
        """The PEFT adapter, where one was trained; `model` has it merged."""
        return self.folder / "adapter"

    @property
    def log_file(self) -> Path:
        """One JSON line for each logging step."""
        return self.folder / "log.jsonl"

    def evaluation(self, split: str) -> Path:
        """Where the scores and predictions of a split lie."""
        return self.folder / "eval" / split

    @property
    def manifest(self) -> dict[str, Any]:
        """What the run was made of, and how it ended; empty for a run without one."""
        try:
            return json.loads((self.folder / "manifest.json").read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {}

    def update_manifest(self, **entries: Any) -> None:
        """Set entries of the manifest, atomically."""
        write_json_atomically(self.folder / "manifest.json", {**self.manifest, **entries})

    def log(self) -> list[dict[str, Any]]:
        """The lines of the log; one that is cut off, as a killed process leaves it, is left out."""
        lines = self.log_file.read_text(encoding="utf-8").splitlines() if self.log_file.is_file() else []
        return [json.loads(line) for line in lines if line.endswith("}")]

    @contextmanager
    def held(self) -> Iterator[bool]:
        """Hold the run for this process, to train or to remove it.

        The lock is the operating system's, on recipe.yaml, which is written once: it ends with the process, however
        that ends. Gives False where the file system has no locks, so that nothing is held.

        Raises:
            UserError: another process holds it.
        """
        with self.recipe_file.open("rb+") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                locked = True
            except BlockingIOError as error:
                raise UserError(
                    f"{self.folder} is in use: another process trains it. Wait for its end, or stop it there (Ctrl-C)."
                ) from error
            except OSError:
                locked = False
            yield locked

    def is_held(self) -> bool | None:
        """Whether a process holds the run (see `held`); None where that cannot be known."""
        try:
            with self.recipe_file.open("rb") as file:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:
            return None
        return False

    @property
    def state(self) -> str:
        """`running`, `finished`, `stopped` (by Ctrl-C), `failed`, `killed` (its process is gone), or `unknown`."""
        state = self.manifest.get("state", "unknown")
        return "killed" if state == "running" and self.is_held() is False else state

    def checkpoint(self, put_aside: Callable[[str], None] | None = None) -> Path | None:
        """The newest complete checkpoint.

        Args:
            put_aside: given by who holds the run and goes on from the checkpoint: its files are then held against
                their digests, one that is damaged is renamed and told by this, and the one before it is taken.
        """
        checkpoints = self.folder / "checkpoints"
        if put_aside is None:
            return next((folder for folder in numbered(checkpoints)[::-1] if (folder / DIGESTS).is_file()), None)
        finish_writing(checkpoints)
        for folder in numbered(checkpoints)[::-1]:
            if not (reason := damage(folder)):
                return folder
            aside = folder.rename(folder.with_name(f"damaged-{folder.name}-{os.getpid()}"))
            put_aside(f"{folder.name} is left out, as {reason}. It is now {aside.name}; remove it if you like.")
        return None

    def set_latest(self) -> None:
        """Make `runs/latest` point here."""
        link = self.folder.parent / "latest"
        with disk_errors(link):
            temporary = link.with_name(f".latest.{os.getpid()}")
            temporary.unlink(missing_ok=True)
            temporary.symlink_to(self.folder.name, target_is_directory=True)
            os.replace(temporary, link)


def new_run(name: str, runs: Path = RUNS) -> Run:
    """Create the folder of a new run, named by recipe and time."""
    stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
    with disk_errors(runs):
        runs.mkdir(parents=True, exist_ok=True)
        for suffix in ("", *(f"-{number}" for number in range(2, 1000))):
            folder = runs / f"{name}-{stamp}{suffix}"
            try:
                folder.mkdir()
            except FileExistsError:
                continue
            return Run(folder)
    raise UserError(f"{runs} already holds a thousand runs named {name}-{stamp}.")


def latest_run(runs: Path = RUNS) -> Run:
    """The run that `runs/latest` names.

    Raises:
        UserError: there is none.
    """
    link = runs / "latest"
    if not link.exists():
        raise UserError(
            f"There is no run in {runs}/ yet. Fine-tune one (`gptft finetune RECIPE`), or name a run, a model folder "
            "or a Hub id."
        )
    return Run(link.resolve())


def find_run(target: str | None, runs: Path = RUNS) -> Run | None:
    """The run that a command's argument names: a run folder, a run's name, nothing for the latest; None if no run.

    Raises:
        UserError: no argument, and no run to fall back on.
    """
    if target is None:
        return latest_run(runs)
    for folder in (Path(target).expanduser(), runs / target):
        if (folder / "recipe.yaml").is_file():
            return Run(folder.resolve())
    return None


def resumable_run(name: str, runs: Path = RUNS) -> Run:
    """The newest run of this name that has not finished and has a complete checkpoint.

    Raises:
        UserError: there is none, or the newest is being trained.
    """
    # Not by a pattern of the file system: bot-2-20261123-101500 is no run of bot.
    stamped = re.compile(re.escape(name) + r"-(\d{8}-\d{6})(?:-(\d+))?")
    found = [(stamped.fullmatch(folder.name), folder) for folder in runs.glob("*")]
    dated = [(match[1], int(match[2] or 1), folder) for match, folder in found if match]
    candidates = [folder for *_, folder in sorted(dated, reverse=True)]
    for folder in candidates:
        run = Run(folder.resolve())
        if run.is_held():
            raise UserError(f"{run.folder} is being trained by another process, so there is nothing to resume yet.")
        if run.manifest.get("state") != "finished" and run.checkpoint():
            return run
    finished = f" The newest, {candidates[0].name}, is finished." if candidates else ""
    raise UserError(f"There is nothing to resume: no unfinished run of {name} with a checkpoint in {runs}/.{finished}")
