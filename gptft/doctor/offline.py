"""What a recipe needs that is not on this disk: base, tokenizer, data sets, metrics."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from gptft.doctor.findings import Finding
from gptft.errors import UserError

if TYPE_CHECKING:
    from gptft.recipe import Recipe
    from gptft.recipe.schema import Source


def examine_recipe(recipe: Recipe) -> list[Finding]:
    """What each part of a recipe needs and whether it is here; the last finding is whether it can run offline.

    Args:
        recipe: a loaded recipe, whose paths are absolute.

    Raises:
        UserError: a folder that it names holds no model.
    """
    model = recipe.model
    findings = [*_model("base", model.base, model.revision, model.fallback)]
    if model.tokenizer:
        findings += _model("tokenizer", model.tokenizer, None, None)
    for split in ("train", "validation", "test"):
        sources = getattr(recipe.data, split)
        for source in sources if isinstance(sources, list) else ():
            findings.append(_source(split, source))
    findings += map(_metric, recipe.evaluation.metrics)
    missing = [finding.subject for finding in findings if finding.status == "problem"]
    if missing:
        verdict = Finding("problem", "offline", f"this recipe cannot run without a network here: {', '.join(missing)}")
    elif any(finding.status == "note" for finding in findings):
        verdict = Finding("note", "offline", "this recipe can run without a network here, but from the starter")
    else:
        verdict = Finding("ok", "offline", "this recipe can run without a network here")
    return [*findings, verdict]


def _model(subject: str, name: str | None, revision: str | None, fallback: str | None) -> Iterator[Finding]:
    from gptft.models.bases import missing_files, resolve_base, split_revision

    if name is None:
        yield Finding("ok", subject, "none: from scratch")
        return
    hub_id, own_revision = split_revision(name)
    on_disk = name == "starter" or Path(name).is_dir()
    missing = [] if on_disk else missing_files(hub_id, revision or own_revision, weights=subject != "tokenizer")
    if missing:
        text = f"{name}: not in the cache: {', '.join(missing)}"
        if fallback:
            yield Finding("note", subject, f"{text}; the fallback is {fallback}, which is here")
        else:
            yield Finding("problem", subject, f"{text}. With a network: hf download {hub_id}")
        return
    yield Finding("ok", subject, f"{name} is {'on this disk' if on_disk else 'in the cache'}")
    # A tokenizer may be all that is in its folder.
    adapter = None if subject == "tokenizer" else resolve_base(name, revision).folder / "adapter_config.json"
    if adapter and adapter.is_file():
        facts = json.loads(adapter.read_text(encoding="utf-8"))
        yield from _model("base of the adapter", facts["base_model_name_or_path"], facts.get("revision"), None)


def _source(split: str, source: Source) -> Finding:
    from gptft.data.sources import load_from_hub
    from gptft.recipe.sources import files_of

    subject = f"data.{split}"
    if os.path.isabs(source.path):
        sizes = [file.stat().st_size for file in files_of(source.path)]
        return Finding("ok", subject, f"{source.path} is on this disk: {len(sizes)} files, {sum(sizes):,} bytes")
    try:
        rows = len(load_from_hub(source, source.split or split, offline=True))
    except Exception as error:
        reason = str(error).partition("\n")[0]
        text = f"{source.path} is not in the cache ({reason}). With a network, any training on it puts it there"
        return Finding("problem", subject, text)
    return Finding("ok", subject, f"{source.path} is in the cache: {rows:,} rows")


def _metric(name: str) -> Finding:
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    from gptft.metrics import is_path, parse_metric, repository_of

    metric, subject = parse_metric(name), f"metric {name}"
    if metric.known:
        problem = _tokenizer_problem(metric.options.get("tokenize")) if metric.name == "bleu" else None
        return Finding("problem" if problem else "ok", subject, problem or "is gptft's own")
    if is_path(metric.name):
        here = Path(metric.name).expanduser().exists()
        return Finding("ok" if here else "problem", subject, "is on this disk" if here else "there is no such file")
    repository = repository_of(metric.name)
    try:
        script = try_to_load_from_cache(repository, f"{repository.rpartition('/')[2]}.py", repo_type="space")
    except HFValidationError:
        return Finding("problem", subject, f"{repository} can be no repository on the Hub")
    if isinstance(script, str):
        return Finding("ok", subject, f"{repository} is in the cache (its code runs with --trust-remote-metric)")
    text = f"{repository} is not in the cache. With a network: hf download --repo-type space {repository}"
    return Finding("problem", subject, text)


def _tokenizer_problem(name: str | None) -> str | None:
    """Why BLEU's tokenizer cannot be used without a network; None where it can."""
    from sacrebleu.tokenizers.tokenizer_spm import SPM_MODELS
    from sacrebleu.utils import SACREBLEU_DIR

    from gptft.metrics.text import bleu_scorer

    if name in SPM_MODELS:
        file = Path(SACREBLEU_DIR, "models", Path(SPM_MODELS[name]["url"]).name)
        if not file.is_file():
            return f"{file} is not there: sacreBLEU fetches it at the first use"
    try:
        bleu_scorer("bleu", name or "13a")
    except UserError as error:
        return str(error)
    return None
