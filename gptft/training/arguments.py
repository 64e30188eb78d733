"""A recipe's `training:` section to `transformers.TrainingArguments`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from gptft.errors import UserError
from gptft.metrics import load_metric
from gptft.models.precision import resolve_dtype

if TYPE_CHECKING:
    from transformers import TrainingArguments

    from gptft.recipe.schema import Recipe

DEFAULTS: dict[str, Any] = {
    # Rows of like length share a batch, so that little is computed on padding.
    "train_sampling_strategy": "group_by_length",
    # A checkpoint an epoch to resume from, the newest two kept.
    "save_strategy": "epoch",
    "save_total_limit": 2,
    "logging_steps": 10,
    "logging_first_step": True,
    # A loss that is not a number ends up in the log as such, not left out of the mean.
    "logging_nan_inf_filter": False,
    # All weights take part in each step; to look for those that do not costs time.
    "ddp_find_unused_parameters": False,
    # gptft shows progress itself.
    "disable_tqdm": True,
}
"""Where gptft's defaults differ from those of TrainingArguments; the reference page gives the reasons."""


AUTO = "auto"
DEFAULT_BATCH_SIZE = 8
"""That of TrainingArguments: a batch size that is measured leaves the step as large as if nothing were said."""


def training_arguments(recipe: Recipe, run: Path, has_validation: bool) -> TrainingArguments:
    """The arguments that a recipe stands for, with checkpoints in `run`.

    Args:
        recipe: its `training` keys are those of TrainingArguments; its `model.dtype` chooses the precision.
        run: the run folder.
        has_validation: whether there are validation rows to measure during training.

    Raises:
        UserError: what transformers refuses, several processes or GPUs, `eval_on_start` without validation.
    """
    from transformers import TrainingArguments
    from transformers.integrations import get_reporting_integration_callbacks

    settings = {**DEFAULTS, **recipe.training, "output_dir": str(run / "checkpoints"), "label_names": ["labels"]}
    settings["remove_unused_columns"] = False
    settings["restore_callback_states_from_checkpoint"] = True  # how much patience is left
    if recipe.data.streaming and "save_strategy" not in recipe.training:
        settings["save_strategy"] = "steps"  # a stream has no epochs
    if settings.get("per_device_train_batch_size") == AUTO:
        settings["per_device_train_batch_size"] = DEFAULT_BATCH_SIZE
    if "eval_strategy" not in settings:
        # To save the best is no rhythm to evaluate in.
        rhythm = "epoch" if settings["save_strategy"] == "best" else settings["save_strategy"]
        settings["eval_strategy"] = rhythm if has_validation else "no"
    if settings.get("eval_on_start") and not has_validation:
        raise UserError("training.eval_on_start is true, but there is no data.validation to evaluate on")
    if recipe.evaluation.early_stopping_patience:
        settings = {"metric_for_best_model": "loss", "load_best_model_at_end": True, **settings}
    if settings.get("greater_is_better") is None:
        # TrainingArguments would take all but a loss for better when higher, perplexity among them.
        settings["greater_is_better"] = higher_is_better(settings.get("metric_for_best_model"))
    if "dataloader_pin_memory" not in settings:
        settings["dataloader_pin_memory"] = torch.cuda.is_available()
    dtype = _precision(recipe.model.dtype, bool(settings.get("use_cpu")))
    if not torch.accelerator.is_available():
        # TrainingArguments refuses bfloat16 on a CPU that it was not told to use, also where there is nothing else.
        settings["use_cpu"] = True
    settings |= {"bf16": dtype is torch.bfloat16, "fp16": dtype is torch.float16}
    # Trackers know the run by the name of its folder.
    settings.setdefault("run_name", run.name)
    try:
        arguments = TrainingArguments(**settings)
        get_reporting_integration_callbacks(arguments.report_to)  # which refuses a name that it does not know
    except (ValueError, TypeError, ImportError) as error:
        raise UserError(f"training: {error}") from error
    if arguments.n_gpu > 1:
        raise UserError(
            f"{arguments.n_gpu} GPUs are visible to one process. Train on all of them: --launch {arguments.n_gpu}; or "
            "choose one: CUDA_VISIBLE_DEVICES=0"
        )
    if arguments.fsdp and arguments.world_size == 1:
        raise UserError("training.fsdp spreads the weights over several processes: add --launch N")
    if arguments.world_size > 1 and recipe.training.get("per_device_train_batch_size") == AUTO:
        raise UserError("training.per_device_train_batch_size: auto measures one process; with several give a number")
    return arguments
    return arguments


def higher_is_better(metric: str | None) -> bool:
    """Whether more is better of what is measured in training (nothing: of the loss)."""
    name = (metric or "loss").removeprefix("eval_")
    return name != "loss" and bool(getattr(load_metric(name), "higher_is_better", False))


def _precision(name: str, use_cpu: bool) -> torch.dtype:
    # What `auto` resolves to beside a GPU is what that GPU does fast, and says nothing of the CPU.
    return resolve_dtype("float32" if name == "auto" and use_cpu and torch.cuda.is_available() else name)
