"""What a training meets: memory that ends, losses that are no numbers, disks that are full, signals, kills."""

import errno
import io
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from commands import in_process
from rich.console import Console
from safetensors.torch import load_file
from test_finetune import TRAINING, at_step, crash, same, train, weights, whole  # noqa: F401 - fixtures among them
from tiny import NO_DROPOUT, make_model, make_rows
from transformers import TrainerState

from gptft.errors import GptftError
from gptft.runs import Run
from gptft.runs.checkpoints import damage, numbered
from gptft.training import batching, objectives, trainer
from gptft.training.faults import DivergedError

ROOT = Path(__file__).parents[2]


def checkpoints(run: Run) -> dict[str, dict[str, torch.Tensor]]:
    """The weights in each checkpoint, all of which must be whole."""
    folders = numbered(run.folder / "checkpoints")
    assert [damage(folder) for folder in folders] == [None] * len(folders)
    return {folder.name: load_file(folder / "model.safetensors") for folder in folders}


def only_run(tmp_path: Path, runs: str = "runs") -> Run:
    [folder] = (tmp_path / runs).glob("bot-*")
    return Run(folder)


# Memory


def limited(model: Any, rows: int, where: str) -> Any:
    """A model that has no room for more than so many rows, in the forward pass or at the end of the backward pass."""
    at_once = [0]

    def forward(module: Any, arguments: Any, options: Any) -> None:
        at_once[0] = len(arguments[0])
        if where == "forward" and at_once[0] > rows:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")

    def backward(gradient: torch.Tensor) -> None:
        if where == "backward" and at_once[0] > rows:
            raise RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory")

    model.transformer.register_forward_pre_hook(forward, with_kwargs=True)
    # The embedding gets its gradient last: all the others have theirs by then.
    model.transformer.wpe.weight.register_hook(backward)
    return model


@pytest.mark.parametrize("where", ["forward", "backward"])
def test_out_of_memory_halves_the_batch_and_leaves_the_step(fine_tuner, where, tmp_path):
    options = {
        "per_device_train_batch_size": 8,
        "gradient_accumulation_steps": 2,
        "num_train_epochs": 2,
        "optim": "sgd",
    }
    options |= {"learning_rate": 0.1, "save_strategy": "steps", "save_steps": 2}
    rows = make_rows(40)
    roomy = fine_tuner(make_model(**NO_DROPOUT), rows, **options)
    roomy.train()
    narrow = fine_tuner(limited(make_model(**NO_DROPOUT), 3, where), rows, **options)
    narrow.console = Console(file=io.StringIO(), width=200)
    narrow.train()
    for name, weight in roomy.model.state_dict().items():
        torch.testing.assert_close(narrow.model.state_dict()[name], weight, rtol=0, atol=2e-6)
    assert narrow.state.num_input_tokens_seen == roomy.state.num_input_tokens_seen
    said = narrow.console.file.getvalue()
    assert [f"at step 1: {count} rows at once" in said for count in (4, 2, 1)] == [True, True, False]
    # A resumed run begins with as many.
    state = TrainerState.load_from_json(str(tmp_path / "trainer" / "checkpoint-2" / "trainer_state.json"))
    assert state.train_batch_size == 2


def test_a_cpu_learns_a_large_batch_in_parts_to_the_same_weights(fine_tuner, monkeypatch):
    options = {"per_device_train_batch_size": 8, "num_train_epochs": 2, "optim": "sgd", "learning_rate": 0.1}
    rows, models, parts = make_rows(36), [], []
    for tokens in (10**6, 60):
        monkeypatch.setattr(batching, "TOKENS_AT_ONCE", tokens)
        models.append(make_model(**NO_DROPOUT))
        models[-1].transformer.register_forward_pre_hook(
            lambda _, ids, options: parts.append(ids[0].shape), with_kwargs=True
        )
        tuner = fine_tuner(models[-1], rows, **options)
        tuner.train()
        if tokens > 60:
            assert len(parts) == tuner.state.global_step
            parts.clear()
    assert len(parts) > 2 * tuner.state.global_step and all((size - 1) * length < 60 for size, length in parts)
    for name, weight in models[0].state_dict().items():
        torch.testing.assert_close(models[1].state_dict()[name], weight, rtol=0, atol=2e-6)


def test_one_row_that_does_not_fit_is_told_with_what_to_do(fine_tuner):
    tuner = fine_tuner(limited(make_model(), 0, "forward"), make_rows(4), per_device_train_batch_size=4)
    with pytest.raises(GptftError, match=r"Out of memory at step 1 with 1 rows at once.*data\.max_length"):
        tuner.train()


def test_other_errors_of_a_step_are_no_matter_of_memory(fine_tuner, monkeypatch):
    def broken(*args: Any) -> torch.Tensor:
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr(objectives, "supervised_loss_sum", broken)
    with pytest.raises(RuntimeError, match="shapes do not match"):
        fine_tuner(make_model(), make_rows(4)).train()


# Losses


def spoil(monkeypatch: pytest.MonkeyPatch, digit: str, factor: float) -> None:
    """Multiply the loss of batches with a row that asks for a number with `digit` in it."""
    original = objectives.supervised_loss_sum

    def spoilt(model: Any, batch: dict[str, torch.Tensor], smoothing: float) -> torch.Tensor:
        loss = original(model, batch, smoothing)
        return loss * factor if (batch["input_ids"] == ord(digit) - 33).any() else loss

    monkeypatch.setattr(objectives, "supervised_loss_sum", spoilt)


@pytest.mark.parametrize("factor", [float("nan"), float("inf"), 1e4])
def test_a_loss_that_is_no_number_or_explodes_stops_with_the_rows_named(train, whole, monkeypatch, tmp_path, factor):  # noqa: F811
    # One row of seventeen, in the middle of an epoch; nothing is logged between it and the next checkpoint.
    spoil(monkeypatch, "9", factor)
    with pytest.raises(GptftError) as caught:
        train(training={"logging_steps": 100, "save_steps": 1, "save_total_limit": 20})
    message, run = str(caught.value), only_run(tmp_path)
    assert isinstance(caught.value.__cause__, DivergedError)
    assert "train.jsonl:10" in message and "training.learning_rate" in message
    step = int(message.split("The loss of step ")[1].split(" ")[0])
    assert 2 <= step <= 5, "the test's row should be neither first nor of the second epoch"
    assert ("exploded" in message) == (factor == 1e4)
    if factor != 1e4:
        named = message.split("Learned then: ")[1].split(". Look")[0]
        assert named.count("train.jsonl:") == TRAINING["per_device_train_batch_size"]
    assert f"model.base={run.folder}/checkpoints/checkpoint-{step - 1}" in message and "--resume" not in message
    saved = checkpoints(run)
    assert list(saved) == [f"checkpoint-{number}" for number in range(1, step)]
    assert all(weight.isfinite().all() for each in saved.values() for weight in each.values())
    assert not run.model.exists() and run.manifest["state"] == "failed"


def test_weights_that_are_no_numbers_are_not_saved(train, monkeypatch, tmp_path):  # noqa: F811
    original = trainer.FineTuner._save_checkpoint

    def save(self: Any, *args: Any) -> None:
        if self.state.global_step == 6:
            with torch.no_grad():
                self.model.transformer.ln_f.weight[0] = float("inf")
        original(self, *args)

    monkeypatch.setattr(trainer.FineTuner, "_save_checkpoint", save)
    with pytest.raises(GptftError, match=r"Weights are no numbers after step 6\. Learned then: train\.jsonl:\d+, "):
        train()
    assert list(checkpoints(only_run(tmp_path))) == ["checkpoint-3"]


# Signals and ends


def measured(monkeypatch: pytest.MonkeyPatch, losses: list[float], action: Any = None) -> list[int]:
    """Let evaluations measure these losses, one after the other; the steps that they were made at."""
    made: list[int] = []

    def evaluate(self: Any, *args: Any, **options: Any) -> dict[str, float]:
        self.objective.evaluate = lambda *_: {
            "loss": losses[len({step for step in made if 0 < step < self.state.global_step})]
        }
        metrics = original(self, *args, **options)
        made.append(self.state.global_step)
        return metrics

    original = trainer.FineTuner.evaluate
    monkeypatch.setattr(trainer.FineTuner, "evaluate", evaluate)
    return made


BEST = {"load_best_model_at_end": True, "eval_strategy": "steps", "eval_steps": 3}


def test_a_signal_in_an_evaluation_stops_there_and_resumes_alike(train, monkeypatch, tmp_path):  # noqa: F811
    sections = {"data": {"validation": "train.jsonl"}, "training": BEST}
    expected = weights(train(runs="whole", **sections))
    original = objectives.LanguageObjective.evaluate

    def evaluate(self: Any, *args: Any) -> dict[str, float]:
        os.kill(os.getpid(), signal.SIGTERM)
        return original(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(objectives.LanguageObjective, "evaluate", evaluate)
        stopped = train(**sections)
    assert (stopped.manifest["state"], stopped.manifest["stopped_by"], stopped.manifest["steps"]) == ("stopped", 15, 3)
    # The run may have been moved meanwhile: the best is found where it is now.
    (tmp_path / "runs").rename(tmp_path / "moved")
    assert same(weights(train(runs="moved", resume=True, **sections)), expected)


def test_a_stop_within_an_epoch_evaluates_nothing_that_belongs_to_its_end(train, at_step, monkeypatch, tmp_path):  # noqa: F811
    epochs = {"save_strategy": "epoch", "eval_strategy": "epoch", "load_best_model_at_end": True}
    sections = {"data": {"validation": "train.jsonl"}, "training": epochs}
    # The step of the stop would have been the best, were it measured.
    steps = measured(monkeypatch, [2.0, 1.0])
    expected = weights(train(runs="whole", **sections))
    assert steps == [5, 10]
    at_step(7, lambda: os.kill(os.getpid(), signal.SIGINT))
    assert train(**sections).manifest["steps"] == 7
    assert steps == [5, 10, 5]
    assert same(weights(train(resume=True, **sections)), expected)


def test_the_command_ends_with_the_signals_code(train, at_step, tmp_path, monkeypatch, own_cache):  # noqa: F811
    at_step(2, lambda: os.kill(os.getpid(), signal.SIGTERM))
    monkeypatch.chdir(tmp_path)
    train(runs="other", training={"max_steps": 1})
    done = in_process("finetune", "bot.yaml", "training.max_steps=4")
    assert done.code == 128 + signal.SIGTERM
    assert "Stopped at step 2 of 4, and saved." in done.message


def test_patience_is_remembered(train, at_step, monkeypatch, tmp_path):  # noqa: F811
    sections = {
        "data": {"validation": "train.jsonl"},
        "training": {**BEST, "eval_steps": 2, "save_steps": 2},
        "evaluation": {"early_stopping_patience": 2},
    }
    with monkeypatch.context() as patch:
        measured(patch, [1.0, 2.0, 3.0, 0.5, 0.4])
        expected = train(runs="whole", **sections)
    assert expected.manifest["steps"] == 6
    at_step(5, crash)
    with monkeypatch.context() as patch:
        steps = measured(patch, [1.0, 2.0, 3.0, 0.5, 0.4])
        with pytest.raises(GptftError, match="the power went"):
            train(**sections)
        assert steps == [2, 4]
        # It stops, and then fails to write its model: resumed again, it goes no step on.
        with monkeypatch.context() as full:
            full.setattr("gptft.models.loading.save_model", lambda *_: (_ for _ in ()).throw(OSError(28, "No space")))
            with pytest.raises(GptftError, match="No space"):
                train(resume=True, **sections)
        assert steps == [2, 4, 6]
        resumed = train(resume=True, **sections)
        assert steps == [2, 4, 6]
    assert resumed.manifest["steps"] == 6
    assert same(weights(resumed), weights(expected))


def test_a_run_that_was_done_trains_no_step_more(train, monkeypatch):  # noqa: F811
    short = {"training": {"max_steps": 4, "save_steps": 4}}
    expected = weights(train(runs="whole", **short))
    with monkeypatch.context() as patch:
        patch.setattr("gptft.models.loading.save_model", lambda *_: (_ for _ in ()).throw(OSError(28, "No space")))
        with pytest.raises(GptftError, match=r"model could not be written: No space \([\d.]+ GB are free there\)"):
            train(**short)
    resumed = train(resume=True, **short)
    assert resumed.manifest["steps"] == 4
    assert same(weights(resumed), expected)


def test_the_best_is_kept_beside_the_newest_and_its_loss_is_told(train, at_step, monkeypatch, tmp_path):  # noqa: F811
    steps = measured(monkeypatch, [1.0, 2.0, 3.0, 4.0])
    sections = {"data": {"validation": "train.jsonl"}, "training": {**BEST, "save_total_limit": 1}}
    at_step(8, lambda: os.kill(os.getpid(), signal.SIGINT))
    run = train(**sections)
    assert list(checkpoints(run)) == ["checkpoint-3", "checkpoint-8"]
    (run.folder / "checkpoints" / "checkpoint-3" / "model.safetensors").write_bytes(b"")
    said = Console(file=io.StringIO(), width=200)
    resumed = train(resume=True, console=said, **sections)
    assert (
        "checkpoint-3, the best so far, is lost, as model.safetensors is not as it was written" in said.file.getvalue()
    )
    assert steps == [3, 6, 9, 10]
    assert same(weights(resumed), load_file(run.folder / "checkpoints" / "checkpoint-9" / "model.safetensors"))


# Disks


def refuse(monkeypatch: pytest.MonkeyPatch, folder: Path, number: int | None) -> list[str]:
    """Let the `number`th call that writes below `folder` fail as on a full disk, and all after it; the calls made."""
    calls: list[str] = []
    real_open, real_fsync, real_rename = os.open, os.fsync, os.rename

    def counted(name: str, path: Any) -> None:
        if str(folder) in str(path):
            calls.append(name)
            if number is not None and len(calls) > number:
                raise OSError(errno.ENOSPC, "No space left on device")

    def opened(path: Any, flags: int, *args: Any, **options: Any) -> int:
        if flags & (os.O_WRONLY | os.O_RDWR):
            counted("open", path)
        return real_open(path, flags, *args, **options)

    def renamed(source: Any, target: Any) -> None:
        counted("rename", target)
        real_rename(source, target)

    def synced(descriptor: int) -> None:
        counted("fsync", os.readlink(f"/proc/self/fd/{descriptor}") if Path("/proc/self/fd").is_dir() else folder)
        real_fsync(descriptor)

    monkeypatch.setattr(os, "open", opened)
    monkeypatch.setattr(os, "rename", renamed)
    monkeypatch.setattr(os, "fsync", synced)
    return calls


SHORT = {"training": {"num_train_epochs": 1, "save_steps": 2, "save_total_limit": 1, "logging_steps": 100}}


def end_on_a_full_disk(train: Any, tmp_path: Path, expected: dict[str, torch.Tensor]) -> None:  # noqa: F811
    """Train where writing fails, see that nothing is half there, and that it can be gone on with."""
    with pytest.raises(GptftError) as caught:
        train(**SHORT)
    message = str(caught.value)
    assert "could not be written: " in message and str(tmp_path / "runs") in message
    assert "No space left on device" in message or "File too large" in message or "enforce fail" in message
    assert "GB are free there" in message


def test_a_disk_that_is_full_at_any_write_leaves_nothing_half(train, monkeypatch, tmp_path):  # noqa: F811
    expected = weights(train(runs="whole", **SHORT))
    with monkeypatch.context() as patch:
        calls = refuse(patch, tmp_path / "counted", None)
        train(runs="counted", **SHORT)
    assert {"open", "rename", "fsync"} == set(calls) and len(calls) > 60
    for number in range(0, len(calls) - 5, len(calls) // 5):
        shutil.rmtree(tmp_path / "runs", ignore_errors=True)
        with monkeypatch.context() as patch:
            refuse(patch, tmp_path / "runs", number)
            end_on_a_full_disk(train, tmp_path, expected)
        for folder in (tmp_path / "runs").glob("bot-*"):
            checkpoints(Run(folder))
            assert not (folder / "model").exists()
    # The last failed late: it goes on from the checkpoint.
    assert same(weights(train(resume=True, **SHORT)), expected)


def test_files_that_outgrow_the_disk_leave_the_checkpoint_before(train, at_step, tmp_path):  # noqa: F811
    """As the writers in C++ and Rust meet it: torch and safetensors raise no OSError."""
    expected = weights(train(runs="whole", **SHORT))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    for number, room in enumerate((3_000, 60_000, 200_000)):
        shutil.rmtree(tmp_path / "runs", ignore_errors=True)
        at_step(3, lambda room=room: resource.setrlimit(resource.RLIMIT_FSIZE, (room, limits[1])))
        try:
            end_on_a_full_disk(train, tmp_path, expected)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        run = only_run(tmp_path)
        assert list(checkpoints(run)) == ["checkpoint-2"], number
        assert not [path.name for path in (run.folder / "checkpoints").iterdir() if path.name.startswith(".")]
    assert same(weights(train(resume=True, **SHORT)), expected)


# Kills


def test_killed_at_random_moments_and_resumed_is_bit_identical(tmp_path):
    done = subprocess.run(
        [sys.executable, ROOT / "benchmarks" / "kills.py", "--kills", "6", "--seed", "7", "--seconds", "25"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    # Fewer on a machine that is busy with others.
    assert 2 <= result["kills"] <= 6 and result["bit_identical"] == sum(result["runs"].values()) >= 1
