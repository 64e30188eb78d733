"""Training that stops before its end: Ctrl-C finishes the step and saves; what has a checkpoint can be resumed."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from transformers import EarlyStoppingCallback, TrainerCallback

from gptft.runs.checkpoints import damage
from gptft.runs.folder import Run
from gptft.training.processes import highest


class MarkResumable(TrainerCallback):
    """Makes `runs/latest` the run in training from its first checkpoint on: it can then be resumed, however it ends."""

    def __init__(self, run: Run, say: Callable[[str], None]) -> None:
        self.run, self.say = run, say

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Find the best checkpoint where the run is now, if it is still whole."""
        best = Path(args.output_dir) / f"checkpoint-{state.best_global_step}"
        if state.best_global_step and (reason := damage(best)):
            self.say(f"{best.name}, the best so far, is lost, as {reason}: the best is chosen among those to come.")
            state.best_metric = state.best_global_step = state.best_model_checkpoint = None
        elif state.best_global_step:
            state.best_model_checkpoint = str(best)

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Set the link."""
        self.run.set_latest()


class Patience(EarlyStoppingCallback):
    """Early stopping that a resumed run remembers: one that had been stopped goes no step on."""

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Stop where patience had ended."""
        super().on_train_begin(args, state, control, **kwargs)
        if self.early_stopping_patience_counter >= self.early_stopping_patience:
            control.should_training_stop = True


class StopWhenAsked(TrainerCallback):
    """Ends training with a checkpoint after the step in which SIGINT or SIGTERM came; a second one ends it at once.

    `asked` is the signal's number, 0 before one came.
    """

    def __init__(self) -> None:
        self.asked = 0

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
        """Ask the Trainer to save and to stop; all processes do where one was asked."""
        self.asked = highest(self.asked, args.device)
        # Where only the best is saved, the evaluation of this step decides about that: stop after the next.
        if self.asked and not (args.save_strategy == "best" and control.should_evaluate):
            control.should_save = True
            control.should_training_stop = True
        return control

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
        """Of a signal that came in an evaluation, wait for no further step; where only the best is saved, do."""
        return control if args.save_strategy == "best" else self.on_step_end(args, state, control)

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
        """Do nothing that belongs to an epoch's end when training stops within it: the resumed run will."""
        if self.asked and state.epoch % 1:
            control.should_log = control.should_evaluate = control.should_save = False
        return control

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Catch the signals inside the block; outside the main thread, where Python cannot, do nothing."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def ask(number: int, frame: FrameType | None) -> None:
            if self.asked:
                raise KeyboardInterrupt
            self.asked = number

        previous = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)
