"""One engine trains a few steps and says how fast it was; benchmarks/speed.py calls it, in that engine's environment.

    python benchmarks/speed_worker.py ENGINE FOLDER --batch-size 8 [--rows-at-once 4] [--lora] [--dtype bfloat16]

FOLDER holds `model/` (weights, tokenizer) and `rows.jsonl` (`input_ids`, `labels`). One epoch, its first half warm-up:
an allocator that keeps what it has, and the system beneath it, are done with growing only after some steps.
Prints one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import sys
import time
from pathlib import Path
from typing import Any

LORA = {"r": 16, "lora_alpha": 32, "target_modules": ["c_attn", "c_proj", "c_fc"], "fan_in_fan_out": True}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("engine", choices=["gptft", "trl", "trainer"])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--batch-size", type=int, default=8, help="rows of a step")
    parser.add_argument("--rows-at-once", type=int, help="fewer than that: the step accumulates")
    parser.add_argument("--lora", action="store_true")
    parser.add_argument("--attention-dropout", type=float)
    parser.add_argument("--dtype", default="bfloat16")
    options = parser.parse_args()
    import torch
    from datasets import Dataset, disable_progress_bars
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback, set_seed
    from transformers.utils import logging

    disable_progress_bars()
    logging.disable_progress_bar()
    set_seed(0)
    with (options.folder / "rows.jsonl").open() as file:
        rows = [json.loads(line) for line in file]
    # GPT-2's published configuration drops 0.1 of the attention weights; gptft's default is 0 (docs/performance.md).
    dropout = options.attention_dropout if options.attention_dropout is not None else 0.1
    settings = {"attn_pdrop": 0.0 if options.engine == "gptft" else dropout}
    model: Any = AutoModelForCausalLM.from_pretrained(options.folder / "model", **settings)
    tokenizer = AutoTokenizer.from_pretrained(options.folder / "model")
    at_once = options.rows_at_once or options.batch_size
    common = {
        "output_dir": str(options.folder / "out"),
        "per_device_train_batch_size": at_once,
        "gradient_accumulation_steps": options.batch_size // at_once,
        "num_train_epochs": 1,
        "learning_rate": 1e-4,
        "bf16": options.dtype == "bfloat16",
        "use_cpu": not torch.cuda.is_available(),
        "report_to": "none",
        "save_strategy": "no",
        "logging_steps": 1,
        "disable_tqdm": True,
        "seed": 0,
        "train_sampling_strategy": "group_by_length",
    }
    ends: list[float] = []

    class Clock(TrainerCallback):
        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            ends.append(time.time())

    for row in rows:
        row["length"] = len(row["input_ids"])
    trainer = MAKERS[options.engine](model, tokenizer, Dataset.from_list(rows), common, options.lora)
    trainer.add_callback(Clock())
    counts: list[int] = []
    collate = trainer.data_collator

    def counting(features: list[dict[str, Any]]) -> Any:
        counts.append(sum(len(feature["input_ids"]) for feature in features))
        return collate(features)

    trainer.data_collator = counting
    trainer.train()
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    half = len(ends) // 2
    result = {
        "tokens_per_second": sum(counts[half * options.batch_size // at_once :]) / (ends[-1] - ends[half - 1]),
        "peak_memory": torch.cuda.max_memory_allocated() if torch.cuda.is_available() else memory,
        "first_step_seconds": ends[0] - float(os.environ["STARTED"]),
        "steps": len(ends),
        "losses": [entry["loss"] for entry in trainer.state.log_history if "loss" in entry],
    }
    print(json.dumps(result))


def gptft_trainer(model: Any, tokenizer: Any, rows: Any, common: dict[str, Any], lora: bool) -> Any:
    from transformers import TrainingArguments

    from gptft.models.adapters import add_adapter
    from gptft.recipe.schema import AdapterSection
    from gptft.training.arguments import DEFAULTS
    from gptft.training.trainer import FineTuner

    if lora:
        model = add_adapter(model, AdapterSection.model_validate({"type": "lora", **LORA}))
    arguments = {**DEFAULTS, **common, "remove_unused_columns": False, "label_names": ["labels"]}
    return FineTuner(model=model, args=TrainingArguments(**arguments), train_dataset=rows, processing_class=tokenizer)


def plain_trainer(model: Any, tokenizer: Any, rows: Any, common: dict[str, Any], lora: bool) -> Any:
    from transformers import DataCollatorForSeq2Seq, Trainer, TrainingArguments

    if lora:
        from peft import LoraConfig, get_peft_model

        model = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **LORA))
    return Trainer(
        model=model,
        args=TrainingArguments(**common),
        train_dataset=rows,
        data_collator=DataCollatorForSeq2Seq(tokenizer),
        processing_class=tokenizer,
    )


def trl_trainer(model: Any, tokenizer: Any, rows: Any, common: dict[str, Any], lora: bool) -> Any:
    from peft import LoraConfig
    from trl import SFTConfig, SFTTrainer

    masked = rows.map(lambda row: {"completion_mask": [int(label != -100) for label in row["labels"]]})
    # Its default, gradient checkpointing, makes it a third slower.
    arguments = {**common, "completion_only_loss": True, "gradient_checkpointing": False, "max_length": None}
    return SFTTrainer(
        model=model,
        args=SFTConfig(**arguments),
        train_dataset=masked.remove_columns(["labels"]),
        processing_class=tokenizer,
        peft_config=LoraConfig(task_type="CAUSAL_LM", **LORA) if lora else None,
    )


MAKERS = {"gptft": gptft_trainer, "trainer": plain_trainer, "trl": trl_trainer}

if __name__ == "__main__":
    os.environ.setdefault("STARTED", str(time.time()))
    sys.exit(main())
