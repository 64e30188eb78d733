"""Write recipe-reference.md from the recipe's schema: python docs/generate_reference.py (or make reference)."""

from __future__ import annotations

import json
import re
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

from gptft.files import write_text_atomically
from gptft.metrics.catalogue import BUILT_IN
from gptft.recipe.fields import MANAGED, REMOVED
from gptft.recipe.json_schema import json_schema
from gptft.recipe.schema import DEFAULT_METRICS, PROBLEM_METRICS
from gptft.training.arguments import DEFAULTS

PAGE = Path(__file__).parent / "recipe-reference.md"

REASONS = {
    "train_sampling_strategy": "rows of like length share a batch, so that little is computed on padding",
    "save_strategy": "a checkpoint an epoch to resume from; steps would depend on the amount of data",
    "save_total_limit": "the newest two suffice to resume, and checkpoints with their optimizer are large",
    "logging_steps": "small data sets have few steps, and a loss that is seen early saves a training",
    "logging_first_step": "the first loss says at once whether data and base fit together",
    "logging_nan_inf_filter": "a run that diverged shows it; transformers hides such steps from the logged mean",
}
"""Why gptft's own defaults of `training` are what they are; the values are in gptft.training.arguments."""

COMPUTED = {
    "eval_strategy": ("as `save_strategy` (`epoch` for `best`)", "when there is `data.validation`, else `no`"),
    "greater_is_better": (
        "as `metric_for_best_model` has it",
        "transformers takes the highest perplexity for the best",
    ),
    "metric_for_best_model": ("`loss` with `evaluation.early_stopping_patience`", "something must tell what is better"),
    "load_best_model_at_end": ("true with `evaluation.early_stopping_patience`", "the best model is what it stops for"),
    "dataloader_pin_memory": ("true with CUDA", "elsewhere it has no use and warns"),
    "optim": ("`adamw_torch_fused`", "transformers' own choice; it depends on the installed torch"),
}
"""Defaults of `training` that depend on the recipe or the machine: the value in words, and the reason."""

SHAPE = {
    "n_positions": "Longest input in tokens.",
    "n_embd": "Width: numbers that stand for a token. A multiple of `n_head`.",
    "n_layer": "Number of blocks.",
    "n_head": "Attention heads in a block.",
    "n_inner": "Width of the feed-forward layers (not set: four times `n_embd`).",
    "activation_function": "Activation of the feed-forward layers.",
    "resid_pdrop": "Dropout after each attention and feed-forward layer.",
    "embd_pdrop": "Dropout after the embeddings.",
    "attn_pdrop": "Dropout of attention weights.",
    "layer_norm_epsilon": "Added to the variance in layer normalisation.",
    "initializer_range": "Standard deviation of the weights at the start.",
    "scale_attn_weights": "Divide attention scores by the square root of the head's width.",
    "add_cross_attention": "Layers that attend to an encoder; gptft gives them none.",
    "tie_word_embeddings": "One matrix embeds tokens and predicts them.",
}
"""Meanings of the fields of GPT2Config that transformers documents elsewhere."""

TYPES = {
    "string": "text",
    "integer": "whole number",
    "number": "number",
    "boolean": "true or false",
    "object": "mapping",
    "array": "list",
    "null": "null",
}

TEMPLATE = (
    " Task completion trains on the prompt followed by the completion and the end-of-text token, and supervises these "
    "two; where a row's completion is a list, each item is an example, and all are right answers. Task classification "
    "reads the prompt alone; the column `label` has what is right: a label, its id where `classification.labels` names "
    "them, several of them (a list, or text with `|` between them), or a number.\n\n"
    "Without a template, columns with usual names are found by themselves: prompt and completion, instruction and "
    "output, question and answer, source and target; text and label, labels, category or intent, sentence and label. "
    "A list in a prompt is joined with `; `."
)
"""What `template` means for each task."""

CLASSIFICATION = (
    "What the labels are and how the model gives them, in the task classification. All of it is saved in the model's "
    "`config.json` (`id2label`, `problem_type`, and under `gptft` what transformers has no name for), so a model "
    "folder needs no recipe. `threshold` and `out_of_scope` go together; neither is of use with a number."
)

HUGGING_FACE = "https://huggingface.co/docs"
HEAD = """\
<!-- Written by docs/generate_reference.py from the recipe's schema: change it there, then `make reference`. -->
# Recipe reference

Every key of a recipe. An unknown key, a wrong type or a missing file is an error before any model is loaded. Any key
can also be set on the command line by its full name: `gptft finetune recipe.yaml training.learning_rate=1e-4`.
`gptft recipes schema` prints the same as JSON schema, with which editors complete and check a recipe.

Where a section carries the fields of a Hugging Face class, names, meaning and defaults are those of the class unless
this page says otherwise and why. A default that is left empty: not set. {versions}
"""


def reference() -> str:
    """The page as Markdown."""
    schema = json_schema()
    sections = schema["$defs"]
    for name in ("Model", "Template", "Evaluation"):
        key = name.lower()
        # Beside a reference pydantic leaves out a description that equals the section's own.
        schema["properties"][key].setdefault("description", sections[f"{name}Section"]["description"])
    model, data, evaluation = (sections[f"{name}Section"] for name in ("Model", "Data", "Evaluation"))
    adapter = sections["AdapterSection"]
    types = adapter["properties"]["type"].pop("enum")
    training = schema["properties"]["training"]
    parts = [
        HEAD.format(versions=schema["$comment"]),
        "## The recipe",
        table(schema),
        "## model",
        table(model),
        "### model.config",
        f"Fields of [GPT2Config]({HUGGING_FACE}/transformers/model_doc/gpt2#transformers.GPT2Config), or of the class "
        "of another base. The defaults below are those of a model from scratch (`base: null`); with a base they are "
        "the base's own. One differs: attention dropout (`attn_pdrop`, `attention_dropout`) is 0 unless the recipe "
        "sets it, because dropout keeps attention off its fused kernel, on CPU a quarter of the speed.",
        table(model["properties"]["config"], {"attn_pdrop": 0.0}, SHAPE),
        managed("model.config"),
        "## adapter",
        adapter["description"] + " These are LoRA's; the others are in PEFT's documentation "
        f"([PEFT]({HUGGING_FACE}/peft)). Two defaults differ: without `target_modules` every linear layer of the "
        "blocks is adapted, where PEFT adapts GPT-2's `c_attn` alone; and `fan_in_fan_out` is true for GPT-2, whose "
        "layers (Conv1D) hold their weights transposed.",
        f"Types: {', '.join(types)}. Those that put learned tokens before the input (prompt_tuning, ...) are refused.",
        table(adapter),
        managed("adapter"),
        "## data",
        table(data),
        "### A source",
        "A path, a glob or a Hub name alone, or these keys; a list of sources is a mixture.",
        table(sections["Source"]),
        "### data.cleaning",
        table(sections["CleaningSection"]),
        "## template",
        sections["TemplateSection"]["description"] + TEMPLATE,
        table(sections["TemplateSection"]),
        "## classification",
        CLASSIFICATION,
        table(sections["ClassificationSection"]),
        "## training",
        "Fields of "
        f"[TrainingArguments]({HUGGING_FACE}/transformers/main_classes/trainer#transformers.TrainingArguments). "
        "These defaults are gptft's own or depend on the recipe or the machine:",
        own_defaults(),
        "All fields:",
        table(training, DEFAULTS | {key: Words(value) for key, (value, _) in COMPUTED.items()}),
        managed("training"),
        "Names of older versions of transformers, with what to write instead:",
        rows("field | instead", [(f"`{name}`", advice) for name, advice in sorted(REMOVED.items())]),
        "## evaluation",
        table(evaluation),
        "### evaluation.metrics",
        f"gptft's own; `rouge` stands for all four of ROUGE. By default: {default_metrics()}.",
        metrics(),
        "### evaluation.generation",
        "Fields of [GenerationConfig]"
        f"({HUGGING_FACE}/transformers/main_classes/text_generation#transformers.GenerationConfig). "
        "They are saved with the model, so chat and `generate` use them too. One default differs: `max_new_tokens` is "
        "256, or half the model's positions if that is less, where the class would end an answer after 20 tokens.",
        table(evaluation["properties"]["generation"]),
        managed("evaluation.generation"),
        "## hub",
        sections["HubSection"]["description"] + " [How](hub.md).",
        table(sections["HubSection"]),
        "## sweep",
        sections["SweepSection"]["description"] + " [How](sweeps.md).",
        table(sections["SweepSection"]),
        "### A range in sweep.ranges",
        sections["Range"]["description"],
        table(sections["Range"]),
    ]
    return "\n\n".join(part.strip() for part in parts) + "\n"


class Words(str):
    """A default that is said in words, not a value."""


def rows(head: str, body: list[tuple[str, ...]]) -> str:
    """A Markdown table."""
    lines = [head, " | ".join("---" for _ in head.split(" | ")), *(" | ".join(row) for row in body)]
    return "\n".join(f"| {line} |" for line in lines)


def table(
    section: dict[str, Any], defaults: dict[str, Any] | None = None, meanings: dict[str, str] | None = None
) -> str:
    """The keys of one section of the schema, with `defaults` over those of the schema, `meanings` where it has none."""
    required = section.get("required", [])
    body = []
    for key, field in section["properties"].items():
        value = (defaults or {}).get(key, field.get("default"))
        default = "**required**" if key in required else said(value)
        body.append((f"`{key}`", kind(field), default, described(field) or (meanings or {}).get(key, "")))
    return rows("key | type | default | meaning", body)


def said(default: Any) -> str:
    """A default as one writes it in YAML."""
    if isinstance(default, Words):
        return str(default)
    return "" if default is None or default == "" else f"`{json.dumps(default).strip(chr(34))}`"


def kind(field: dict[str, Any]) -> str:
    """The type of a field in words."""
    if "$ref" in field:
        name = field["$ref"].rpartition("/")[2]
        return "a source" if name == "Source" else "section"
    if "const" in field:
        return f"`{field['const']}`"
    if "enum" in field:
        names = [f"`{name}`" for name in field["enum"] if name is not None]
        return ", ".join(names) if len(names) <= 12 else f"one of {len(names)} names (the JSON schema lists them)"
    branches = field.get("anyOf") or field.get("oneOf")
    if branches:
        # Null for a key that is left out says nothing, nor does a whole number beside any number.
        null = {"type": "null"}
        names = dict.fromkeys(kind(branch) for branch in branches if "default" not in field or branch != null)
        return " or ".join(name for name in names if not (name.startswith("whole ") and name[6:] in names))
    if field.get("type") == "array" and field.get("items"):
        return f"list of ({kind(field['items'])})" if "anyOf" in field["items"] else f"list of {kind(field['items'])}"
    limits = {
        "minimum": "at least",
        "exclusiveMinimum": "more than",
        "maximum": "at most",
        "exclusiveMaximum": "less than",
    }
    said_limits = [f"{words} {field[name]}" for name, words in limits.items() if name in field]
    return " ".join(filter(None, [TYPES.get(field.get("type", ""), "any"), ", ".join(said_limits)]))


def described(field: dict[str, Any]) -> str:
    """The first sentence of a Hugging Face description, all of gptft's own."""
    text = field.get("description", "").replace("%%", "%")
    if text.endswith(" ...") or len(text) > 240:
        text = re.split(r"(?<=[.:])\s", text)[0].rstrip(":")
    # Links into Hugging Face's own pages lead nowhere from here.
    text = re.sub(r"\[(`?[^\]]+`?)\]\((?!https?:)[^)]*\)", r"\1", text)
    return text.replace("|", "\\|").replace("<", "&lt;")


def own_defaults() -> str:
    """The defaults of `training` that are gptft's, with the reasons."""
    own = {key: value for key, value in DEFAULTS.items() if key not in MANAGED["training"]}
    unexplained = own.keys() ^ REASONS.keys()
    if unexplained:
        raise SystemExit(f"docs/generate_reference.py: REASONS and DEFAULTS of training differ in {unexplained}")
    body = [(f"`{key}`", said(value), REASONS[key]) for key, value in own.items()]
    return rows("key | default | why", body + [(f"`{key}`", *words) for key, words in COMPUTED.items()])


def default_metrics() -> str:
    """The metrics of each task whose recipe names none."""
    names = {f"`{task}`": chosen for task, chosen in DEFAULT_METRICS.items()}
    names |= {f"`{kind}`": chosen for kind, chosen in PROBLEM_METRICS.items()}
    return "; ".join(f"{task} {', '.join(chosen)}" for task, chosen in names.items())


def metrics() -> str:
    """The metrics that are gptft's own, with what each reads and its options."""
    body = [
        (f"`{name}`", metric.needs, metric.description, "; ".join(f"`{key}`: {o}" for key, o in metric.options.items()))
        for name, metric in BUILT_IN.items()
    ]
    return rows("metric | reads | what it says | options", body)


def managed(section: str) -> str:
    """The fields that a recipe cannot set, by reason."""
    reasons: dict[str, list[str]] = defaultdict(list)
    for name, reason in MANAGED[section].items():
        reasons[reason].append(f"`{name}`")
    lines = [f"- {', '.join(names)}: {reason}" for reason, names in reasons.items()]
    return "Not to be set in a recipe:\n\n" + "\n".join(lines)


if __name__ == "__main__":
    write_text_atomically(PAGE, reference())
    print(f"{PAGE.name} written", file=sys.stderr)
