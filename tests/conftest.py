"""Tiny things to train: a byte-level tokenizer, a two-layer GPT-2, a recipe with data beside it."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tiny import DIALOGUES, make_model, make_tokenizer

if "PYTEST_XDIST_WORKER" in os.environ:
    # The workers share the cores. Before torch is imported, here and in the commands that tests run.
    os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Prepared data goes to a folder of the test, not to the user's cache."""
    import datasets

    datasets.disable_progress_bars()
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def tokenizer() -> Any:
    """A tokenizer of bytes. Not to be changed: make another."""
    return make_tokenizer()


@pytest.fixture(scope="session")
def base_folder(tmp_path_factory: pytest.TempPathFactory, tokenizer: Any) -> Path:
    """The tiny model and its tokenizer as a user has them in a folder. Not to be changed."""
    folder = tmp_path_factory.mktemp("base")
    make_model().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def write_recipe(tmp_path: Path, base_folder: Path, own_cache: None) -> Callable[..., Any]:
    """Write a small recipe and its data, and load it; keywords replace or extend sections, `rows` the data."""
    from gptft.recipe import load_recipe

    def write(rows: list[dict[str, Any]] | None = None, *, name: str = "bot", **sections: Any) -> Any:
        data = tmp_path / "train.jsonl"
        data.write_text("".join(json.dumps(row) + "\n" for row in rows or DIALOGUES), encoding="utf-8")
        recipe: dict[str, Any] = {
            "task": sections.pop("task", "dialogue"),
            "model": {"base": str(base_folder), "dtype": "float32"} | sections.pop("model", {}),
            "data": {"train": "train.jsonl"} | sections.pop("data", {}),
            "training": {
                "num_train_epochs": 1,
                "per_device_train_batch_size": 4,
                "learning_rate": 1e-3,
                "use_cpu": True,
                "report_to": "none",
            }
            | sections.pop("training", {}),
            **sections,
        }
        # JSON is YAML.
        path = tmp_path / f"{name}.yaml"
        path.write_text(json.dumps(recipe), encoding="utf-8")
        return load_recipe(path)

    return write


@pytest.fixture
def fine_tuner(tmp_path: Path, tokenizer: Any) -> Callable[..., Any]:
    """Make a FineTuner of rows and a model, maybe with an objective; other keywords are TrainingArguments."""
    from datasets import Dataset
    from transformers import PrinterCallback, TrainingArguments

    from gptft.training.trainer import FineTuner

    def make(
        model: Any,
        rows: list[dict[str, Any]],
        validation: list[dict[str, Any]] | None = None,
        objective: Any = None,
        **settings: Any,
    ):
        defaults: dict[str, Any] = {
            "output_dir": str(tmp_path / "trainer"),
            "use_cpu": True,
            "learning_rate": 1e-3,
            "logging_steps": 1,
            "save_strategy": "no",
            "disable_tqdm": True,
            "remove_unused_columns": False,
            "label_names": ["labels"],
            "train_sampling_strategy": "group_by_length",
        }
        trainer = FineTuner(
            model=model,
            args=TrainingArguments(**{**defaults, **settings}),
            train_dataset=Dataset.from_list(rows),
            eval_dataset=Dataset.from_list(validation) if validation else None,
            processing_class=tokenizer,
            objective=objective,
        )
        trainer.remove_callback(PrinterCallback)
        return trainer

    return make
