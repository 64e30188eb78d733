"""PEFT adapters by name, with targets that are right for GPT-2."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

from gptft.errors import GptftError, UserError
from gptft.files import write_json_atomically
from gptft.models.bases import loading_errors
from gptft.recipe.schema import AdapterSection

MERGED_DIFFERENCE = 0.01
"""Largest change of a logit by merging, as a share of the largest logit. In float32 it is a thousandth of this."""


def name_base(folder: Path, hub_id: str, revision: str | None) -> None:
    """Write into a saved adapter what its base is called on the Hub, in place of the folder of this machine's cache.

    Not before it is saved: PEFT would then ask the Hub for the base's configuration at each checkpoint.
    """
    file = folder / "adapter_config.json"
    settings = json.loads(file.read_text(encoding="utf-8"))
    write_json_atomically(file, {**settings, "base_model_name_or_path": hub_id, "revision": revision})


def add_adapter(model: Any, section: AdapterSection) -> Any:
    """Wrap `model` in the PEFT adapter that the recipe names; only the adapter is then trained.

    Where the recipe names no `target_modules`, every linear layer of the blocks is adapted. GPT-2's are Conv1D, which
    hold their weights transposed: `fan_in_fan_out` says so to PEFT, whose own default adapts `c_attn` alone.

    Raises:
        UserError: a setting that PEFT refuses, or an adapter that changes the length of the input or cannot be merged.
    """
    from peft import get_peft_config, get_peft_model
    from peft.tuners.tuners_utils import BaseTunerLayer
    from transformers.pytorch_utils import Conv1D

    conv1d = {name.rpartition(".")[2] for name, module in model.named_modules() if isinstance(module, Conv1D)}
    # Of a classifier, PEFT trains and keeps the new head too.
    task_type = "CAUSAL_LM" if model.can_generate() else "SEQ_CLS"
    settings = {"peft_type": section.type.upper(), "task_type": task_type, **section.settings}
    with loading_errors(f"adapter {section.type}"):
        config: Any = get_peft_config(settings)
    if config.is_prompt_learning:
        raise UserError(
            f"adapter.type: {section.type} puts learned tokens before the input, which gptft does not train. "
            "Use one that adapts weights, such as lora."
        )
    known = {field.name for field in fields(config)}
    # PEFT picks the right feed-forward layers for adapters that tell these apart, IA3 among them.
    if "target_modules" in known and not config.target_modules and "feedforward_modules" not in known:
        config.target_modules = sorted(conv1d) or "all-linear"
    if conv1d and "fan_in_fan_out" in known and "fan_in_fan_out" not in section.settings:
        config.fan_in_fan_out = True
    shared = shared_embeddings(model)
    with loading_errors(f"adapter {section.type}"):
        adapted = get_peft_model(model, config)
    layers = [(name, layer) for name, layer in adapted.named_modules() if isinstance(layer, BaseTunerLayer)]
    bases = {name.rpartition(".")[2]: getattr(layer.get_base_layer(), "weight", None) for name, layer in layers}
    on_shared = [name for name, weight in bases.items() if shared is not None and weight is shared]
    if on_shared:
        raise UserError(
            f"adapter.target_modules: {', '.join(on_shared)}: this model's head and embeddings are one weight, so what "
            "is learned for one would be merged into both. Leave it out, or train it whole: "
            "`modules_to_save: [lm_head]`."
        )
    if not hasattr(adapted.base_model, "merge_and_unload"):
        raise UserError(f"adapter.type: {section.type} cannot be merged into the model, which a run's model/ needs.")
    return adapted


def shared_embeddings(model: Any) -> Any:
    """The weight that a model's input embeddings and head share (tied embeddings), or None."""
    inputs, outputs = model.get_input_embeddings(), model.get_output_embeddings()
    return inputs.weight if outputs is not None and inputs.weight is outputs.weight else None


def merge_adapter(adapted: Any) -> Any:
    """Merge a PEFT model's adapter into the weights, and see that the model says the same as before.

    Raises:
        GptftError: it does not, as where an adapter was put on embeddings that the head shares.
    """
    from gptft.models.logits import text_logits

    ids = range(8)
    before = text_logits(adapted.eval(), ids)
    merged = adapted.merge_and_unload()
    difference, largest = (text_logits(merged, ids) - before).abs().max().item(), before.abs().max().item()
    if not difference <= MERGED_DIFFERENCE * largest:
        raise GptftError(
            f"The adapter cannot be merged into its base: the logits would change by up to {difference:.2g}. It is "
            "whole where it was saved: load it with PEFT, unmerged."
        )
    return merged
