"""The batch size that is measured changes how fast a step is, not what it does."""

from types import SimpleNamespace

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file
from tiny import NO_DROPOUT, make_model, make_rows

from gptft.training import batch_size
from gptft.training.batch_size import find_batch_size
from gptft.training.finetune import finetune
from gptft.training.objectives import LanguageObjective

QUIET = Console(quiet=True)


@pytest.fixture(autouse=True)
def brief(monkeypatch):
    monkeypatch.setattr(batch_size, "SECONDS", 0.02)
    monkeypatch.setattr(batch_size, "LOST", 0.0)


def found(step_rows, rows=40, **patches):
    from datasets import Dataset

    model = make_model()
    before = torch.get_rng_state()
    sizes = find_batch_size(
        model, LanguageObjective(256), Dataset.from_list(make_rows(rows)), step_rows, torch.float32, 0.0
    )
    assert torch.equal(torch.get_rng_state(), before)
    assert all(parameter.grad is None for parameter in model.parameters()) and not model.training
    return sizes


def test_sizes_divide_the_step_and_grow():
    assert list(found(12)) == [1, 2, 3, 4, 6, 12]
    assert list(found(12, rows=5)) == [1, 2, 3, 4]


def test_what_would_not_fit_is_not_tried(monkeypatch):
    monkeypatch.setattr(batch_size, "_free_bytes", lambda device: 100)
    monkeypatch.setattr(batch_size, "_learn", lambda *_: 55)  # 45 held by this size, twice as much by the next
    assert list(found(8)) == [1]
    monkeypatch.setattr(batch_size, "_learn", lambda *_: 65)
    assert list(found(8)) == [1, 2, 4, 8]


def test_a_size_much_slower_than_the_best_ends_the_search(monkeypatch):
    monkeypatch.setattr(batch_size, "LOST", 1e9)
    assert list(found(8)) == [1]


def test_out_of_memory_on_a_gpu_ends_the_search(monkeypatch):
    learn, calls = batch_size._learn, []

    def full(model, objective, batch, *rest):
        calls.append(len(batch["input_ids"]))
        if calls[-1] > 2:
            raise torch.OutOfMemoryError("full")
        return learn(model, objective, batch, *rest)

    monkeypatch.setattr(batch_size, "_learn", full)
    assert list(found(8)) == [1, 2]


def test_the_same_weights_as_with_the_size_by_hand(write_recipe, tmp_path, monkeypatch):
    monkeypatch.setattr("gptft.training.batch_size.find_batch_size", lambda *_: {2: 1.0, 4: 3.0, 8: 2.0})
    weights = []
    for number, training in enumerate(
        (
            {"per_device_train_batch_size": "auto", "gradient_accumulation_steps": 2},
            {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 4},
        )
    ):
        recipe = write_recipe(training=training, model={"config": NO_DROPOUT})
        run = finetune(recipe, runs=tmp_path / str(number), console=QUIET)
        weights.append(load_file(run.model / "model.safetensors"))
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_a_resumed_run_keeps_its_size(write_recipe, tmp_path, monkeypatch):
    recipe = write_recipe(training={"per_device_train_batch_size": "auto"})
    run = finetune(recipe, runs=tmp_path / "runs", console=QUIET)
    assert run.manifest["batch_size"] in (1, 2, 4, 8)
    run.update_manifest(batch_size=2)
    monkeypatch.setattr(batch_size, "find_batch_size", lambda *_: pytest.fail("measured again"))
    arguments = SimpleNamespace(per_device_train_batch_size=8, gradient_accumulation_steps=3)
    batch_size.set_batch_size(arguments, None, None, run, QUIET)
    assert (arguments.per_device_train_batch_size, arguments.gradient_accumulation_steps) == (2, 12)
