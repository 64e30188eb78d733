"""What can be learned: one module a task, all with the same small interface (`tasks.base.Task`)."""

from __future__ import annotations

from typing import Any

from gptft.errors import UserError
from gptft.models.classes import SETTINGS, Classes, is_sequence_classifier
from gptft.recipe.schema import Recipe
from gptft.recipe.templates import closing_words, prompt_template
from gptft.tasks.base import Preparation, Prompt, Task
from gptft.tasks.classification import Classification
from gptft.tasks.completion import Completion, PromptEncoder
from gptft.tasks.dialogue import Dialogue
from gptft.tasks.pretraining import Pretraining

TASKS: dict[str, type[Task]] = {task.name: task for task in (Dialogue, Pretraining, Classification, Completion)}


def make_task(recipe: Recipe, config: Any) -> Task:
    """The task of a recipe, recorded in the model's configuration, which holds the labels of a classification.

    Raises:
        UserError: the model has labels where the task has none, or none where it has.
    """
    if recipe.task != "classification" and is_sequence_classifier(config):
        raise UserError(f"The model has a head for labels and says nothing else: it cannot be used for {recipe.task}.")
    settings: dict[str, Any] = {"task": recipe.task}
    if recipe.task in ("classification", "completion"):
        settings |= {"prompt": prompt_template(recipe), "truncation_side": recipe.template.truncation_side}
    own = getattr(config, SETTINGS, {})
    labels = {"classes": own["classes"]} if recipe.task == "classification" and "classes" in own else {}
    setattr(config, SETTINGS, settings | labels)
    return recorded_task(config)


def recorded_task(config: Any) -> Task:
    """The task that a model was trained for, from its configuration alone.

    Raises:
        UserError: gptft did not train it, and it is no classifier.
    """
    settings = getattr(config, SETTINGS, {})
    name = settings.get("task", "classification")
    encoder = PromptEncoder(closing_words(settings.get("prompt", "")), settings.get("truncation_side", "left"))
    if name == "classification":
        return Classification(encoder, Classes.read_from(config))
    return Completion(encoder) if name == "completion" else TASKS[name]()


__all__ = [
    "TASKS",
    "Classification",
    "Completion",
    "Preparation",
    "Prompt",
    "PromptEncoder",
    "Task",
    "make_task",
    "recorded_task",
]
