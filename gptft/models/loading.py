"""Load a base with its tokenizer, make its special tokens agree, add an adapter; save what was trained."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gptft.errors import UserError
from gptft.models.bases import Base, loading_errors, resolve_base
from gptft.models.classes import SETTINGS, Classes, is_sequence_classifier
from gptft.models.templates import CHAT_TEMPLATE

if TYPE_CHECKING:
    from gptft.recipe.schema import Recipe

ATTENTION_DROPOUTS = ("attn_pdrop", "attention_dropout")
"""The names that configurations have for attention dropout: 0 unless the recipe says otherwise, as it keeps attention
off its fused kernels (on CPU a quarter of the speed)."""


@dataclass
class LoadedModel:
    """A model ready to train or to ask, with its tokenizer and where it came from."""

    model: Any
    tokenizer: Any
    base: Base | None
    """None for a model from scratch."""

    @property
    def positions(self) -> int:
        """Longest input in tokens."""
        return model_positions(self.model.config)


def model_positions(config: Any) -> int:
    """Longest input of a model in tokens, from its configuration."""
    return int(getattr(config, "max_position_embeddings", None) or 1024)


def load_tokenizer(location: str, trust_remote_code: bool = False) -> Any:
    """Load a tokenizer from a folder or Hub id, with a pad token and a chat template.

    A tokenizer without a pad token pads with its end-of-text token, which is safe here: labels are made before
    padding. One without a chat template gets gptft's, which is then saved with the tokenizer.

    Raises:
        UserError: it cannot be loaded, or has no end-of-text token.
    """
    from transformers import AutoTokenizer

    with loading_errors(f"The tokenizer of {location}"):
        tokenizer = AutoTokenizer.from_pretrained(location, trust_remote_code=trust_remote_code)
    if tokenizer.eos_token_id is None:
        raise UserError(f"The tokenizer of {location} has no end-of-text token (eos_token), so no answer could end.")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    if tokenizer.chat_template is None:
        tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def load_model(
    name: str,
    *,
    revision: str | None = None,
    fallback: str | None = None,
    tokenizer: str | None = None,
    config: dict[str, Any] | None = None,
    trust_remote_code: bool = False,
    classes: Callable[[Any], Classes] | None = None,
    shapes: bool = False,
) -> LoadedModel:
    """Load a model in float32, by Hub id, folder, run or `starter`: a causal language model, or a sequence classifier.

    Args:
        name: what to load; for a folder with an adapter, its base with the adapter merged into it.
        revision: branch, tag or commit on the Hub.
        fallback: `starter` to use the embedded model when the Hub cannot be reached.
        tokenizer: folder or Hub id of a tokenizer other than the model's own.
        config: fields of the configuration to change.
        trust_remote_code: run code that comes with the model.
        classes: makes the labels to give the model, from its tokenizer. Where they have no token ids, the model gets a
            head for sequences, which is new (drawn by torch's seed) unless it is a classifier of as many labels.
        shapes: no weights are read: the model is made on the device `meta`, where tensors are but shapes.

    Raises:
        UserError: not found, not a model, no safetensors, or an unknown configuration field.
        GptftError: the Hub cannot be reached.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification

    base = resolve_base(name, revision, fallback)
    options: dict[str, Any] = {"trust_remote_code": trust_remote_code}
    loaded = load_tokenizer(tokenizer or str(base.folder), trust_remote_code)
    labels = classes(loaded) if classes else None
    with loading_errors(base.requested):
        if (base.folder / "adapter_config.json").is_file():
            model = _merged_adapter(base.folder, config, trust_remote_code, shapes)
        else:
            settings = AutoConfig.from_pretrained(base.folder, **options)
            _configure(settings, config or {}, base.requested)
            sequence = is_sequence_classifier(settings) if labels is None else not labels.token_ids
            if labels:
                labels.write_to(settings)
            kind = AutoModelForSequenceClassification if sequence else AutoModelForCausalLM
            if shapes:
                with torch.device("meta"):
                    model = kind.from_config(settings, dtype=torch.float32, trust_remote_code=trust_remote_code)
            else:
                # Only the head can differ in size, where the base is a classifier of other labels.
                options |= {"ignore_mismatched_sizes": sequence and labels is not None}
                model = kind.from_pretrained(
                    base.folder, config=settings, dtype=torch.float32, use_safetensors=True, **options
                )
    _align(model, loaded)
    return LoadedModel(model.eval(), loaded, base)


def load_for_training(
    recipe: Recipe,
    texts: Callable[[], Iterable[str]],
    checkpoint: Path | None = None,
    classes: Callable[[Any], Classes] | None = None,
    shapes: bool = False,
) -> LoadedModel:
    """Load what a recipe starts from: its base, or a new model, with the adapter it names.

    Args:
        recipe: its sections `model` and `adapter` are read, and `evaluation.generation`, which is saved with the model.
        texts: gives the training texts, for a tokenizer trained from scratch.
        checkpoint: what is being resumed; a tokenizer trained from scratch is then the one in it.
        classes: makes the labels of a classifier, from the tokenizer.
        shapes: as for `load_model`: no weights, shapes alone.

    Raises:
        UserError: as `load_model`; the base is a classifier and the task is another; `data.max_length` is beyond the
            model's positions; `evaluation.generation` contradicts itself.
    """
    section = recipe.model
    if section.base is None:
        loaded = _from_scratch(recipe, texts, checkpoint, classes, shapes)
    else:
        loaded = load_model(
            section.base,
            revision=section.revision,
            fallback=section.fallback,
            tokenizer=section.tokenizer,
            config=section.config,
            trust_remote_code=section.trust_remote_code,
            classes=classes,
            shapes=shapes,
        )
    if classes is None and not loaded.model.can_generate():
        raise UserError(
            f"model.base: {section.base} is a classifier, which cannot write text: it can be the base of another "
            "classification (task: classification) only."
        )
    if recipe.data.max_length and recipe.data.max_length > loaded.positions:
        raise UserError(
            f"data.max_length is {recipe.data.max_length:,}, but {section.base or 'model.config'} has "
            f"{loaded.positions:,} positions: longer inputs would index past its table. Set it to at most that."
        )
    _set_generation(loaded.model, recipe.evaluation.generation)
    if recipe.adapter:
        from gptft.models.adapters import add_adapter

        with _device(shapes):
            loaded.model = add_adapter(loaded.model, recipe.adapter)
    return loaded


def save_model(model: Any, tokenizer: Any, folder: Path, weights: dict[str, Any] | None = None) -> None:
    """Save as safetensors with tokenizer, chat template and generation settings: transformers alone can load it.

    `weights` are the model's where they lie spread over several processes. `folder` must exist; the caller makes it
    appear at once (`files.folder_written_atomically`).
    """
    model.config.use_cache = True
    if weights is not None:
        # Put together from their parts, the embedding and the head that is tied to it are no longer one tensor.
        weights = {name: weight for name, weight in weights.items() if name not in model.all_tied_weights_keys}
    model.save_pretrained(folder, **({} if weights is None else {"state_dict": weights}))
    # Of an adapter, PEFT saves the weights alone.
    if model.can_generate():
        model.generation_config.save_pretrained(folder)
    if hasattr(model.config, SETTINGS):
        model.config.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _device(shapes: bool) -> AbstractContextManager[Any]:
    import torch

    return torch.device("meta") if shapes else nullcontext()


def _merged_adapter(folder: Path, config: dict[str, Any] | None, trust_remote_code: bool, shapes: bool) -> Any:
    from peft import PeftConfig, PeftModel
    from transformers import AutoConfig

    from gptft.models.adapters import merge_adapter

    adapter = PeftConfig.from_pretrained(str(folder))
    if adapter.is_prompt_learning or not adapter.base_model_name_or_path:
        raise UserError(f"{folder} holds an adapter ({adapter.peft_type}) that cannot be merged into a base.")
    # Of its own configuration, gptft saves beside an adapter what a recipe made of the base: task, templates, labels.
    recorded = (folder / "config.json").is_file()
    own = AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code) if recorded else None
    settings = getattr(own, SETTINGS, {})
    base = load_model(
        adapter.base_model_name_or_path,
        revision=adapter.revision,
        config=config,
        trust_remote_code=trust_remote_code,
        classes=(lambda _: Classes.read_from(own)) if "classes" in settings else None,
        shapes=shapes,
    )
    merged = base.model
    if not shapes:
        adapted: Any = PeftModel.from_pretrained(merged, str(folder))
        merged = merge_adapter(adapted).requires_grad_(True)
    if settings:
        setattr(merged.config, SETTINGS, settings)
    return merged


def _configure(settings: Any, changes: dict[str, Any], base: str) -> None:
    unknown = [name for name in changes if not hasattr(settings, name)]
    if unknown:
        raise UserError(f"model.config: {', '.join(unknown)}: {base} ({settings.model_type}) has no such setting.")
    for name in ATTENTION_DROPOUTS:
        if name not in changes and getattr(settings, name, None):
            setattr(settings, name, 0.0)
    for name, value in changes.items():
        setattr(settings, name, value)


def _align(model: Any, tokenizer: Any) -> None:
    """Make tokenizer, configuration and generation settings name the same special tokens, and check that they fit."""
    rows = model.get_input_embeddings().weight.shape[0]
    if len(tokenizer) > rows:
        raise UserError(f"The tokenizer has {len(tokenizer):,} tokens but the model embeds only {rows:,}.")
    for target in filter(None, (model.config, getattr(model, "generation_config", None))):
        target.bos_token_id = tokenizer.bos_token_id
        target.eos_token_id = tokenizer.eos_token_id
        target.pad_token_id = tokenizer.pad_token_id


def _set_generation(model: Any, settings: dict[str, Any]) -> None:
    """Give the model the recipe's generation settings; the base's are then left, as the two might contradict."""
    from transformers import GenerationConfig

    from gptft.models.generation import generation_settings

    if not settings or not model.can_generate():
        return
    generation_settings(model, settings)
    ends = {name: getattr(model.config, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    generation = GenerationConfig(**{**ends, **settings})
    try:
        # transformers refuses to save what it finds contradictory: better told before the training.
        generation.validate(strict=True)
    except ValueError as error:
        findings = [line.removeprefix("- ") for line in str(error).splitlines() if line.startswith("- ")]
        raise UserError(f"evaluation.generation: {' '.join(findings) or error}") from error
    model.generation_config = generation


def _from_scratch(
    recipe: Recipe,
    texts: Callable[[], Iterable[str]],
    checkpoint: Path | None,
    classes: Callable[[Any], Classes] | None,
    shapes: bool,
) -> LoadedModel:
    from transformers import GPT2Config, GPT2ForSequenceClassification, GPT2LMHeadModel, set_seed

    from gptft.models.tokenizer import train_tokenizer

    section = recipe.model
    named = section.tokenizer or (str(checkpoint) if checkpoint else None)
    tokenizer = load_tokenizer(named) if named else train_tokenizer(texts(), section.vocab_size)
    set_seed(recipe.training.get("seed", 42))
    settings = GPT2Config(
        **{
            "attn_pdrop": 0.0,
            **section.config,
            "vocab_size": len(tokenizer),
            "bos_token_id": tokenizer.bos_token_id,
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
        }
    )
    labels = classes(tokenizer) if classes else None
    if labels:
        labels.write_to(settings)
    kind = GPT2ForSequenceClassification if labels and not labels.token_ids else GPT2LMHeadModel
    with loading_errors("A model of the shape in model.config"), _device(shapes):
        model = kind(settings)
    _align(model, tokenizer)
    return LoadedModel(model, tokenizer, None)
