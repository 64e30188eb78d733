from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset

from gptft.training.trainer import FineTuner


@pytest.fixture
def fine_tuner(tmp_path: Path, tokenizer: Any) -> Callable[..., FineTuner]:
    """Make a FineTuner of rows and a model; keywords are TrainingArguments."""
    from transformers import PrinterCallback, TrainingArguments

    def make(model: Any, rows: list[dict[str, Any]], validation: list[dict[str, Any]] | None = None, **settings: Any):
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
        )
        trainer.remove_callback(PrinterCallback)
        return trainer

    return make
