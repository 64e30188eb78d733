"""What is minimised, and what is measured on validation rows: of language, or of labels."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import torch
from rich.console import Console
from torch import Tensor
from torch.nn import functional

from gptft.metrics.catalogue import expand, parse_metric
from gptft.metrics.predictions import Predictions, score_values
from gptft.models.classes import NUMBER, SEVERAL, Classes, class_weights
from gptft.models.logits import class_logits, supervised_loss_sum
from gptft.tasks import Classification
from gptft.training.answers import AnswerScores
from gptft.training.batching import ClassCollator, Collator
from gptft.training.losses import dataset_class_logits, dataset_losses

if TYPE_CHECKING:
    from gptft.recipe.schema import Recipe
    from gptft.training.preparation import Prepared


class Objective(Protocol):
    """Batches, their loss, and the measures of an evaluation."""

    collate: Callable[[list[dict[str, Any]]], dict[str, Any]]

    def loss_sum(self, model: Any, batch: dict[str, Any], label_smoothing: float) -> Tensor:
        """The loss summed over what the step's mean is taken over: supervised tokens, or labels."""
        ...

    def evaluate(self, model: Any, dataset: Any) -> dict[str, float]:
        """Loss and scores of encoded rows, by name."""
        ...


class LanguageObjective:
    """Cross-entropy of supervised tokens. `answers` scores generated answers at each evaluation, where it is given."""

    def __init__(self, pad_token_id: int, answers: Callable[[Any], dict[str, float]] | None = None) -> None:
        self.collate = Collator(pad_token_id)
        self.answers = answers

    def loss_sum(self, model: Any, batch: dict[str, Any], label_smoothing: float) -> Tensor:
        """Sum over the batch's supervised tokens."""
        return supervised_loss_sum(model, batch, label_smoothing)

    def evaluate(self, model: Any, dataset: Any) -> dict[str, float]:
        """Loss (mean over supervised tokens), perplexity, and the scores of answers."""
        losses, counts = dataset_losses(model, dataset, self.collate.pad_token_id)
        loss = float(losses.sum() / counts.sum())
        scores = {"loss": loss, "perplexity": math.exp(min(loss, 700.0))}
        return scores | (self.answers(model) if self.answers else {})


@dataclass
class ClassObjective:
    """Cross-entropy of labels, binary cross-entropy of each of several, or squared error of a number."""

    classes: Classes
    pad_token_id: int
    metrics: list[str]
    weights: Tensor | None = None
    language_model_weight: float = 0.0

    def __post_init__(self) -> None:
        self.collate = ClassCollator(self.pad_token_id, self.classes.problem_type)

    def loss_sum(self, model: Any, batch: dict[str, Any], label_smoothing: float) -> Tensor:
        """Sum over the batch's rows (of several labels: over rows and labels)."""
        logits, text = class_logits(model, batch, self.classes.token_ids, with_text=self.language_model_weight > 0)
        loss = self._label_losses(logits.float(), batch["labels"], label_smoothing).sum()
        return loss if text is None else loss + self.language_model_weight * text.sum()

    def _label_losses(self, logits: Tensor, labels: Tensor, label_smoothing: float = 0.0) -> Tensor:
        if self.classes.problem_type == NUMBER:
            return functional.mse_loss(logits[:, 0], labels, reduction="none")
        weights = None if self.weights is None else self.weights.to(logits.device)
        if self.classes.problem_type == SEVERAL:
            return functional.binary_cross_entropy_with_logits(logits, labels, weights, reduction="none")
        return functional.cross_entropy(logits, labels, weights, reduction="none", label_smoothing=label_smoothing)

    def evaluate(self, model: Any, dataset: Any) -> dict[str, float]:
        """Loss (mean over labels, as in training but without smoothing), and the recipe's scores."""
        logits = torch.from_numpy(dataset_class_logits(model, dataset, self.classes, self.pad_token_id))
        labels = ClassCollator.labels(dataset["labels"][:], self.classes.problem_type)
        loss = float(self._label_losses(logits, labels).mean())
        said = class_predictions(self.classes, logits, self.classes_to_names(labels))
        return {"loss": loss, **score_values(self.metrics, said)}

    def classes_to_names(self, labels: Tensor) -> list[list[str]] | list[float]:
        """Encoded labels as rows of names, or as numbers."""
        if self.classes.problem_type == NUMBER:
            return labels.tolist()
        if self.classes.problem_type == SEVERAL:
            return [[self.classes.names[index] for index in row.nonzero()[:, 0].tolist()] for row in labels]
        return [[self.classes.names[index]] for index in labels.tolist()]


def class_predictions(classes: Classes, logits: Tensor, references: list[list[str]] | list[float]) -> Predictions:
    """Logits (rows, classes) and the right labels as what metrics read.

    Args:
        classes: the labels.
        logits: in float32.
        references: the right labels of each row, or its number.
    """
    chosen = [classes.choose(row) for row in classes.probabilities(logits).tolist()]
    answers: list[Any] = [answer for answer, _ in chosen]
    right: list[bool] = []
    if classes.problem_type != NUMBER:
        pairs = zip(answers, references, strict=True)
        right = [sorted(a) == sorted(b) if isinstance(a, list) else [a] == b for a, b in pairs]  # type: ignore[arg-type]
    return Predictions(
        predictions=answers,
        references=list(references),
        confidences=[sure for _, sure in chosen],
        correct=right,
    )


def objective_of(recipe: Recipe, prepared: Prepared, dtype: torch.dtype, console: Console) -> Objective:
    """What the recipe's task minimises, and what is measured at each evaluation; `dtype`: precision of generation."""
    task, evaluation, pad = prepared.task, recipe.evaluation, prepared.loaded.tokenizer.pad_token_id

    def measured(*needs: str) -> list[str]:
        names = expand(evaluation.metrics)
        return [name for name in names if (known := parse_metric(name).known) and known.needs in needs]

    if isinstance(task, Classification):
        section = recipe.classification
        weights = class_weights(section.class_weights, task.counts(prepared.train), task.classes.names)
        metrics = measured("labels", "confidences", "numbers")
        return ClassObjective(task.classes, pad, metrics, weights, section.language_model_weight)
    answers = None
    if evaluation.during_training and prepared.validation_rows is not None:
        answers = AnswerScores(
            task,
            prepared.validation_rows,
            prepared.loaded.tokenizer,
            evaluation.generation,
            measured("answers", "labels"),
            evaluation.during_training,
            dtype,
            console,
        )
    return LanguageObjective(pad, answers)
