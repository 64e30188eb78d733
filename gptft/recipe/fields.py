"""The keys of Hugging Face's classes: which a recipe may set, with which types and ranges.

A section that carries such fields (`training`, `evaluation.generation`, `model.config`, `adapter`) is checked by a
pydantic model made from the class's annotations. What a class accepts but gptft decides itself is in `MANAGED`.
"""

from __future__ import annotations

import re
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, create_model

from gptft.recipe.class_source import FieldSpec, annotated_fields, package_folder, popped_fields

_NO_PUBLISHING = "say under `hub:` where the result is published, and whether the training does it (`hub.strategy`)"
_PRECISION = "set `model.dtype` instead"
_FROM_TOKENIZER = "it follows from the tokenizer"


def _each(names: str, value: Any) -> dict[str, Any]:
    return dict.fromkeys(names.split(), value)


_LIKE_GENERATED = "training only evaluates the loss; name scores under `evaluation.metrics`"
_LAUNCHER = "it follows from how the training is launched: `--launch N`, or `--launch` with accelerate's file"
_LOGITS = "gptft already computes logits only where they are read"

# fmt: off
MANAGED: dict[str, dict[str, str]] = {
    "training": _each("do_train do_eval do_predict", "the recipe's data decide it")
    | _each("remove_unused_columns label_names length_column_name", "gptft makes the columns that the model takes")
    | _each("prediction_loss_only include_for_metrics batch_eval_metrics eval_do_concat_batches eval_use_gather_object "
            "eval_accumulation_steps", _LIKE_GENERATED)
    | _each("average_tokens_across_devices accelerator_config parallelism_config deepspeed "
            "ddp_find_unused_parameters ddp_bucket_cap_mb ddp_broadcast_buffers ddp_static_graph ddp_backend "
            "ddp_timeout local_rank log_on_each_node log_level_replica save_on_each_node", _LAUNCHER)
    | _each("bf16 fp16 bf16_full_eval fp16_full_eval", _PRECISION)
    | _each("use_liger_kernel liger_kernel_config", _LOGITS)
    | _each("push_to_hub hub_token hub_private_repo hub_model_id hub_strategy hub_always_push hub_revision",
            _NO_PUBLISHING)
    | {
        "output_dir": "each run has a folder of its own under runs/",
        "resume_from_checkpoint": "`gptft finetune --resume` continues the newest checkpoint",
        "disable_tqdm": "gptft shows its own progress",
        "use_cache": "the cache makes rows that share documents attend across them",
        "per_device_eval_batch_size": "evaluation batches hold a fixed number of tokens, whatever the rows",
        "dataloader_drop_last": "no row is dropped: the loss of a short step is the mean over its own tokens",
        "include_num_input_tokens_seen": "the tokens seen are always counted",
        "save_only_model": "without its optimizer's state a training could not be resumed",
        "enable_jit_checkpoint": "SIGINT or SIGTERM always saves a checkpoint after the step",
        "restore_callback_states_from_checkpoint": "a resumed run always goes on with the patience that was left",
    },
    "evaluation.generation": _each("pad_token_id bos_token_id eos_token_id decoder_start_token_id", _FROM_TOKENIZER)
    | _each("return_dict_in_generate output_attentions output_hidden_states output_scores output_logits "
            "num_return_sequences", "one answer a prompt is read, and only its tokens")
    | _each("is_assistant continuous_batching_config transformers_version", "transformers sets it")
    | _each("low_memory penalty_alpha dola_layers diversity_penalty num_beam_groups constraints force_words_ids",
            "transformers 5 runs it only with remote code from the Hub")
    | {"max_length": "it would count the prompt; `max_new_tokens` is the length of the answer"},
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
    "per_gpu_eval_batch_size": "leave it out: evaluation batches hold a fixed number of tokens",
    "group_by_length": "use `train_sampling_strategy: group_by_length`",
    "adafactor": "use `optim: adafactor`",
    "include_inputs_for_metrics": "leave it out: name scores under `evaluation.metrics`",
    "include_tokens_per_second": "leave it out: progress and log show tokens per second",
    **_each("fp16_opt_level fp16_backend half_precision_backend", _PRECISION),
    **_each("use_ipex jit_mode_eval torchdynamo", "use `torch_compile`"),
    **_each("fsdp_min_num_params fsdp_transformer_layer_cls_to_wrap", "say it in `fsdp_config`"),
    **_each("dispatch_batches split_batches", f"leave it out: {_LAUNCHER}"),
    **_each("push_to_hub_model_id push_to_hub_organization push_to_hub_token", _NO_PUBLISHING),
    **_each("tpu_num_cores tpu_metrics_debug past_index tp_size mp_parameters ray_scope use_legacy_prediction_loop",
            "leave it out"),
}
"""Arguments of older transformers that version 5 has no more, with what to write instead."""

_RANGES: dict[str, dict[str, Any]] = {
    **_each("gradient_accumulation_steps save_total_limit dataloader_prefetch_factor "
            "max_new_tokens num_beams r n_layer n_head n_embd n_positions n_inner", {"ge": 1}),
    **_each("learning_rate num_train_epochs temperature lora_alpha logging_steps eval_steps save_steps", {"gt": 0}),
    **_each("weight_decay warmup_steps max_grad_norm seed data_seed dataloader_num_workers top_k", {"ge": 0}),
    **_each("label_smoothing_factor lora_dropout resid_pdrop embd_pdrop attn_pdrop top_p min_p", {"ge": 0, "le": 1}),
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
def fields_of(section: str, adapter: str = "lora") -> dict[str, FieldSpec]:
    """The fields that a section may set, by name, without those that gptft decides itself.

    Args:
        section: one of the keys of `MANAGED`.
        adapter: the adapter's type, one of `adapter_types`.
    """
    transformers = package_folder("transformers")
    if section == "training":
        fields = annotated_fields(transformers / "training_args.py", "TrainingArguments")
        fields["train_sampling_strategy"] = replace(
            fields["train_sampling_strategy"],
            type=Literal["group_by_length", "random", "sequential"],
            description="Order of the rows: those of like length together, random, or as in the data in every epoch.",
        )
        fields["per_device_train_batch_size"] = replace(
            fields["per_device_train_batch_size"],
            type=Annotated[int, Field(ge=1)] | Literal["auto"],
            description="Rows of a batch. `auto`: the size that trains fastest here, measured for some seconds; the "
            "step keeps its 8 x `gradient_accumulation_steps` rows.",
        )
        fields["fsdp"] = replace(
            fields["fsdp"],
            type=bool,
            default=False,
            description="Spread weights, gradients and optimizer over the processes of `--launch` (FSDP2).",
        )
    elif section == "evaluation.generation":
        fields = popped_fields(transformers / "generation" / "configuration_utils.py", "GenerationConfig")
    elif section == "model.config":
        fields = annotated_fields(transformers / "models" / "gpt2" / "configuration_gpt2.py", "GPT2Config")
    else:
        fields = annotated_fields(*adapter_types()[adapter])
    return {name: spec for name, spec in fields.items() if name not in MANAGED[section]}


@cache
def model_of(section: str, adapter: str = "lora") -> type[BaseModel]:
    """A pydantic model that accepts what the section's class accepts, less `MANAGED`; arguments as `fields_of`."""
    definitions: dict[str, Any] = {}
    for name, spec in fields_of(section, adapter).items():
        is_number = {*get_args(spec.type), spec.type} & {int, float} and str not in get_args(spec.type)
        limits = _RANGES.get(name, {}) if is_number else {}
        # Under another name than the alias, because a field may be called like a method of the model.
        information = Field(default=spec.default, alias=name, description=spec.description or None, **limits)
        definitions[f"field_{name}"] = (spec.type, information)
    configuration = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)
    return create_model(section.replace(".", "_"), __config__=configuration, **definitions)
