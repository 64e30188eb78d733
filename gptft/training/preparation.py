"""Data and model, ready to train: read, checked, encoded, and said line by line."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.panel import Panel

from gptft.errors import UserError
from gptft.recipe import Recipe

if TYPE_CHECKING:
    from datasets import Dataset

    from gptft.data import Splits
    from gptft.models.loading import LoadedModel
    from gptft.tasks import Preparation, Task


@dataclass(frozen=True)
class Prepared:
    """Data and model, ready to train."""

    loaded: LoadedModel
    train: Dataset
    validation: Dataset | None
    validation_rows: Dataset | None
    """Before they were encoded."""
    task: Task
    facts: dict[str, Any]
    """What the manifest says of them."""
    splits: Splits
    preparations: dict[str, Preparation]
    """What became of train and validation when they were encoded."""


def prepare(
    recipe: Recipe,
    console: Console,
    checkpoint: Path | None = None,
    shapes: bool = False,
) -> Prepared:
    """Read the data, load the model, encode: all that comes before the first step, said line by line.

    Args:
        recipe: what to prepare.
        console: where it is said.
        checkpoint: what is being resumed.
        shapes: no weights are read: the model is made on the device `meta`, where tensors are but shapes.
    """
    from transformers import set_seed

    from gptft.data import load_splits
    from gptft.models.loading import load_for_training
    from gptft.runs.manifest import hardware, versions
    from gptft.tasks import make_task
    from gptft.tasks.classification import classes_of

    with console.status("Reading the data"):
        # The test split too: rows that it shares with train are told before anything is trained on them.
        splits = load_splits(recipe)
    console.print(splits.report.summary(), highlight=False, markup=False, soft_wrap=True)
    train_rows = splits.train
    if train_rows is None:
        raise UserError("data.train: there are no rows to train on.")
    seed = recipe.training.get("seed", 42)
    set_seed(seed)
    labels = partial(classes_of, recipe.classification, train_rows) if recipe.task == "classification" else None
    with console.status("Loading the model"):
        loaded = load_for_training(recipe, lambda: _texts(train_rows), checkpoint, labels, shapes)
    _announce(recipe, loaded, console)
    task = make_task(recipe, loaded.model.config)
    if not shapes:
        task.check_model(loaded.model)
    max_length = recipe.data.max_length or loaded.positions
    encoded: dict[str, Any] = {}
    preparations: dict[str, Preparation] = {}
    for name, rows in (("train", train_rows), ("validation", splits.validation)):
        if rows is None:
            continue
        fingerprint = splits.report.splits[name].fingerprint
        with console.status(f"Encoding {name}"):
            encoded[name], preparations[name] = task.prepare(rows, loaded.tokenizer, max_length, name, fingerprint)
        console.print(f"{name}: {preparations[name].summary()}", highlight=False, markup=False)
    facts = {
        "name": recipe.name,
        "task": recipe.task,
        "data": splits.report.to_dict(),
        "examples": {name: preparation.to_dict() for name, preparation in preparations.items()},
        "seed": seed,
        "max_length": max_length,
        "versions": versions(),
        "hardware": hardware(),
    }
    if recipe.task == "classification":
        facts["labels"] = list(loaded.model.config.id2label.values())
    return Prepared(
        loaded, encoded["train"], encoded.get("validation"), splits.validation, task, facts, splits, preparations
    )


def check_findings(recipe: Recipe, prepared: Prepared, runs: Path, console: Console) -> None:
    """Print what `gptft inspect` would warn of and can be seen at once, and stop at its errors."""
    from gptft.inspection.findings import refuse, standing
    from gptft.inspection.inspect import check
    from gptft.training.arguments import training_arguments

    arguments = training_arguments(recipe, runs, prepared.validation is not None)
    findings = standing(check(recipe, prepared, arguments, runs=runs).findings, recipe)
    refuse(findings)
    for finding in findings:
        if finding.level == "warning":
            warn(console, f"{finding.name}: {finding.sentences()}")


def _texts(rows: Any) -> Any:
    for row in rows:
        turns = row["messages"] or []
        yield from row["targets"] or []
        # The words for roles are among what the tokenizer should know.
        yield row["text"] or "\n".join(f"{turn['role'].capitalize()}:\n{turn['content']}" for turn in turns)


def _announce(recipe: Recipe, loaded: Any, console: Console) -> None:
    base = loaded.base
    if base and base.fallback_reason:
        console.print(
            Panel(
                f"[bold]{escape(base.requested)}[/bold] is not in the cache, and the Hugging Face Hub could not be "
                f"reached\n({escape(base.fallback_reason)}).\n"
                "Starting from the [bold]starter[/bold], the small GPT-2 that ships with gptft, as the recipe's "
                "`fallback` allows.\nThe result will be weaker. `--no-fallback` makes this an error.",
                title="Another base is used",
                border_style="yellow",
            )
        )
    if recipe.model.trust_remote_code:
        warn(console, f"model.trust_remote_code: Python code that comes with {base.name if base else 'it'} is run.")
    total = sum(parameter.numel() for parameter in loaded.model.parameters())
    trained = sum(parameter.numel() for parameter in loaded.model.parameters() if parameter.requires_grad)
    share = f", {trained:,} of them trained ({recipe.adapter.type})" if recipe.adapter else ""
    line = f"model: {base.name if base else 'from scratch'}, {total:,} parameters{share}"
    console.print(line, highlight=False, markup=False, soft_wrap=True)


def base_facts(loaded: Any) -> dict[str, Any]:
    """What the manifest says of the model that is started from."""
    if loaded.base is None:
        return {"requested": None, "used": None}
    return {
        "requested": loaded.base.requested,
        "used": loaded.base.name,
        "revision": loaded.base.revision,
        "fallback_reason": loaded.base.fallback_reason,
    }


def warn(console: Console, message: str) -> None:
    """Say what may be amiss."""
    console.print(f"[yellow]Warning:[/yellow] {escape(message)}", highlight=False, soft_wrap=True)
