"""What a model says of the rows of a split: answers, labels, ranks, and the likelihood of the right ones."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import Progress

from gptft.data import Splits
from gptft.files import write_jsonl_atomically
from gptft.metrics.predictions import Predictions
from gptft.models.classes import NUMBER, Classes
from gptft.models.generation import generate_answers, generation_settings, prompt_positions
from gptft.models.loading import LoadedModel
from gptft.models.precision import best_device, resolve_dtype
from gptft.recipe.schema import Recipe
from gptft.tasks import Classification, Completion, Prompt, Task
from gptft.training.answers import sample_prompts
from gptft.training.losses import dataset_class_logits, dataset_losses
from gptft.training.objectives import class_predictions

ROWS = ("predictions", "references", "stopped", "confidences", "correct", "ranks")
"""The fields of Predictions with one entry for each answer; the others have one for each example."""
EXAMPLES = ("negative_log_likelihoods", "token_counts", "byte_counts")


def predict(
    loaded: LoadedModel,
    task: Task,
    recipe: Recipe,
    splits: Splits,
    split: str,
    *,
    needs: Collection[str],
    max_rows: int | None,
    console: Console,
    label: str,
) -> tuple[Predictions, list[Prompt]]:
    """Ask the model for answers and measure the likelihood of the references.

    Args:
        loaded: model and tokenizer; the model is moved to the best device.
        task: the recipe's.
        recipe: its lengths and generation settings are used.
        splits: rows that hold `split`, and train where candidates are ranked.
        split: which of them.
        needs: what the metrics need (see `gptft.metrics.catalogue`): only that is computed. Likelihoods, labels and
            ranks are computed in float32, so that they do not depend on the hardware.
        max_rows: at most so many answers and ranks, drawn with a fixed seed.
        console: shows a progress bar on a terminal.
        label: what the bar says.

    Returns:
        The predictions, and the prompts in the order of the answers.
    """
    from transformers import set_seed

    model, tokenizer = loaded.model.to(best_device()), loaded.tokenizer
    rows, found = getattr(splits, split), dict[str, Any]()
    length = min(recipe.data.max_length or loaded.positions, loaded.positions)
    if isinstance(task, Classification):
        with console.status(f"{label}: labels"):
            return _labels(loaded, task, rows, length, max_rows)
    prompts: list[Prompt] = []
    if "likelihoods" in needs:
        with console.status(f"{label}: perplexity"):
            encoded, _ = task.prepare(rows, tokenizer, length, split, splits.report.splits[split].fingerprint)
            losses, counts = dataset_losses(model, encoded, tokenizer.pad_token_id)
            found["negative_log_likelihoods"], found["token_counts"] = losses.tolist(), counts.tolist()
            found["byte_counts"] = supervised_bytes(encoded, tokenizer)
    if not set(needs) & {"answers", "labels", "ranks"}:
        return Predictions(**found), prompts
    settings = generation_settings(model, recipe.evaluation.generation)
    prompts = sample_prompts(task.prompts(rows, tokenizer, prompt_positions(model, settings)), max_rows)
    found["references"] = [prompt.references for prompt in prompts]
    with Progress(console=console, disable=not console.is_terminal, transient=True) as progress:
        if "ranks" in needs:
            from gptft.evaluation.ranking import candidate_tokens, rank_references

            assert isinstance(task, Completion) and splits.train is not None
            bar = progress.add_task(f"{label}: ranks", total=len(prompts))
            candidates = candidate_tokens(tokenizer, splits.train)
            found["ranks"] = rank_references(model, prompts, candidates, lambda count: progress.advance(bar, count))
        if set(needs) & {"answers", "labels"}:
            set_seed(recipe.training.get("seed", 42))
            bar = progress.add_task(f"{label}: answers", total=len(prompts))
            answers = generate_answers(
                model,
                tokenizer,
                [prompt.input_ids for prompt in prompts],
                settings,
                resolve_dtype(recipe.model.dtype),
                lambda count: progress.advance(bar, count),
            )
            found["predictions"] = [answer.text for answer in answers]
            found["stopped"] = [answer.stopped for answer in answers]
    return Predictions(**found), prompts


def _labels(
    loaded: LoadedModel, task: Classification, rows: Any, length: int, max_rows: int | None
) -> tuple[Predictions, list[Prompt]]:
    ids = task.encoder.prompts(loaded.tokenizer, rows["text"][:], length)
    columns = zip(rows["origin"][:], ids, rows["targets"][:], strict=True)
    prompts = sample_prompts([Prompt(*row) for row in columns], max_rows)
    targets = [prompt.references for prompt in prompts]
    references = [float(right[0]) for right in targets] if task.classes.problem_type == NUMBER else targets
    logits = label_logits(loaded, task.classes, [prompt.input_ids for prompt in prompts])
    return class_predictions(task.classes, logits, references), prompts


def label_logits(loaded: LoadedModel, classes: Classes, prompts: Sequence[Sequence[int]]) -> torch.Tensor:
    """Logits of the labels after each prompt, (prompts, classes)."""
    from datasets import Dataset

    columns = {
        "input_ids": [list(prompt) for prompt in prompts],
        "length": [len(prompt) for prompt in prompts],
        "labels": [[0.0] * len(classes.names)] * len(prompts),
    }
    dataset = Dataset.from_dict(columns)
    return torch.from_numpy(dataset_class_logits(loaded.model, dataset, classes, loaded.tokenizer.pad_token_id))


def supervised_bytes(encoded: Any, tokenizer: Any) -> list[int]:
    """Bytes (UTF-8) of the supervised text of each encoded row; special tokens are no text.

    Of a byte-level tokenizer, as GPT-2's is, each character of a token stands for one byte; of another one, tokens are
    decoded one by one.
    """
    import tokenizers

    backend = getattr(tokenizer, "backend_tokenizer", None)
    byte_level = backend is not None and isinstance(backend.decoder, tokenizers.decoders.ByteLevel)
    special = set(tokenizer.all_special_ids)
    vocabulary = range(len(tokenizer))
    pieces = tokenizer.convert_ids_to_tokens(list(vocabulary))
    sizes = [
        0 if index in special else len(pieces[index] if byte_level else tokenizer.decode([index]).encode())
        for index in vocabulary
    ]
    return [sum(sizes[token] for token in row if token >= 0) for row in encoded["labels"][:]]


def prediction_rows(
    tokenizer: Any, prompts: list[Prompt], predictions: Predictions, base: Predictions | None
) -> list[dict[str, Any]]:
    """The lines of predictions.jsonl: what was asked, answered and expected; what the base answered as `base_...`."""
    rows = []
    for index, prompt in enumerate(prompts):
        row = {"origin": prompt.origin, "prompt": tokenizer.decode(prompt.input_ids)}
        rows.append(row | _entries(predictions, ROWS, index) | (_entries(base, ROWS, index, "base_") if base else {}))
    return rows


def _entries(predictions: Predictions, names: Sequence[str], index: int, prefix: str = "") -> dict[str, Any]:
    columns = {name: getattr(predictions, name) for name in names if not (prefix and name == "references")}
    return {prefix + SINGULAR[name]: column[index] for name, column in columns.items() if column}


SINGULAR = {name: name if name in ("references", "stopped", "correct") else name[:-1] for name in ROWS + EXAMPLES}
"""The names of the fields in a line about one row."""


def save_predictions(
    folder: Path, tokenizer: Any, prompts: list[Prompt], predictions: Predictions, base: Predictions | None
) -> None:
    """Write predictions.jsonl and likelihoods.jsonl, whichever there is something for."""
    if prompts:
        rows = prediction_rows(tokenizer, prompts, predictions, base)
        write_jsonl_atomically(folder / "predictions.jsonl", rows)
    if predictions.token_counts:
        lines = [
            _entries(predictions, EXAMPLES, index) | (_entries(base, EXAMPLES, index, "base_") if base else {})
            for index in range(len(predictions.token_counts))
        ]
        write_jsonl_atomically(folder / "likelihoods.jsonl", lines)


def read_predictions(folder: Path, prefix: str = "") -> tuple[Predictions, list[str]]:
    """The predictions that an evaluation wrote (with the prefix `base_`: the base's), and the origin of each answer.

    Raises:
        FileNotFoundError: there are none.
    """
    columns: dict[str, Any] = {}
    origins: list[str] = []
    files = [file for name in ("predictions", "likelihoods") if (file := folder / f"{name}.jsonl").is_file()]
    if not files:
        raise FileNotFoundError(folder)
    for file in files:
        # Not by splitlines, which takes more for the end of a line than JSON lines do.
        for row in map(json.loads, file.open(encoding="utf-8")):
            origins += [row["origin"]] if "origin" in row else []
            for name in (field.name for field in fields(Predictions)):
                # Of references, and of what is counted in them, there is one for both.
                key = SINGULAR.get(name, "")
                key = prefix + key if prefix + key in row or key != "references" else key
                if key in row:
                    columns.setdefault(name, []).append(row[key])
    return Predictions(**columns), origins
