"""The model card of a run: what it is, how good, from what, and how to use it (huggingface_hub's ModelCard)."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gptft.metrics.catalogue import parse_metric
from gptft.recipe.cards import MARK, portable_recipe
from gptft.report.facts import TASKS, cell, data_rows, definitions, is_file, training_facts
from gptft.runs.folder import Run
from gptft.runs.listing import read_evaluations, read_recipe

if TYPE_CHECKING:
    from huggingface_hub import EvalResult, ModelCard

TEMPLATE = Path(__file__).parent / "card.md.jinja"
EXAMPLES = 3
EXAMPLE_LENGTH = 1200


@dataclass(frozen=True)
class CardSettings:
    """What a card says that a run does not know."""

    repo_id: str
    license: str
    language: list[str]
    adapter: bool = False
    """Whether the repository holds a PEFT adapter in place of whole weights."""


def make_card(run: Run, model: Path, settings: CardSettings, pictures: dict[str, str]) -> ModelCard:
    """Write the model card of a run.

    Args:
        run: with its manifest, recipe, and the evaluations that were made.
        model: the folder of the model that is published.
        settings: name, licence, language.
        pictures: title -> file in the repository.

    Returns:
        The card, with `model-index` metadata: every score with interval, rows, definition and the base's score.
    """
    from huggingface_hub import ModelCard, ModelCardData

    manifest = run.manifest
    recipe = read_recipe(run)
    evaluations = read_evaluations(run)
    generates = is_generator(model)
    base = hub_base(run)
    title = settings.repo_id.rpartition("/")[2]
    data = ModelCardData(
        base_model=base,
        datasets=sorted({path for path in _sources(manifest) if "/" in path and not is_file(path)}) or None,
        eval_results=_results(recipe, manifest, evaluations, generates) or None,
        language=settings.language or None,
        library_name="peft" if settings.adapter else "transformers",
        license=settings.license,
        metrics=sorted({parse_metric(name).name for _, found in evaluations for name in found["scores"]}) or None,
        model_name=title,
        pipeline_tag="text-generation" if generates else "text-classification",
        tags=["gptft", manifest.get("task", "")] + (["lora"] if settings.adapter else []),
        base_model_relation=("adapter" if settings.adapter else "finetune") if base else None,
    )
    examples, split = _examples(run, evaluations)
    text = portable_recipe(run.recipe_file.read_text(encoding="utf-8")).strip()
    return ModelCard.from_template(
        data,
        template_path=str(TEMPLATE),
        model_name=title,
        repo_id=settings.repo_id,
        description=recipe.get("description") or f"Fine-tuned for {TASKS[recipe['task']]}.",
        summary=_summary(manifest, recipe, base),
        splits=[name for name, _ in evaluations],
        scores=_score_rows(evaluations),
        definitions=definitions(evaluations),
        pictures=list(pictures.items()),
        examples=examples,
        examples_split=split,
        fence=_fence("\n".join(examples)),
        usage=_usage(settings, recipe["task"], generates),
        facts=training_facts(manifest, recipe),
        data=data_rows(manifest),
        limits=_limits(manifest, recipe, settings.language),
        recipe=text,
        recipe_mark=MARK,
        recipe_fence=_fence(text),
    )


def hub_base(run: Run) -> str | None:
    """The base's name on the Hub; None for the starter, a folder, or a model from scratch."""
    used = (run.manifest.get("base") or {}).get("used")
    return used if used and used != "starter" and not is_file(used) else None


def is_generator(model: Path) -> bool:
    """Whether the model in a folder writes text, as opposed to one with a head for labels."""
    adapter = model / "adapter_config.json"
    if adapter.is_file():
        return json.loads(adapter.read_text(encoding="utf-8"))["task_type"] != "SEQ_CLS"
    config = json.loads((model / "config.json").read_text(encoding="utf-8"))
    return not any(name.endswith("ForSequenceClassification") for name in config.get("architectures") or [])


def _sources(manifest: dict[str, Any]) -> list[str]:
    splits = manifest.get("data", {}).get("splits", {}).values()
    return [source["path"] for split in splits for source in split.get("sources", [])]


def _results(
    recipe: dict[str, Any], manifest: dict[str, Any], evaluations: list[tuple[str, dict[str, Any]]], generates: bool
) -> list[EvalResult]:
    from huggingface_hub import EvalResult

    results = []
    for split, content in evaluations:
        # A recipe without a test source holds out a share of train.
        sources = manifest["data"]["splits"].get(split, {}).get("sources") or []
        names = [source["path"] for source in sources] or [manifest["name"]]
        called = ", ".join(Path(name).name if is_file(name) else name for name in names)
        for name, score in content["scores"].items():
            if score["value"] is None:
                continue
            base = (content.get("base") or {}).get(name) or {}
            facts = {key: score[key] for key in ("low", "high", "rows", "definition")}
            results.append(
                EvalResult(
                    task_type="text-generation" if generates else "text-classification",
                    task_name=TASKS[recipe["task"]],
                    dataset_type=called,
                    dataset_name=f"{called} ({split})",
                    dataset_split=split,
                    dataset_args={"rows_fingerprint": content["rows_fingerprint"]},
                    metric_type=parse_metric(name).name,
                    metric_name=name,
                    metric_value=score["value"],
                    metric_args={**facts, "confidence": content["confidence"], "base": base.get("value")},
                )
            )
    return results


def _score_rows(evaluations: list[tuple[str, dict[str, Any]]]) -> list[dict[str, Any]]:
    names = list(dict.fromkeys(name for _, found in evaluations for name in found["scores"]))
    rows = []
    for name in names:
        scores = [found["scores"].get(name) for _, found in evaluations]
        base = next((found["base"][name] for _, found in evaluations if name in (found.get("base") or {})), None)
        count = next((f"{score['rows']:,}" for score in scores if score), "")
        rows.append({"name": name, "cells": [cell(score) for score in scores], "base": cell(base), "rows": count})
    return rows


def _examples(run: Run, evaluations: list[tuple[str, dict[str, Any]]]) -> tuple[list[str], str]:
    for split, _ in evaluations:
        file = run.evaluation(split) / "predictions.jsonl"
        if not file.is_file():
            continue
        with file.open(encoding="utf-8") as lines:
            rows = [json.loads(line) for _, line in zip(range(EXAMPLES), lines, strict=False)]
        texts = []
        for row in rows:
            parts = {
                "answer": row.get("prediction"),
                "expected": row.get("references"),
                "base": row.get("base_prediction"),
            }
            shown = [_shortened(row["prompt"])]
            shown += [f"[{name}] {_shortened(_words(value))}" for name, value in parts.items() if value is not None]
            texts.append("\n".join(shown))
        return texts, split
    return [], ""


def _words(value: Any) -> str:
    return " | ".join(map(str, value)) if isinstance(value, list) else str(value).strip()


def _shortened(text: str) -> str:
    return text if len(text) <= EXAMPLE_LENGTH else f"… {text[-EXAMPLE_LENGTH:]}"


def _fence(text: str) -> str:
    longest = max((len(found) for found in re.findall(r"`{3,}", text)), default=2)
    return "`" * (longest + 1)


def _summary(manifest: dict[str, Any], recipe: dict[str, Any], base: str | None) -> str:
    used = (manifest.get("base") or {}).get("used")
    if base:
        revision = manifest["base"].get("revision")
        start = f"[{base}](https://huggingface.co/{base})" + (f" (commit `{revision}`)" if revision else "")
    elif used == "starter":
        start = "the starter, the small GPT-2 that ships with gptft"
    else:
        start = f"the model {Path(used).name}" if used else "weights drawn at random"
    how = f"with a {recipe['adapter']['type']} adapter" if recipe.get("adapter") else "in all its weights"
    seen = f"on {manifest['tokens_seen']:,} tokens" if "tokens_seen" in manifest else "in a training that goes on"
    return f"Fine-tuned by gptft from {start}, {how}, {seen}."


def _usage(settings: CardSettings, task: str, generates: bool) -> list[tuple[str, str, str]]:
    repo = settings.repo_id
    if settings.adapter:
        kind = "AutoPeftModelForCausalLM" if generates else "AutoPeftModelForSequenceClassification"
        code = f'from peft import {kind}\n\nmodel = {kind}.from_pretrained("{repo}")'
        return [("With PEFT", "python", code), _with_gptft(repo, task)]
    if not generates:
        call = f'pipeline("text-classification", "{repo}")("a text")'
        return [
            ("With transformers", "python", f"from transformers import pipeline\n\n{call}"),
            _with_gptft(repo, task),
        ]
    asked = '[{"role": "user", "content": "Hello!"}]' if task == "dialogue" else '"What stands before"'
    code = f'from transformers import pipeline\n\npipeline("text-generation", "{repo}")({asked})'
    serve = ("With vLLM", "bash", f"vllm serve {repo}")
    return [("With transformers", "python", code), serve, _with_gptft(repo, task)]


def _with_gptft(repo: str, task: str) -> tuple[str, str, str]:
    commands = {"dialogue": f"gptft chat {repo}", "pretraining": f'gptft next "What stands before" --model {repo}'}
    own = commands.get(task, f'gptft predict {repo} "a text"')
    return "With gptft", "bash", f"{own}\ngptft eval {repo}"


def _limits(manifest: dict[str, Any], recipe: dict[str, Any], language: list[str]) -> str:
    tongue = f" in {', '.join(language)}" if language else ""
    rows = manifest.get("data", {}).get("splits", {}).get("train", {}).get("kept", 0)
    return (
        f"Meant for text like that it was trained on ({rows:,} rows{tongue}), for {TASKS[recipe['task']]}; the scores "
        "above say how well it does there, and nothing says how it does elsewhere. It repeats what its base and its "
        "data hold, errors and biases included, states things that are not so, and reads at most "
        f"{manifest.get('max_length', 0):,} tokens. Let nobody be harmed by an answer that no one has looked at."
    )
