"""Runs as training and evaluation leave them, written by hand."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gptft.runs import Run

LABELS = ["refund", "<script>alert(1)</script>", "退款"]
SCORE = {"value": 0.5, "low": 0.25, "high": 0.75, "rows": 30, "definition": "share", "higher_is_better": True}
MANIFEST: dict[str, Any] = {
    "name": "intents",
    "task": "classification",
    "base": {"requested": "gpt2", "used": "starter", "fallback_reason": "no network"},
    "data": {
        "splits": {
            "train": {"sources": [{"path": "/home/someone/train.csv"}], "read": 64, "kept": 60, "fingerprint": "f" * 64}
        },
        "warnings": ["3 rows of test are in train"],
    },
    "examples": {
        "train": {
            "rows": 60,
            "examples": 60,
            "tokens": 900,
            "supervised_tokens": 60,
            "shortened": 1,
            "dropped": 2,
            "length_step": 2,
            "length_counts": [0, 20, 40],
        }
    },
    "max_length": 5,
    "hardware": {"system": "Linux x86_64", "torch_threads": 2},
    "versions": {"python": "3.11"},
    "tokens_seen": 9000,
    "training_seconds": 360.0,
    "started": "2026-11-25T10:00:00+00:00",
    "state": "finished",
}


def labelled_rows() -> list[dict[str, Any]]:
    """Thirty questions with labels, every third of them wrong, the later the surer."""
    return [
        {
            "origin": f"test.csv:{index + 2}",
            "prompt": f"question {index} <img src=x onerror=alert(1)> & 钱",
            "references": [LABELS[index % 2]],
            "prediction": LABELS[index % 2 if index % 3 else 2],
            "confidence": 0.4 + index / 50,
            "correct": bool(index % 3),
            "base_prediction": LABELS[0],
            "base_confidence": 0.5,
            "base_correct": index % 2 == 0,
        }
        for index in range(30)
    ]


def log_lines(count: int = 6) -> list[dict[str, Any]]:
    """A line for each step: 100 tokens and a second; in the middle an evaluation of ten seconds."""
    lines: list[dict[str, Any]] = []
    for step in range(1, count + 1):
        late = 10 if step > 3 else 0
        numbers = {"step": step, "tokens": 100 * step, "seconds": step + late, "learning_rate": 1e-3 / step}
        lines.append({**numbers, "loss": 3 / step})
        if step == 3:
            lines.append({"step": 3, "tokens": 300, "seconds": 13, "eval_loss": 2.5, "eval_accuracy": 0.3})
    return lines


@pytest.fixture
def made_run(tmp_path: Path) -> Callable[..., Run]:
    """Write a run; what is left out as None is not there."""

    def write(
        name: str = "intents-20261125-100000",
        manifest: dict[str, Any] | None = MANIFEST,
        rows: list[dict[str, Any]] | None = None,
        log: list[dict[str, Any]] | None = None,
        matrix: list[list[int]] | None = None,
        seed: int = 1,
        **scores: Any,
    ) -> Run:
        run = Run(tmp_path / "runs" / name)
        run.folder.mkdir(parents=True)
        recipe = {
            "name": "intents",
            "task": (manifest or MANIFEST)["task"],
            "description": "What <b>customers</b> want",
            "training": {"seed": seed},
            "data": {"train": [{"path": "/home/someone/train.csv"}]},
            "evaluation": {"metrics": ["accuracy"]},
        }
        run.recipe_file.write_text(json.dumps(recipe, ensure_ascii=False), encoding="utf-8")
        if manifest:
            run.update_manifest(**manifest)
        run.log_file.write_text("".join(json.dumps(line) + "\n" for line in log or []))
        if rows is not None or scores:
            run.evaluation("test").mkdir(parents=True)
            content = {
                "base_model": "starter",
                "rows_fingerprint": "r",
                "confidence": 0.95,
                "scores": {key: {"name": key, **SCORE, "value": value} for key, value in scores.items()},
                "base": {key: {"name": key, **SCORE, "value": 0.0, "low": None} for key in scores},
            }
            if matrix:
                content["report"] = {"confusion_matrix": {"labels": LABELS, "matrix": matrix}}
            (run.evaluation("test") / "scores.json").write_text(json.dumps(content))
            lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows or [])
            (run.evaluation("test") / "predictions.jsonl").write_text(lines, encoding="utf-8")
        return run

    return write


@pytest.fixture
def intents(made_run: Callable[..., Run]) -> Run:
    """A classifier with everything there is."""
    matrix = [[10, 0, 5], [1, 9, 5], [0, 0, 0]]
    return made_run(rows=labelled_rows(), log=log_lines(), matrix=matrix, accuracy=0.667)
