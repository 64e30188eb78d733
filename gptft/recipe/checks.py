"""What types cannot say: files that exist, metrics that can be computed, settings that fit each other.

Each check looks only at values of the right shape, so that all of a recipe's mistakes are found at once.
"""

from __future__ import annotations

import json
import os
import re
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from gptft.recipe import fields, schema, sources
from gptft.recipe.explain import found, report_errors, report_unknown
from gptft.recipe.lines import KeyPath
from gptft.recipe.reading import Reading

TRAINING_METRICS = ("loss", "eval_loss", "perplexity", "eval_perplexity")
_EVALUATE_NEIGHBOURS = ("bleurt", "chr_f")  # metrics of `evaluate` whose names are near gptft's own


def check(reading: Reading) -> None:
    """Report what is wrong with the recipe beyond its types."""
    check_fields(reading)
    check_data(reading)
    check_model(reading)
    check_training(reading)
    check_metrics(reading)


def check_fields(reading: Reading) -> None:
    """Hold the sections that carry fields of Hugging Face classes against those classes."""
    adapter = reading.get("adapter", "type")
    known = fields.adapter_types() if isinstance(adapter, str) else {}
    if isinstance(adapter, str) and adapter not in known:
        near = get_close_matches(adapter.lower(), known, 1, 0.6)
        hint = f"did you mean '{near[0]}'?" if near else f"expected one of {', '.join(sorted(known))}"
        reading.report(("adapter", "type"), f"found '{adapter}', which is no adapter of the installed peft; {hint}")
    _check_section(reading, ("training",))
    _check_section(reading, ("evaluation", "generation"))
    _check_section(reading, ("adapter",), adapter if isinstance(adapter, str) and adapter in known else None)
    config = reading.get("model", "config")
    if not isinstance(config, dict) or not config:
        return
    base = known_config(reading)
    if base is not None:
        kind = str(base.get("model_type", ""))
        _check_section(reading, ("model", "config"), kind if fields.fields_of("model.config", kind) else None)
        return
    # The base's configuration is not on this disk: only what is nearly a field of GPT-2's is surely a slip.
    names = list(fields.fields_of("model.config") or {})
    for key in map(str, config):
        near = get_close_matches(key, names, 1, 0.8)
        if key in fields.MANAGED["model.config"] or (near and key not in names):
            report_unknown(reading, ("model", "config", key), names)


def _check_section(reading: Reading, path: KeyPath, kind: str | None = "") -> None:
    values = reading.get(*path)
    model = fields.model_of(".".join(path), kind) if kind is not None and isinstance(values, dict) else None
    if model is None:
        return
    keys = [str(field.alias) for field in model.model_fields.values()]
    own = {key: value for key, value in values.items() if (*path, key) != ("adapter", "type")}
    try:
        model.model_validate(own)
    except ValidationError as error:
        report_errors(reading, error, path, keys + (["type"] if path == ("adapter",) else []))


def known_config(reading: Reading) -> dict[str, Any] | None:
    """The base's configuration where it is on this disk, {} from scratch, None where only loading the base tells."""
    base = reading.get("model", "base")
    if base is None:
        return {}
    if not isinstance(base, str):
        return None
    try:
        resolved = sources.resolve_model(base, model_folders(reading))
    except sources.SourceError:
        return None
    starter = Path(__file__).parent.parent / "starter"
    folder = starter if resolved == "starter" else Path(resolved)
    for file in (folder / "config.json", folder / "model" / "config.json"):
        try:
            config = json.loads(file.read_text(encoding="utf-8")) if folder.is_absolute() else None
        except (OSError, ValueError):
            continue
        if isinstance(config, dict):
            return config
    return {"model_type": "gpt2"} if resolved == "starter" else None


def model_folders(reading: Reading) -> list[Path]:
    """Where a relative folder of a model starts: beside the recipe, then here (where `runs/` is)."""
    return [reading.folder, Path.cwd()]


def data_sources(data: Any) -> list[tuple[KeyPath, str]]:
    """Each source's key and text, of those that have the right shape."""
    found_sources: list[tuple[KeyPath, str]] = []
    for split in ("train", "validation", "test"):
        value = data.get(split) if isinstance(data, dict) else None
        listed = isinstance(value, list)
        for index, item in enumerate(value if isinstance(value, list) else [value]):
            path: KeyPath = ("data", split, index) if listed else ("data", split)
            text = item.get("path") if isinstance(item, dict) else item
            if isinstance(text, str):
                found_sources.append(((*path, "path") if isinstance(item, dict) else path, text))
    return found_sources


def check_data(reading: Reading) -> None:
    """Paths exist and have something in them; shares leave rows to train on; columns are named the right way round."""
    for path, text in data_sources(reading.get("data")):
        try:
            resolved = sources.resolve(text, reading.folders(path))
        except (sources.SourceError, OSError, ValueError) as error:
            reading.report(path, str(error))
            continue
        for option in ("name", "split") if os.path.isabs(resolved) and path[-1] == "path" else ():
            if reading.get(*path[:-1], option) is not None:
                reading.report((*path[:-1], option), f"applies to data sets on the Hub, but {text} is a file")
    shares = [reading.get("data", split) for split in ("validation", "test")]
    if all(isinstance(share, float) and 0 < share < 1 for share in shares) and sum(shares) >= 1:
        message = f"found {shares[0]} for validation and {shares[1]} for test: nothing is left to train on"
        reading.report(("data", "validation"), message)
    for path in [("data",), *(path[:-1] for path, _ in data_sources(reading.get("data")) if path[-1] == "path")]:
        columns = reading.get(*path, "columns")
        for key, value in columns.items() if isinstance(columns, dict) else ():
            if key not in schema.COLUMN_NAMES:
                turned = f"; the other way round: {value}: {key}" if value in schema.COLUMN_NAMES else ""
                expected = f"gptft's name of a column ({', '.join(schema.COLUMN_NAMES)}) and then yours"
                reading.report((*path, "columns", key), f"found {found(key)}, expected {expected}{turned}")


def check_model(reading: Reading) -> None:
    """The base can exist, and its shape fits what the recipe asks of it."""
    for key in ("base", "tokenizer"):
        text = reading.get("model", key)
        if isinstance(text, str):
            try:
                resolved = sources.resolve_model(text, model_folders(reading))
            except (sources.SourceError, OSError, ValueError) as error:
                reading.report(("model", key), str(error))
                continue
            local = os.path.isabs(resolved) or resolved == "starter"
            if key == "base" and local and reading.get("model", "revision") is not None:
                reading.report(("model", "revision"), f"applies to a base on the Hub, but {text} is on this disk")
    model = reading.get("model")
    config = reading.get("model", "config") or {}
    if isinstance(model, dict) and "base" in model and model["base"] is None:
        if not config:
            reading.report(
                ("model", "config"),
                "base is null (from scratch): give the shape, as in {n_layer: 6, n_head: 8, n_embd: 512}",
            )
        if reading.get("adapter"):
            reading.report(("adapter",), "an adapter needs a trained base, but base is null (from scratch)")
    if not isinstance(config, dict):
        return
    shape = {**(known_config(reading) or {}), **config}
    width, heads = (
        shape.get(a, shape.get(b)) for a, b in (("n_embd", "hidden_size"), ("n_head", "num_attention_heads"))
    )
    if isinstance(width, int) and isinstance(heads, int) and heads > 0 and width % heads and config:
        reading.report(("model", "config", "n_embd"), f"found {width}, expected a multiple of n_head ({heads})")
    positions = shape.get("n_positions", shape.get("max_position_embeddings"))
    if positions is None and isinstance(model, dict) and "base" in model and model["base"] is None:
        positions = 1024
    length = reading.get("data", "max_length")
    if isinstance(length, int) and isinstance(positions, int) and length > positions:
        reading.report(
            ("data", "max_length"), f"found {length}, expected at most {positions}: the model has no more positions"
        )


def check_training(reading: Reading) -> None:
    """The strategies of evaluation and saving fit the data and each other."""
    training = reading.get("training")
    if not isinstance(training, dict):
        return
    # Both follow the epochs when not set, evaluation follows saving.
    saved = training.get("save_strategy", "epoch")
    evaluated = training.get("eval_strategy", saved)
    without = reading.get("data", "validation") is None
    if without and training.get("eval_strategy", "no") != "no":
        reading.report(
            ("training", "eval_strategy"), f"found '{evaluated}', but there is no data.validation to evaluate on"
        )
    if training.get("load_best_model_at_end") is True:
        path = ("training", "load_best_model_at_end")
        if without:
            reading.report(path, "needs data.validation: the best model is the one with the lowest loss there")
        for key, value in (("eval_strategy", evaluated), ("save_strategy", saved)):
            if value == "no":
                reading.report(("training", key), "found 'no', but load_best_model_at_end needs 'steps' or 'epoch'")
        if "no" not in (evaluated, saved) and saved != "best" and evaluated != saved:
            reading.report(path, f"needs eval_strategy ('{evaluated}') and save_strategy ('{saved}') to be the same")
    best = training.get("metric_for_best_model")
    if isinstance(best, str) and best not in TRAINING_METRICS:
        allowed = ", ".join(TRAINING_METRICS)
        message = f"found '{best}', expected one of {allowed}: other metrics are computed after training"
        reading.report(("training", "metric_for_best_model"), message)


def check_metrics(reading: Reading) -> None:
    """Each metric is one of gptft's or can be a name or path for `evaluate.load`, and has something to measure."""
    metrics = reading.get("evaluation", "metrics")
    for index, name in enumerate(metrics if isinstance(metrics, list) else []):
        if not isinstance(name, str):
            continue
        path = ("evaluation", "metrics", index)
        near = get_close_matches(name.lower(), schema.KNOWN_METRICS, 1, 0.75)
        if name in schema.KNOWN_METRICS:
            if reading.get("task") == "pretraining" and name not in schema.DEFAULT_METRICS["pretraining"]:
                reading.report(path, f"'{name}' compares answers, and the task pretraining has none: use perplexity")
        elif near and name not in _EVALUATE_NEIGHBOURS:
            reading.report(path, f"found '{name}', which is no metric; did you mean '{near[0]}'?")
        elif not re.fullmatch(r"[\w./~-]+", name):
            reading.report(
                path, f"found '{name}', expected {', '.join(schema.KNOWN_METRICS)} or what `evaluate.load` takes"
            )
