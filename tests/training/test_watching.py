"""What is watched while a completion is trained: generated answers, the best model, when to stop."""

import json
from collections.abc import Callable
from typing import Any

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file

from gptft.runs import Run
from gptft.training.answers import sample_prompts
from gptft.training.finetune import finetune

ROWS = [{"en": f"number {number}", "zh": "数" * (number % 3 + 1)} for number in range(12)]


@pytest.fixture
def train(write_recipe, tmp_path) -> Callable[..., Run]:
    """Fine-tune a small completion with validation rows; keywords change the recipe."""
    held_out = "".join(json.dumps({"en": f"figure {number}", "zh": "数"}) + "\n" for number in range(5))
    (tmp_path / "held_out.jsonl").write_text(held_out)

    def run(runs: str = "runs", console: Console | None = None, **sections: Any) -> Run:
        recipe = write_recipe(
            ROWS,
            task="completion",
            template={"prompt": "{en} ->", "completion": " {zh}"},
            data={"validation": "held_out.jsonl"} | sections.pop("data", {}),
            model={"config": {"resid_pdrop": 0.2}},
            training={"num_train_epochs": 3, "eval_strategy": "epoch"} | sections.pop("training", {}),
            **sections,
        )
        return finetune(recipe, runs=tmp_path / runs, console=console)

    return run


def evaluations(run: Run) -> list[dict[str, float]]:
    lines = [json.loads(line) for line in run.log_file.read_text().splitlines()]
    return [line for line in lines if "eval_loss" in line]


def test_answers_are_generated_scored_and_shown_and_change_nothing(train):
    sections = {"training": {"save_strategy": "no"}}
    console = Console(record=True, width=200)
    generation = {"max_new_tokens": 6, "do_sample": True}
    watched = train(
        console=console,
        evaluation={"during_training": 3, "metrics": ["bleu", "stop_rate", "perplexity"], "generation": generation},
        **sections,
    )
    found = evaluations(watched)
    assert len(found) == 3
    assert {"eval_bleu", "eval_stop_rate", "eval_perplexity"} <= set(found[0])
    assert all(0 <= line["eval_bleu"] <= 100 and 0 <= line["eval_stop_rate"] <= 1 for line in found)
    shown = console.export_text()
    assert shown.count("asked: ") == shown.count("answered: ") == 3 and shown.count("expected: 数") == 3
    assert "figure" in shown and "->" in shown and "bleu" in shown
    plain = train(runs="plain", **sections)
    assert "eval_bleu" not in evaluations(plain)[0]
    one, two = (load_file(run.model / "model.safetensors") for run in (watched, plain))
    assert all(torch.equal(one[name], two[name]) for name in one)
    losses = [[line["eval_loss"] for line in evaluations(run)] for run in (watched, plain)]
    assert losses[0] == losses[1]


def test_the_same_prompts_are_asked_each_time():
    prompts: list[Any] = list(range(50))
    chosen = sample_prompts(prompts, 7)
    assert len(chosen) == 7 and chosen == sorted(set(chosen)) == sample_prompts(prompts, 7)
    assert sample_prompts(prompts, None) == sample_prompts(prompts, 60) == prompts


def test_training_stops_when_nothing_gets_better(train):
    stopping = {"early_stopping_patience": 2}
    # Steps too small for float32: each evaluation says the same.
    idle = train(training={"num_train_epochs": 6, "learning_rate": 1e-20}, evaluation=stopping)
    assert (len(evaluations(idle)), idle.manifest["steps"], idle.manifest["state"]) == (3, 9, "finished")
    learning = train(runs="learning", training={"num_train_epochs": 4}, evaluation=stopping)
    losses = [line["eval_loss"] for line in evaluations(learning)]
    assert losses == sorted(losses, reverse=True) and len(losses) == 4
    # Better, but not by enough to count.
    demanding = {**stopping, "early_stopping_threshold": 100.0}
    assert len(evaluations(train(runs="b", training={"num_train_epochs": 4}, evaluation=demanding))) == 3


def test_the_model_of_the_best_evaluation_is_kept(train, tokenizer, tmp_path):
    from datasets import Dataset

    from gptft.models.loading import load_model
    from gptft.tasks import recorded_task
    from gptft.training.losses import dataset_losses

    # What train says is wrong here: the surer the model gets, the higher is the loss.
    (tmp_path / "wrong.jsonl").write_text('{"en": "figure", "zh": "zebra"}\n')
    run = train(
        data={"validation": "wrong.jsonl"},
        training={"num_train_epochs": 6, "learning_rate": 0.05, "lr_scheduler_type": "constant"},
        evaluation={"early_stopping_patience": 2},
    )
    losses = [line["eval_loss"] for line in evaluations(run)]
    assert min(losses) < losses[-1] and len(losses) == losses.index(min(losses)) + 3
    model = load_model(str(run.folder)).model
    rows = {"text": ["figure ->"], "targets": [[" zebra"]], "origin": ["a"]}
    examples = recorded_task(model.config).examples(Dataset.from_dict(rows), tokenizer, 128, "key")
    sums, counts = dataset_losses(model, examples, tokenizer.pad_token_id)
    assert sums.sum() / counts.sum() == pytest.approx(min(losses), rel=1e-4)
