"""What a run's manifest and scores say, in the words of its model card and its report."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gptft.evaluation.scores import format_value
from gptft.runs.manifest import energy_estimate

TASKS = {
    "dialogue": "answers of an assistant",
    "completion": "text to text",
    "classification": "labels of a text",
    "pretraining": "text as such",
}


def cell(score: dict[str, Any] | None) -> str:
    """An entry of scores.json as a value with its interval; nothing for none."""
    if score is None:
        return ""
    name, value = score["name"], math.nan if score["value"] is None else score["value"]
    if score["low"] is None or score["high"] is None:
        return format_value(name, value)
    return f"{format_value(name, value)} [{format_value(name, score['low'])}, {format_value(name, score['high'])}]"


def definitions(evaluations: Sequence[tuple[str, dict[str, Any]]]) -> list[str]:
    """What each metric of (split, content of scores.json) means, once."""
    scores = [score for _, found in evaluations for score in found["scores"].values()]
    return list(dict.fromkeys(f"{score['name']}: {score['definition']}" for score in scores))


def training_facts(manifest: dict[str, Any], recipe: dict[str, Any]) -> list[tuple[str, str]]:
    """What was trained where and for how long, as names and values."""
    hardware, versions = manifest.get("hardware", {}), manifest.get("versions", {})
    threads = hardware.get("torch_threads")
    devices = ", ".join(hardware.get("gpus", [])) or f"{threads} CPU thread{'s' * (threads != 1)}"
    memory = manifest.get("peak_memory_bytes", {})
    facts = {
        "task": f"{recipe['task']} ({TASKS[recipe['task']]})",
        "steps": f"{manifest.get('steps', 0):,}",
        "tokens seen": f"{manifest.get('tokens_seen', 0):,}",
        "precision": manifest.get("precision"),
        "seed": manifest.get("seed"),
        "time": f"{manifest.get('training_seconds', 0):,.0f} s",
        "peak memory": ", ".join(f"{size / 2**30:.1f} GiB ({name})" for name, size in memory.items()),
        "hardware": f"{devices} ({hardware.get('system')})",
        "energy (estimate)": energy_estimate(manifest),
        "started": manifest.get("started", "")[:10],
        "versions": ", ".join(f"{name} {version}" for name, version in versions.items()),
    }
    return [(name, str(value)) for name, value in facts.items() if value not in (None, "")]


def data_rows(manifest: dict[str, Any]) -> list[dict[str, str]]:
    """For each split: its rows, their fingerprint, and the names of its sources without folders of the machine."""
    rows = []
    for split, facts in manifest.get("data", {}).get("splits", {}).items():
        paths = [source["path"] for source in facts.get("sources", [])]
        names = ", ".join(Path(path).name if is_file(path) else path for path in paths) or "a share of train"
        counts = {name: f"{facts.get(name, 0):,}" for name in ("kept", "read")}
        rows.append({"split": split, **counts, "fingerprint": facts.get("fingerprint", ""), "sources": names})
    return rows


def is_file(path: str) -> bool:
    """Whether a source or base is a place on a disk, in place of a name on the Hub."""
    return Path(path).is_absolute()
