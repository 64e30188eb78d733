"""A tiny model and tiny data in a folder of their own, trained by `gptft.training.finetune` like any other.

The references are not gptft's: what transformers alone says of one row, without padding, packing or a batch.
"""

from __future__ import annotations

import io
import json
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from rich.console import Console
from torch import Tensor

from gptft.errors import GptftError
from gptft.models.logits import IGNORED
from gptft.models.precision import best_device
from gptft.recipe import Recipe, load_recipe
from gptft.runs import Run
from gptft.training.finetune import finetune
from gptft.training.preparation import Prepared, prepare

if TYPE_CHECKING:
    from gptft.models.loading import LoadedModel

NO_DROPOUT = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
UNMOVED = 1e-12
"""A learning rate that leaves the weights as they are, as 0 is none."""
SHAPE = {"n_layer": 2, "n_head": 2, "n_embd": 32, "n_positions": 160}
THINGS = ("hats", "red shoes", "bags", "a warm coat", "scarves", "belts", "boots", "gloves of wool")


def turn(role: str, content: str) -> dict[str, str]:
    """A message."""
    return {"role": role, "content": content}


def conversations() -> list[list[dict[str, str]]]:
    """Twenty-one conversations of unequal lengths: some begin with a system message, some go on for two turns."""
    found = []
    for index in range(21):
        thing = THINGS[index % len(THINGS)]
        question = (f"Do you sell {thing}?", f"I am looking for {thing}, and quickly.", f"{thing}?")[index // 8]
        answer = ("Yes.", f"No, {thing} we have not.", f"Yes, {thing} are here, and they cost {index + 5} euros.")
        messages = [turn("user", question), turn("assistant", answer[index % 3])]
        if index % 4 == 1:
            messages.insert(0, turn("system", "Be kind."))
        if index % 5 == 2:
            messages += [turn("user", "Thank you!"), turn("assistant", "Good bye.")]
        found.append(messages)
    return found


DOCUMENTS = ("Hats are red.", "Shoes walk, and walk, and walk.", "A bag.", "Gloves of wool are warm in the winter.")
PAIRS = [{"prompt": f"{n} and {n + 1}", "completion": f" {'much more than ' * (n % 3)}{2 * n + 1}"} for n in range(9)]
LABELLED = [{"text": f"{'very ' * (n % 4)}{('good', 'bad')[n % 2]} no {n}", "label": "+-"[n % 2]} for n in range(10)]


class CheckError(GptftError):
    """Nothing can be measured: what was to be compared is not there."""


def expect(true: bool, otherwise: str) -> None:
    """Fail a check, saying why."""
    if not true:
        raise CheckError(otherwise)


class Bench:
    """Recipes, runs and the base in `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.console = Console(file=io.StringIO())
        rows = {"dialogue": [{"messages": messages} for messages in conversations()], "completion": PAIRS}
        rows |= {"pretraining": [{"text": text} for text in DOCUMENTS], "classification": LABELLED}
        for task, examples in rows.items():
            self.write_rows(task, examples)

    def write_rows(self, name: str, rows: Sequence[dict[str, Any]]) -> None:
        """Write rows that a recipe can name as `NAME.jsonl`."""
        (self.folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")

    @cached_property
    def base(self) -> Run:
        """A tiny GPT-2 with a tokenizer of its own, trained from scratch until it answers like the conversations."""
        settings = {"num_train_epochs": 30, "learning_rate": 1e-2, "save_strategy": "no"}
        model = {"base": None, "vocab_size": 320, "config": SHAPE | NO_DROPOUT}
        return self.finetune("base", model=model, training=settings)

    def recipe(self, name: str, task: str = "dialogue", rows: str = "", **sections: Any) -> Recipe:
        """A recipe in float32 without dropout; sections are added to."""
        model = {} if name == "base" else {"base": str(self.base.folder), "config": NO_DROPOUT}
        training = {"per_device_train_batch_size": 8, "logging_steps": 1, "report_to": "none"}
        written = {
            "task": task,
            "model": model | {"dtype": "float32"} | sections.pop("model", {}),
            "data": {"train": f"{rows or task}.jsonl"} | sections.pop("data", {}),
            "training": training | sections.pop("training", {}),
            **sections,
        }
        file = self.folder / f"{name}.yaml"
        # JSON is YAML.
        file.write_text(json.dumps(written), encoding="utf-8")
        return load_recipe(file)

    def finetune(self, name: str, *, runs: str = "runs", resume: bool = False, **sections: Any) -> Run:
        """Do what `gptft finetune` does."""
        recipe = self.recipe(name, **sections)
        return finetune(recipe, resume=resume, runs=self.folder / runs, console=self.console)

    def prepare(self, name: str, **sections: Any) -> Prepared:
        """Do what `gptft finetune` does before the first step; the model is on the device that trains."""
        prepared = prepare(self.recipe(name, **sections), self.console)
        prepared.loaded.model.to(best_device()).eval()
        return prepared

    def loaded(self) -> LoadedModel:
        """The base, ready to ask."""
        from gptft.models.loading import load_model

        loaded = load_model(str(self.base.folder))
        loaded.model.to(best_device())
        return loaded


@contextmanager
def empty_cache(folder: Path) -> Iterator[None]:
    """Prepare data anew, below `folder`: rows that other code encoded would hide what is wrong with this one's."""
    import datasets
    import datasets.config

    datasets.disable_progress_bars()
    kept = datasets.config.HF_DATASETS_CACHE
    datasets.config.HF_DATASETS_CACHE = Path(tempfile.mkdtemp(prefix="cache-", dir=folder))
    try:
        yield
    finally:
        datasets.config.HF_DATASETS_CACHE = kept


def logged(run: Run, key: str = "loss") -> list[float]:
    """What the run logged under `key`, step by step."""
    lines = [json.loads(line) for line in run.log_file.read_text(encoding="utf-8").splitlines()]
    return [line[key] for line in lines if key in line]


def weights(folder: Path) -> dict[str, Tensor]:
    """The weights in a folder."""
    from safetensors.torch import load_file

    return load_file(folder / "model.safetensors")


def difference(first: Any, second: Any) -> float:
    """The largest difference of numbers, tensors, lists or dictionaries of them.

    Infinite where shapes differ, where something is not a number, and where there is nothing to compare.
    """
    if isinstance(first, dict):
        first, second = [first[key] for key in sorted(first)], [second[key] for key in sorted(second)]
    if isinstance(first, list):
        if len(first) != len(second):
            return torch.inf
        return max((difference(a, b) for a, b in zip(first, second, strict=True)), default=torch.inf)
    a, b = (torch.as_tensor(value).double().cpu() for value in (first, second))
    if a.shape != b.shape or not a.numel():
        return torch.inf
    return (a - b).abs().nan_to_num(nan=torch.inf).max().item()


@torch.no_grad()
def plain_logits(model: Any, ids: Sequence[int]) -> Tensor:
    """Logits (length, vocabulary) of one row as anybody gets them from transformers."""
    row = torch.tensor([list(ids)], device=next(model.parameters()).device)
    return model(input_ids=row, attention_mask=torch.ones_like(row)).logits[0].float()


def plain_row(tokenizer: Any, messages: Sequence[dict[str, str]]) -> tuple[list[int], list[bool]]:
    """A conversation's tokens, and which of them are the assistant's, told by their place in the text."""
    text, spans = "", []
    for message in messages:
        text += f"{chr(10) if text else ''}{message['role'].capitalize()}:\n"
        start = len(text)
        text += message["content"]
        if message["role"] == "assistant":
            text += tokenizer.eos_token
            spans.append((start, len(text)))
    encoded = tokenizer(text, return_offsets_mapping=True)
    said = [any(a <= left and right <= b for a, b in spans) for left, right in encoded["offset_mapping"]]
    return encoded["input_ids"], said


def plain_loss(model: Any, rows: Sequence[tuple[list[int], list[bool]]]) -> float:
    """Mean over the supervised tokens of all rows, each row read alone, in float64."""
    total, count = 0.0, 0
    for ids, said in rows:
        logs = plain_logits(model, ids).double().log_softmax(dim=-1)
        read = [place for place in range(1, len(ids)) if said[place]]
        total -= sum(logs[place - 1, ids[place]].item() for place in read)
        count += len(read)
    return total / count


def supervised(row: dict[str, Any]) -> list[int]:
    """The places of a row's supervised tokens."""
    return [place for place, label in enumerate(row["labels"]) if label != IGNORED]
