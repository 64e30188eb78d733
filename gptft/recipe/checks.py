"""What types cannot say: files that exist, metrics that can be computed, settings that fit each other.

Each check looks only at values of the right shape, so that all of a recipe's mistakes are found at once.
"""

from __future__ import annotations

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
    """Report what is wrong with the recipe beyond its types, and make its paths absolute."""
    check_fields(reading)
    check_data(reading)
    check_model(reading)
    check_training(reading)
    check_metrics(reading)


def check_fields(reading: Reading) -> None:
    """Hold the sections that carry fields of Hugging Face classes against those classes."""
    _check_section(reading, ("training",))
    _check_section(reading, ("evaluation", "generation"))
    adapter, known = reading.get("adapter", "type"), fields.adapter_types()
    if isinstance(adapter, str) and adapter in known:
        _check_section(reading, ("adapter",), adapter)
    elif isinstance(adapter, str):
        near = get_close_matches(adapter.lower(), known, 1)
        hint = f"did you mean '{near[0]}'?" if near else f"expected one of {', '.join(sorted(known))}"
        reading.report(("adapter", "type"), f"found '{adapter}', which is no adapter of the installed peft; {hint}")
    if reading.get("model", "base") in (None, "starter"):
        return _check_section(reading, ("model", "config"))
    # Other bases may have other fields: they are checked when the base is loaded.
    config = reading.get("model", "config")
    for key in fields.MANAGED["model.config"].keys() & set(config if isinstance(config, dict) else ()):
        report_unknown(reading, ("model", "config", key))


def _check_section(reading: Reading, path: KeyPath, adapter: str = "lora") -> None:
    values = reading.get(*path)
    if not isinstance(values, dict):
        return
    own = {"type"} if path == ("adapter",) else set()
    theirs = {key: value for key, value in values.items() if key not in own}
    try:
        fields.model_of(".".join(path), adapter).model_validate(theirs)
    except ValidationError as error:
        report_errors(reading, error, path)


def data_sources(data: Any) -> list[tuple[KeyPath, str]]:
    """Each source's key and text, of those that have the right shape."""
    pairs: list[tuple[KeyPath, str]] = []
    for split in ("train", "validation", "test"):
        value = data.get(split) if isinstance(data, dict) else None
        items = {("data", split, n): item for n, item in enumerate(value)} if isinstance(value, list) else {}
        for path, item in items.items() if items else [(("data", split), value)]:
            if isinstance(item, dict):
                path, item = (*path, "path"), item.get("path")
            if isinstance(item, str):
                pairs.append((path, item))
    return pairs


def check_data(reading: Reading) -> None:
    """Paths exist and have something in them; shares leave rows to train on."""
    for path, text in data_sources(reading.get("data")):
        try:
            resolved = sources.resolve(text, reading.folders(path))
        except (sources.SourceError, OSError, ValueError) as error:
            reading.report(path, str(error))
            continue
        reading.put(path, resolved)
        for option in ("name", "split", "revision") if os.path.isabs(resolved) and path[-1] == "path" else ():
            if reading.get(*path[:-1], option) is not None:
                reading.report((*path[:-1], option), f"applies to data sets on the Hub, but {text} is on this disk")
    shares = [reading.get("data", split) for split in ("validation", "test")]
    if all(isinstance(share, float) and 0 < share < 1 for share in shares) and sum(shares) >= 1:
        message = f"found {shares[0]} for validation and {shares[1]} for test: nothing is left to train on"
        reading.report(("data", "validation"), message)


def check_model(reading: Reading) -> None:
    """The base can exist, and has what the recipe asks of it."""
    # A relative folder of a model lies beside the recipe, or here (where `runs/` is).
    folders = [reading.folder, Path.cwd()]
    for key in ("base", "tokenizer"):
        text = reading.get("model", key)
        if not isinstance(text, str):
            continue
        try:
            resolved = sources.resolve_model(text, folders)
        except (sources.SourceError, OSError, ValueError) as error:
            reading.report(("model", key), str(error))
            continue
        reading.put(("model", key), resolved)
        local = os.path.isabs(resolved) or resolved == "starter"
        if key == "base" and local and reading.get("model", "revision") is not None:
            reading.report(("model", "revision"), f"applies to a base on the Hub, but {text} is on this disk")
    model = reading.get("model")
    if isinstance(model, dict) and model.get("base", "") is None:
        if not model.get("config"):
            message = "base is null (from scratch): give the shape, as in {n_layer: 6, n_head: 8, n_embd: 512}"
            reading.report(("model", "config"), message)
        if reading.get("adapter"):
            reading.report(("adapter",), "an adapter needs a trained base, but base is null (from scratch)")


def check_training(reading: Reading) -> None:
    """What evaluates during training has data, and the best model is told by what is measured then."""
    if reading.get("data", "validation") is None:
        for key, off in (("eval_strategy", "no"), ("load_best_model_at_end", False)):
            value = reading.get("training", key)
            if value not in (None, off):
                message = f"found {found(value)}, but there is no data.validation to evaluate on"
                reading.report(("training", key), message)
    best = reading.get("training", "metric_for_best_model")
    if isinstance(best, str) and best not in TRAINING_METRICS:
        message = f"found '{best}', expected one of {', '.join(TRAINING_METRICS)}: others are computed after training"
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
            expected = f"{', '.join(schema.KNOWN_METRICS)} or what `evaluate.load` takes"
            reading.report(path, f"found '{name}', expected {expected}")
