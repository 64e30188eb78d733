"""The checks, and what becomes of them: each measures a difference that must not exceed its bound."""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from gptft.errors import GptftError
from gptft.selftest import reading, training
from gptft.selftest.bench import Bench, empty_cache

if TYPE_CHECKING:
    from rich.table import Table


@dataclass(frozen=True)
class Check:
    """Something that must be true. `measure` gives a difference, or raises; more than `bound` is a failure."""

    name: str
    claim: str
    bound: float
    measure: Callable[[Bench], float]


@dataclass(frozen=True)
class Result:
    """What a check found. `difference` is None where it could not be measured; `reason` then says why."""

    name: str
    claim: str
    difference: float | None
    bound: float
    passed: bool
    seconds: float
    reason: str = ""

    def to_dict(self) -> dict[str, Any]:
        """For JSON, which has no infinity."""
        found = self.difference
        return {**asdict(self), "difference": found if found is None or math.isfinite(found) else str(found)}


CHECKS = (
    Check("loss", "the loss is the mean over supervised tokens, in training and validation", 1e-5, training.loss),
    Check("accumulation", "accumulated batches equal one batch, the last step short", 1e-5, training.accumulation),
    Check("packing", "documents that share a row do not see each other", 1e-4, reading.packing),
    Check("padding", "a padded row's logits are those of the row alone", 1e-4, reading.padding),
    Check("causality", "a later token changes no earlier logit", 1e-5, reading.causality),
    Check("closing", "the closing token is supervised, though pad and eos are one", 0, reading.closing),
    Check("prompt", "a prompt is the beginning of its training row, unsupervised", 0, reading.prompt),
    Check("resume", "killed and resumed equals uninterrupted", training.resume_bound(), training.resume),
    Check("bfloat16", "losses in bfloat16 are those in float32, weights stay float32", 0.02, training.bfloat16),
    Check("saved", "what is saved is what transformers alone loads", 0, training.saved),
    Check("adapter", "the merged model says what base and adapter say", 1e-4, training.adapter),
    Check("generation", "answers in a batch are those of one prompt alone", 0, reading.generation),
)
"""All checks, in the order in which they are run."""


def run_checks(checks: Sequence[Check] = CHECKS, advance: Callable[[Result], None] = lambda _: None) -> list[Result]:
    """Run checks in a temporary folder, on one thread, each to its end whatever the others find.

    Args:
        checks: those to run.
        advance: called with each result.
    """
    results, threads = [], torch.get_num_threads()
    # What is so small gains nothing from a second thread, and waits for it where other work has the core.
    torch.set_num_threads(1)
    try:
        with tempfile.TemporaryDirectory(prefix="gptft-") as folder:
            bench = Bench(Path(folder))
            for check in checks:
                results.append(run_check(check, bench))
                advance(results[-1])
    finally:
        torch.set_num_threads(threads)
    return results


def run_check(check: Check, bench: Bench) -> Result:
    """Measure one thing; what keeps it from being measured is a failure too."""
    started, found, reason = time.perf_counter(), None, ""
    try:
        with empty_cache(bench.folder):
            found = check.measure(bench)
    except GptftError as error:
        reason = str(error)
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
    passed = found is not None and found <= check.bound
    seconds = round(time.perf_counter() - started, 2)
    return Result(check.name, check.claim, found, check.bound, passed, seconds, reason)


def results_table(results: Sequence[Result]) -> Table:
    """Lay out results for a terminal; with the reason why something could not be measured."""
    from rich.table import Table
    from rich.text import Text

    table = Table("", "check", "what must be true", box=None)
    for column in ("difference", "bound", "seconds"):
        table.add_column(column, justify="right")
    for result in results:
        found = "not measured" if result.difference is None else f"{result.difference:.2g}"
        mark = Text("ok", "green") if result.passed else Text("FAILED", "bold red")
        claim = f"{result.claim}: {result.reason}" if result.reason else result.claim
        cells = map(Text, (result.name, claim, found, f"{result.bound:.2g}", f"{result.seconds:.1f}"))
        table.add_row(mark, *cells)
    return table
