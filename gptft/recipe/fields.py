"""The keys of Hugging Face's classes, read from their source text: importing the classes would cost seconds.

A section that carries such fields (`training`, `generation`, `model.config`, `adapter`) is checked by a pydantic model
made from the class's annotations. What a class accepts but gptft decides itself is in `MANAGED`, with the reason.
"""

from __future__ import annotations

import ast
import re
import typing
from functools import cache
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, create_model

from gptft.recipe.class_source import (
    FieldSpec,
    dataclass_fields,
    definitions,
    documented,
    find_class,
    package_folder,
    plain,
)

_NO_PUBLISHING = "a training publishes nothing; publish the run's model folder when you have seen its scores"
_PRECISION = "set `model.dtype` instead"
_FROM_TOKENIZER = "it follows from the tokenizer"


def _each(names: str, value: Any) -> dict[str, Any]:
    return dict.fromkeys(names.split(), value)


_LIKE_GENERATED = "training only evaluates the loss; name scores under `evaluation.metrics`"
_LOGITS = "gptft already computes logits only where they are read"

# fmt: off
MANAGED: dict[str, dict[str, str]] = {
    "training": _each("do_train do_eval do_predict", "the recipe's data decide it")
    | _each("remove_unused_columns label_names length_column_name", "gptft makes the columns that the model takes")
    | _each("prediction_loss_only include_for_metrics batch_eval_metrics eval_do_concat_batches eval_use_gather_object",
            _LIKE_GENERATED)
    | _each("bf16 fp16 bf16_full_eval fp16_full_eval", _PRECISION)
    | _each("use_liger_kernel liger_kernel_config", _LOGITS)
    | _each("push_to_hub hub_token hub_private_repo hub_model_id hub_strategy hub_always_push hub_revision",
            _NO_PUBLISHING)
    | {
        "output_dir": "each run has a folder of its own under runs/",
        "resume_from_checkpoint": "`gptft finetune --resume` continues the newest checkpoint",
        "disable_tqdm": "gptft shows its own progress",
        "use_cache": "the cache makes rows that share documents attend across them",
        "local_rank": "the launcher sets it",
    },
    "evaluation.generation": _each("pad_token_id bos_token_id eos_token_id decoder_start_token_id", _FROM_TOKENIZER)
    | _each("return_dict_in_generate output_attentions output_hidden_states output_scores output_logits "
            "num_return_sequences", "one answer a prompt is read, and only its tokens")
    | _each("is_assistant continuous_batching_config transformers_version", "transformers sets it")
    | _each("low_memory penalty_alpha dola_layers diversity_penalty num_beam_groups constraints force_words_ids",
            "transformers 5 runs it only with remote code from the Hub"),
    "model.config": _each("pad_token_id bos_token_id eos_token_id", _FROM_TOKENIZER)
    | _each("id2label label2id problem_type", "the task decides it")
    | _each("transformers_version architectures return_dict output_hidden_states is_encoder_decoder",
            "transformers sets it")
    | {
        "vocab_size": "it follows from the tokenizer; `model.vocab_size` is the size of one trained on the data",
        "use_cache": "it is off in training and on in generation",
        "dtype": _PRECISION,
    },
    "adapter": _each("peft_type task_type base_model_name_or_path revision", "it follows from the base and the task")
    | _each("inference_mode auto_mapping peft_version runtime_config", "peft sets it"),
}
"""Fields that a recipe cannot set, with what decides them."""

REMOVED: dict[str, str] = {
    "evaluation_strategy": "use `eval_strategy`",
    "warmup_ratio": "use `warmup_steps`: below 1 it is a share of all steps (`warmup_steps: 0.1`)",
    "overwrite_output_dir": "leave it out: each run has a folder of its own",
    "logging_dir": "leave it out: a run's log is in its folder",
    "save_safetensors": "leave it out: safetensors is the only format",
    "no_cuda": "use `use_cpu`",
    "use_mps_device": "leave it out (`use_cpu: true` forbids accelerators)",
    "per_gpu_train_batch_size": "use `per_device_train_batch_size`",
    "per_gpu_eval_batch_size": "use `per_device_eval_batch_size`",
    "group_by_length": "use `train_sampling_strategy: group_by_length`",
    "adafactor": "use `optim: adafactor`",
    "include_inputs_for_metrics": "leave it out: name scores under `evaluation.metrics`",
    "include_tokens_per_second": "leave it out: progress and log show tokens per second",
    **_each("fp16_opt_level fp16_backend half_precision_backend", _PRECISION),
    **_each("use_ipex jit_mode_eval torchdynamo", "use `torch_compile`"),
    **_each("fsdp_min_num_params fsdp_transformer_layer_cls_to_wrap", "use `fsdp_config`"),
    **_each("dispatch_batches split_batches", "use `accelerator_config`"),
    **_each("push_to_hub_model_id push_to_hub_organization push_to_hub_token", _NO_PUBLISHING),
    **_each("tpu_num_cores tpu_metrics_debug past_index tp_size mp_parameters ray_scope use_legacy_prediction_loop",
            "leave it out"),
}
"""Arguments of older transformers that version 5 has no more, with what to write instead."""

_RANGES: dict[str, dict[str, Any]] = {
    **_each("per_device_train_batch_size per_device_eval_batch_size gradient_accumulation_steps save_total_limit "
            "max_new_tokens num_beams r n_layer n_head n_embd n_positions n_inner eval_accumulation_steps", {"ge": 1}),
    **_each("learning_rate num_train_epochs adam_epsilon temperature repetition_penalty lora_alpha layer_norm_epsilon "
            "logging_steps eval_steps save_steps", {"gt": 0}),
    **_each("weight_decay warmup_steps max_grad_norm seed data_seed dataloader_num_workers top_k min_new_tokens "
            "initializer_range eval_delay", {"ge": 0}),
    **_each("label_smoothing_factor lora_dropout resid_pdrop embd_pdrop attn_pdrop summary_first_dropout min_p",
            {"ge": 0, "le": 1}),
    **_each("adam_beta1 adam_beta2", {"ge": 0, "lt": 1}),
    "top_p": {"gt": 0, "le": 1},
}
# fmt: on


@cache
def adapter_types() -> dict[str, tuple[Path, str]]:
    """PEFT's adapters: name as in a recipe -> where its config class is imported, and the class's name."""
    found: dict[str, tuple[Path, str]] = {}
    for file in sorted((package_folder("peft") / "tuners").glob("*/__init__.py")):
        for call in re.findall(r"register_peft_method\(([^)]*)\)", file.read_text(encoding="utf-8")):
            name, class_name = (re.search(rf"{key}=\"?(\w+)", call) for key in ("name", "config_cls"))
            if name and class_name:
                found[name[1]] = (file, class_name[1])
    return found


@cache
def _generation_fields() -> dict[str, FieldSpec]:
    file = package_folder("transformers") / "generation" / "configuration_utils.py"
    located, text = find_class(file, "GenerationConfig"), str(definitions(file).get("GenerationConfig", ""))
    described = documented(ast.get_docstring(located[1]) or "") if located else {}
    constructor = text.partition("    def __init__")[2].partition("\n    def ")[0]
    fields: dict[str, FieldSpec] = {}
    for key in re.findall(r"self\.([a-z]\w*) = kwargs\.pop\(", constructor):
        kind, description = described.get(key, ("Any", ""))
        try:
            annotation = ast.parse(f"Optional[{kind}]", mode="eval").body
        except SyntaxError:
            annotation = None
        fields[key] = FieldSpec(annotation, None, description)
    return fields


def fields_of(section: str, kind: str = "") -> dict[str, FieldSpec] | None:
    """The fields that a section may set, by name, without those that gptft decides itself.

    Args:
        section: `training`, `evaluation.generation`, `model.config` or `adapter`.
        kind: the adapter's type, or the model type of a configuration (as in a config.json; default gpt2).

    Returns:
        None when the kind is unknown.
    """
    fields: dict[str, FieldSpec] = {}
    if section == "training":
        fields = dataclass_fields(package_folder("transformers") / "training_args.py", "TrainingArguments")
    elif section == "evaluation.generation":
        fields = _generation_fields()
    elif section == "adapter":
        fields = dataclass_fields(*adapter_types()[kind]) if kind in adapter_types() else {}
    elif re.fullmatch(r"\w*", kind):
        kind = kind or "gpt2"
        file = package_folder("transformers") / "models" / kind / f"configuration_{kind}.py"
        for name, text in definitions(file).items() if file.exists() else ():
            if re.search(rf"^    model_type = \"{kind}\"", str(text), re.MULTILINE):
                fields = dataclass_fields(file, name)
    return {name: spec for name, spec in fields.items() if name not in MANAGED[section]} or None


_TYPES: dict[str, Any] = {"bool": bool, "str": str, "dict": dict, "Dict": dict, "Any": Any, "list": list, "List": list,
                          "Sequence": list, "int": int, "float": float}  # fmt: skip


def _to_type(node: ast.expr | None, limits: dict[str, Any]) -> Any:
    """The Python type that an annotation means for YAML values; Any where it is not a plain one."""
    if isinstance(node, ast.Constant):
        if isinstance(node.value, str):
            return _to_type(ast.parse(node.value, mode="eval").body, limits)
        return None if node.value is None else Any
    if isinstance(node, ast.Name):
        kind = _TYPES.get(node.id, Any)
        if kind is float:
            return typing.Annotated[float, Field(allow_inf_nan=False, **limits)]
        return typing.Annotated[int, Field(**limits)] if kind is int else kind
    if isinstance(node, ast.BinOp):
        return _union([_to_type(part, limits) for part in (node.left, node.right)])
    if isinstance(node, ast.Subscript):
        name = getattr(node.value, "id", "")
        parts = list(node.slice.elts) if isinstance(node.slice, ast.Tuple) else [node.slice]
        if name == "Literal":
            values = tuple(plain(part) for part in parts)
            # PEFT writes families of names as `name_[number of iterations]`: then any text is let through.
            return str if any("[" in str(value) for value in values) else Literal[values]  # type: ignore[valid-type]
        if name in ("Optional", "Union"):
            return _union([_to_type(part, limits) for part in parts] + ([None] if name == "Optional" else []))
        if _TYPES.get(name) is list:
            return list[_to_type(parts[0], limits)]
        return _TYPES.get(name, Any)
    return Any


def _union(parts: list[Any]) -> Any:
    if Any in parts:
        return Any
    if any(typing.get_origin(part) is Literal for part in parts):
        parts = [part for part in parts if part is not str]
    return typing.Union[tuple(parts)]  # noqa: UP007 (built at run time)


@cache
def model_of(section: str, kind: str = "") -> type[BaseModel] | None:
    """A pydantic model that accepts what the section's class accepts; None when the kind is unknown."""
    fields = fields_of(section, kind)
    if fields is None:
        return None
    definitions: dict[str, Any] = {}
    for name, spec in fields.items():
        annotation = _to_type(spec.annotation, _RANGES.get(name, {}))
        if spec.choices:
            annotation = Literal[(*spec.choices, *([] if spec.default else [None]))]  # type: ignore[valid-type]
        information = Field(default=spec.default, alias=name, description=spec.description or None)
        definitions[f"field_{name}"] = (annotation, information)
    configuration = ConfigDict(strict=True, extra="forbid")
    return create_model(section.replace(".", "_"), __config__=configuration, **definitions)
