"""Fine-tuning a classification from recipe to run: scores, the best model, resuming, adapters."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from gptft.models.classes import Classes
from gptft.models.loading import load_model
from gptft.recipe import load_recipe
from gptft.runs import Run
from gptft.tasks import recorded_task
from gptft.training.finetune import finetune
from gptft.training.interruption import StopWhenAsked

MOODS = {"joy": "so glad", "grief": "how sad", "rage": "damn it"}
ROWS = [{"text": f"{words} {number}", "label": name} for number in range(6) for name, words in MOODS.items()]
IDS = torch.arange(12).reshape(2, 6)


@pytest.fixture
def train(write_recipe, tmp_path) -> Callable[..., Run]:
    """Fine-tune a small classification; keywords change the recipe."""

    def run(rows: Any = ROWS, runs: str = "runs", resume: bool = False, **sections: Any) -> Run:
        training = {"num_train_epochs": 2, "logging_steps": 1, "save_strategy": "no"} | sections.pop("training", {})
        return finetune(
            write_recipe(rows, task="classification", training=training, **sections),
            resume=resume,
            runs=tmp_path / runs,
        )

    return run


def weights(run: Run, adapter: bool = False) -> dict[str, torch.Tensor]:
    return load_file(run.adapter / "adapter_model.safetensors" if adapter else run.model / "model.safetensors")


def evaluations(run: Run) -> list[dict[str, float]]:
    lines = [json.loads(line) for line in run.log_file.read_text().splitlines()]
    return [line for line in lines if "eval_loss" in line]


def answers(folder: Path, rows: list[dict[str, str]]) -> list[str]:
    """The labels that transformers alone gives."""
    from transformers import pipeline

    classify = pipeline("text-classification", str(folder))
    return [answer["label"] for answer in classify([row["text"] for row in rows])]


def test_the_best_model_by_accuracy_is_kept_and_its_scores_are_scikit_learns(train, tmp_path):
    from sklearn.metrics import accuracy_score, f1_score

    held_out = [{**row, "text": f"{row['text']} {number}"} for number, row in enumerate(ROWS)]
    (tmp_path / "held_out.jsonl").write_text("".join(json.dumps(row) + "\n" for row in held_out))
    run = train(
        data={"validation": "held_out.jsonl"},
        # What learns gets better and better: only the other way round is the last model not the one to keep.
        training={"num_train_epochs": 5, "learning_rate": 0.01, "save_strategy": "epoch", "save_total_limit": 1}
        | {"metric_for_best_model": "accuracy", "greater_is_better": False, "load_best_model_at_end": True},
    )
    found = evaluations(run)
    assert len(found) == 5 and {"eval_accuracy", "eval_f1", "eval_mcc", "eval_calibration_error"} <= set(found[0])
    best = min(found, key=lambda line: line["eval_accuracy"])
    assert best["eval_accuracy"] < found[-1]["eval_accuracy"]
    said, wanted = answers(run.model, held_out), [row["label"] for row in held_out]
    assert best["eval_accuracy"] == pytest.approx(accuracy_score(wanted, said))
    assert best["eval_f1"] == pytest.approx(f1_score(wanted, said, average="macro", zero_division=0))
    assert run.manifest["labels"] == ["grief", "joy", "rage"]
    assert Classes.read_from(load_model(str(run.folder)).model.config).names == ("grief", "joy", "rage")


@pytest.mark.parametrize("head", ["sequence", "lm"])
def test_stopped_and_resumed_equals_uninterrupted(train, monkeypatch, head):
    sections: dict[str, Any] = {
        "classification": {"head": head, "class_weights": "balanced"},
        "model": {"config": {"resid_pdrop": 0.2}},
        "training": {"save_strategy": "steps", "save_steps": 4, "gradient_accumulation_steps": 2},
    }
    whole = train(runs="whole", **sections)
    with monkeypatch.context() as patch:
        ended = StopWhenAsked.on_step_end

        def stop_early(self, args, state, control, **kwargs):
            self.asked = state.global_step == 2
            return ended(self, args, state, control, **kwargs)

        patch.setattr(StopWhenAsked, "on_step_end", stop_early)
        assert train(**sections).manifest["state"] == "stopped"
    resumed = train(resume=True, **sections)
    assert (resumed.manifest["state"], resumed.manifest["steps"]) == ("finished", 6)
    one, two = weights(whole), weights(resumed)
    assert one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)
    # So does the recipe that the run keeps, which says only what its task reads.
    assert load_recipe(resumed.recipe_file).classification.head == head


def test_an_adapter_on_a_classifier_trains_and_keeps_the_new_head(train, base_folder):
    run = train(
        adapter={"type": "lora", "r": 2},
        training={"learning_rate": 0.05},
        template={"prompt": "{text} =", "truncation_side": "right"},
    )
    saved = weights(run, adapter=True)
    assert [name for name in saved if "score" in name] and [name for name in saved if "lora_A" in name]
    merged, adapted = load_model(str(run.folder)).model, load_model(str(run.adapter)).model
    torch.testing.assert_close(adapted(IDS).logits, merged(IDS).logits, rtol=0, atol=1e-5)
    # The head is the trained one, and the base is as it was but for the adapter.
    [head] = [value for name, value in saved.items() if "score" in name]
    assert torch.equal(merged.score.weight, head)
    assert not (run.model / "adapter_config.json").exists()
    base = load_file(base_folder / "model.safetensors")
    assert torch.equal(weights(run)["transformer.wte.weight"], base["transformer.wte.weight"])
    assert not torch.equal(
        weights(run)["transformer.h.0.attn.c_attn.weight"], base["transformer.h.0.attn.c_attn.weight"]
    )
    for model in (merged, adapted):
        task = recorded_task(model.config)
        assert (task.name, task.classes.names) == ("classification", ("grief", "joy", "rage"))
        assert (task.encoder.closing, task.encoder.truncation_side) == (" =", "right")
    start = train(runs="start", adapter={"type": "lora"}, training={"max_steps": 1, "learning_rate": 1e-12})
    assert (load_model(str(start.folder)).model.score.weight - head).abs().max() > 1e-2


def test_an_adapter_whose_base_was_a_classifier_of_words_is_of_its_own_task(train, write_recipe, tmp_path):
    labelled = train(classification={"head": "lm"}, training={"max_steps": 1})
    assert recorded_task(load_model(str(labelled.folder)).model.config).name == "classification"
    recipe = write_recipe(
        [{"prompt": "a", "completion": "b"}],
        task="completion",
        model={"base": str(labelled.folder)},
        adapter={"type": "lora", "r": 2},
        template={"prompt": "{prompt} ->"},
        training={"max_steps": 1},
    )
    run = finetune(recipe, runs=tmp_path / "second")
    for folder in (run.model, run.adapter):
        task = recorded_task(load_model(str(folder)).model.config)
        assert (task.name, task.encoder.closing) == ("completion", " ->")


@pytest.mark.parametrize(
    ("kind", "rows"),
    [
        ("multi_label_classification", [{"text": f"t{n}", "label": ["a|b", "b", ""][n % 3]} for n in range(9)]),
        ("regression", [{"text": f"t{n}", "label": n / 2} for n in range(9)]),
    ],
)
def test_several_labels_and_numbers_train_and_are_watched(train, kind, rows):
    run = train(
        rows,
        data={"validation": "train.jsonl"},
        classification={"problem_type": kind},
        training={"eval_strategy": "epoch"},
    )
    config = load_model(str(run.folder)).model.config
    assert config.problem_type == kind
    found = evaluations(run)
    names = {"eval_accuracy", "eval_f1", "eval_f1:average=micro"} if kind[0] == "m" else {"eval_mae", "eval_mse"}
    assert len(found) == 2 and names <= set(found[0])
    if kind == "regression":
        assert found[0]["eval_mse"] == pytest.approx(found[0]["eval_loss"], rel=1e-4)
