"""What a model says of the rows of a split: generated answers, and the likelihood of the right ones."""

from __future__ import annotations

import random
from typing import Any

from rich.console import Console
from rich.progress import Progress

from gptft.data import Splits
from gptft.evaluation.scores import Predictions
from gptft.models.generation import generate_answers, generation_settings, prompt_positions
from gptft.models.loading import LoadedModel
from gptft.models.precision import best_device, resolve_dtype
from gptft.recipe.schema import Recipe
from gptft.tasks import TASKS, Prompt
from gptft.training.losses import dataset_losses


def predict(
    loaded: LoadedModel,
    recipe: Recipe,
    splits: Splits,
    split: str,
    *,
    generate: bool,
    likelihoods: bool,
    max_rows: int | None,
    console: Console,
    label: str,
) -> tuple[Predictions, list[Prompt]]:
    """Ask the model for answers and measure the likelihood of the references.

    Args:
        loaded: model and tokenizer; the model is moved to the best device.
        recipe: its task, lengths and generation settings are used.
        splits: rows that hold `split`.
        split: which of them.
        generate: whether answers are generated.
        likelihoods: whether losses are computed, in float32 so that perplexity does not depend on the hardware.
        max_rows: at most so many answers, drawn with a fixed seed.
        console: shows a progress bar on a terminal.
        label: what the bar says.

    Returns:
        The predictions, and the prompts in the order of the answers.
    """
    from transformers import set_seed

    model, tokenizer = loaded.model.to(best_device()), loaded.tokenizer
    task, rows = TASKS[recipe.task], getattr(splits, split)
    losses, counts, prompts, answers = [], [], [], []
    if likelihoods:
        with console.status(f"{label}: perplexity"):
            length = min(recipe.data.max_length or loaded.positions, loaded.positions)
            encoded, _ = task.prepare(rows, tokenizer, length, split, splits.report.splits[split].fingerprint)
            losses, counts = dataset_losses(model, encoded, tokenizer.pad_token_id)
    if generate:
        settings = generation_settings(model, recipe.evaluation.generation)
        prompts = task.prompts(rows, tokenizer, prompt_positions(model, settings))
        if max_rows and len(prompts) > max_rows:
            chosen = sorted(random.Random(0).sample(range(len(prompts)), max_rows))
            prompts = [prompts[index] for index in chosen]
        set_seed(recipe.training.get("seed", 42))
        with Progress(console=console, disable=not console.is_terminal, transient=True) as progress:
            bar = progress.add_task(f"{label}: answers", total=len(prompts))
            answers = generate_answers(
                model,
                tokenizer,
                [prompt.input_ids for prompt in prompts],
                settings,
                resolve_dtype(recipe.model.dtype),
                lambda rows: progress.advance(bar, rows),
            )
    return (
        Predictions(
            predictions=[answer.text for answer in answers],
            references=[prompt.references for prompt in prompts],
            stopped=[answer.stopped for answer in answers],
            negative_log_likelihoods=list(map(float, losses)),
            token_counts=list(map(int, counts)),
        ),
        prompts,
    )


def prediction_rows(
    tokenizer: Any, prompts: list[Prompt], predictions: Predictions, base: Predictions | None
) -> list[dict[str, Any]]:
    """The lines of predictions.jsonl: what was asked, answered and expected, and what the base answered."""
    rows = []
    for index, prompt in enumerate(prompts):
        row: dict[str, Any] = {
            "origin": prompt.origin,
            "prompt": tokenizer.decode(prompt.input_ids),
            "prediction": predictions.predictions[index],
            "references": prompt.references,
            "stopped": predictions.stopped[index],
        }
        if base:
            row["base_prediction"] = base.predictions[index]
        rows.append(row)
    return rows
