"""The whole of an inspection, and the part of it that every fine-tuning begins with."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import Console

from gptft.inspection.examples import Example, look_at
from gptft.inspection.findings import Finding, share, standing
from gptft.inspection.lengths import Batches, Lengths, batches_of, length_findings, measure
from gptft.inspection.plan import MemoryPlan, Plan, make_plan, memory_findings, plan_findings, plan_memory
from gptft.inspection.rows import Scan, label_findings, row_findings, scan
from gptft.models.classes import SINGLE
from gptft.runs.folder import RUNS

if TYPE_CHECKING:
    from transformers import TrainingArguments

    from gptft.data import DataReport
    from gptft.inspection.duplicates import Duplicates
    from gptft.inspection.languages import Languages
    from gptft.inspection.probe import Probe
    from gptft.recipe import Recipe
    from gptft.training.preparation import Prepared

CHEAP_ROWS = 10_000
"""Of so many rows the texts are looked at before a fine-tuning; an inspection looks at all."""
_FEW_BYTES = 2.0
"""Bytes for each token below which a tokenizer was made for other text."""


@dataclass
class Basics:
    """What is known without looking for long."""

    scan: Scan
    lengths: dict[str, Lengths]
    batches: Batches
    plan: Plan
    examples: list[Example]
    prompts_compared: int
    findings: list[Finding]


def check(
    recipe: Recipe,
    prepared: Prepared,
    arguments: TrainingArguments,
    limit: int | None = CHEAP_ROWS,
    shown: int = 0,
    runs: Path = RUNS,
) -> Basics:
    """The checks that take seconds at most.

    Args:
        recipe: what is to be trained.
        prepared: its data and model; shapes are enough.
        arguments: of the training.
        limit: so many rows are looked at, spread over train; None: all.
        shown: how many examples to show.
        runs: the folder of the runs.
    """
    tokenizer, rows, task = prepared.loaded.tokenizer, prepared.splits.train, recipe.task
    assert rows is not None
    found = scan(rows, task, tokenizer.eos_token, limit)
    encoded = {"train": prepared.train, "validation": prepared.validation}
    lengths = {
        name: measure(split, prepared.preparations[name], tokenizer.eos_token_id)
        for name, split in encoded.items()
        if split is not None
    }
    batches = batches_of(lengths["train"], arguments)
    plan = make_plan(prepared.loaded.model, batches, arguments, runs)
    examples, wrong, compared = look_at(prepared, prepared.facts["max_length"], shown)
    findings = [*wrong, *data_findings(prepared.splits.report), *row_findings(found)]
    if task == "classification":
        section = recipe.classification
        single = section.problem_type == SINGLE
        if section.problem_type != "regression":
            findings += label_findings(found, section.class_weights is not None, single)
        findings += _unknown_labels(prepared)
    elif limit is None:
        tokens = lengths["train"].preparation.tokens
        if tokens and found.bytes < _FEW_BYTES * tokens:
            findings.append(
                Finding("foreign_tokenizer", f"a token stands for {found.bytes / tokens:.1f} bytes of text")
            )
    findings += length_findings(lengths, batches, task in ("dialogue", "completion"))
    findings += plan_findings(plan, recipe, arguments, len(prepared.train), prepared.validation is not None)
    return Basics(found, lengths, batches, plan, examples, compared, findings)


def data_findings(report: DataReport) -> list[Finding]:
    """What reading and cleaning have told."""
    findings = []
    for name, split in report.splits.items():
        for kind, count, words in (
            ("empty_rows", split.empties, "rows have no prompt or no answer, and were dropped"),
            ("control_characters", split.control_characters, "rows had control characters or byte-order marks"),
        ):
            if count:
                places = split.examples.get("empties" if kind == "empty_rows" else kind, [])
                findings.append(Finding(kind, f"{name}: {share(count, split.read)} {words}", places))
        if split.duplicates > 0.1 * split.read:
            words = f"{name}: {share(split.duplicates, split.read)} rows repeat an earlier one, and were dropped"
            findings.append(Finding("many_duplicates", words))
    for name, count in report.overlap.items():
        words = f"data.{name}: {count:,} of {report.splits[name].kept:,} rows are also in train"
        findings.append(Finding("held_out_in_train", words))
    return findings


def _unknown_labels(prepared: Prepared) -> list[Finding]:
    rows, classes = prepared.splits.test, getattr(prepared.task, "classes", None)
    if rows is None or classes is None or classes.problem_type == "regression":
        return []
    known = {*classes.names, classes.out_of_scope}
    unknown = {name for names in rows["targets"][:] for name in names} - known
    return [
        Finding("labels_not_in_train", f"test has labels that train has not: {', '.join(sorted(unknown)[:5])}")
    ] * bool(unknown)


@dataclass
class Inspection:
    """All that was found, for the terminal, a page, or a program."""

    recipe: Recipe
    report: DataReport
    columns: dict[str, list[str]]
    basics: Basics
    duplicates: Duplicates
    languages: dict[str, Languages]
    memory: MemoryPlan
    probe: Probe | None
    findings: list[Finding] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """As plain values."""
        from dataclasses import asdict

        return {
            "recipe": self.recipe.name,
            "task": self.recipe.task,
            "data": self.report.to_dict(),
            "columns": self.columns,
            "labels": dict(self.basics.scan.labels),
            "duplicates": asdict(self.duplicates),
            "languages": {name: dict(found.counts) for name, found in self.languages.items()},
            "examples": [example.to_dict() for example in self.basics.examples],
            "prompts_compared": self.basics.prompts_compared,
            "lengths": {name: found.to_dict() for name, found in self.basics.lengths.items()},
            "plan": self.basics.plan.to_dict(),
            "memory": self.memory.to_dict(),
            "probe": asdict(self.probe) if self.probe else None,
            "findings": [finding.to_dict() for finding in self.findings],
            "accepted": self.recipe.data.accept,
        }


def inspect(recipe: Recipe, *, with_probe: bool = False, shown: int = 2, console: Console | None = None) -> Inspection:
    """See what a model would see, without training it and without its weights.

    Args:
        recipe: a loaded recipe.
        with_probe: load the weights and measure the time of three steps.
        shown: how many examples to show token by token.
        console: where progress is shown (default: standard error).

    Raises:
        UserError: data or settings with which no fine-tuning would start either.
    """
    import psutil

    from gptft.inspection.duplicates import find_duplicates
    from gptft.inspection.languages import find_languages, language_findings
    from gptft.inspection.memory import StepSimulator
    from gptft.models.quiet import quiet_libraries
    from gptft.training.arguments import training_arguments
    from gptft.training.preparation import prepare
    from gptft.training.trainer import FineTuner  # noqa: F401 - what a training imports is in its memory

    console = console or Console(stderr=True)
    quiet_libraries()
    prepared = prepare(recipe, Console(quiet=True), shapes=True)
    arguments = training_arguments(recipe, RUNS / recipe.name, prepared.validation is not None)
    held = psutil.Process().memory_info().rss
    machine = held + psutil.virtual_memory().available
    with console.status("Looking at rows and examples"):
        basics = check(recipe, prepared, arguments, limit=None, shown=shown)
    with console.status("Predicting memory"):
        reads = _reads(recipe, prepared, basics.batches)
        simulator = StepSimulator(prepared.loaded.model, arguments, recipe.task == "classification")
        seen = basics.plan.steps * arguments.gradient_accumulation_steps
        memory = plan_memory(simulator, basics.batches, seen, reads, held, machine)
    measured = None
    if with_probe:
        from gptft.inspection.probe import probe

        with console.status("Measuring three steps"):
            measured = probe(recipe, basics.batches, arguments.gradient_accumulation_steps, basics.plan.steps)
    splits = {name: getattr(prepared.splits, name) for name in prepared.splits.report.splits}
    with console.status("Looking for near-duplicates"):
        duplicates = find_duplicates(splits, recipe.task)
    with console.status("Telling languages"):
        languages = {name: find_languages(rows, recipe.task) for name, rows in splits.items()}
    found = [*basics.findings, *memory_findings(memory), *language_findings(languages)]
    found += duplicate_findings(duplicates, prepared.splits.report)
    columns = source_columns(recipe)
    report = prepared.splits.report
    return Inspection(recipe, report, columns, basics, duplicates, languages, memory, measured, standing(found, recipe))


def _reads(recipe: Recipe, prepared: Prepared, batches: Batches) -> np.ndarray:
    """Positions of each batch whose logits are computed."""
    if recipe.task != "classification":
        return batches.supervised
    if not prepared.loaded.model.can_generate():
        return np.zeros(len(batches.rows), dtype=np.int64)
    rows = np.array([len(batch) for batch in batches.rows])
    return batches.real if recipe.classification.language_model_weight else rows


def duplicate_findings(found: Duplicates, report: DataReport) -> list[Finding]:
    """Near-duplicates that are too many, and of held-out rows all that are no exact ones."""
    findings = []
    for name, count in found.counts.items():
        rows = found.rows[name]
        places = [f"{near.origin} and {near.other}" for near in found.examples if near.split == name]
        if name == "train":
            if count > 0.1 * rows:
                words = f"{share(count, rows)} rows of train say nearly the same as an earlier one"
                findings.append(Finding("near_duplicates", words, places))
        elif count - report.overlap.get(name, 0) > 0.02 * rows:
            words = f"data.{name}: {share(count, rows)} rows say nearly the same as one of train"
            findings.append(Finding("held_out_near_train", words, places))
    return findings


def source_columns(recipe: Recipe) -> dict[str, list[str]]:
    """The columns of the first row of each source on this disk, by its path."""
    from gptft.data.readers import read_file
    from gptft.recipe.sources import find_files

    found: dict[str, list[str]] = {}
    for name in ("train", "validation", "test"):
        sources = getattr(recipe.data, name)
        for source in sources if isinstance(sources, list) else []:
            for file in (find_files(source.path, recipe.folder) or [])[:1]:
                for _, row in islice(read_file(file), 1):
                    found[source.path] = list(row) if isinstance(row, dict) else []
    return found
