"""Two processes learn what one does: real commands, started by `--launch` and by torchrun's own environment."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from accelerate.commands.config.config_args import load_config_from_file
from commands import command, environment, in_process
from safetensors.torch import load_file
from tiny import DIALOGUES, NO_DROPOUT, make_model, make_tokenizer

from gptft.runs import Run
from gptft.training.batching import BLANK, LengthGroupedBatches

OWN_PROFILES = {
    "ddp": "MULTI_GPU",
    "fsdp2": "FSDP",
    "zero2": "DEEPSPEED",
    "zero3": "DEEPSPEED",
    "nodes": "MULTI_GPU",
}


def recipe(folder: Path, name: str, **sections) -> Path:
    # 21 rows of 4 a step: the last step has one, so that one process of two has none.
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in DIALOGUES[:21]))
    (folder / "held.jsonl").write_text(
        "".join(json.dumps(row | {"prompt": "?" * n}) + "\n" for n, row in enumerate(DIALOGUES[:7], 1))
    )
    base = folder / "base"
    if not base.exists():
        make_model().save_pretrained(base)
        make_tokenizer().save_pretrained(base)
    content = {
        "task": "dialogue",
        "name": name,
        "model": {"base": str(base), "dtype": "float32", "config": NO_DROPOUT},
        "data": {"train": "rows.jsonl", "validation": "held.jsonl"},
        "training": {
            "num_train_epochs": 2,
            "per_device_train_batch_size": 4,
            "logging_steps": 1,
            "learning_rate": 1e-3,
        },
        "evaluation": {"during_training": 5, "generation": {"max_new_tokens": 4}, "metrics": ["bleu", "perplexity"]},
    }
    for key, value in sections.items():
        content[key] = {**content.get(key, {}), **value}
    file = folder / f"{name}.yaml"
    file.write_text(json.dumps(content))
    return file


def the_run(folder: Path, name: str) -> Run:
    (found,) = (folder / "runs").glob(f"{name}-2*")
    return Run(found)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    folder = tmp_path_factory.mktemp("processes")
    before = Path.cwd()
    os.chdir(folder)
    try:
        assert in_process("finetune", recipe(folder, "one")).code == 0
    finally:
        os.chdir(before)
    return folder


def assert_same(one: Run, two: Run) -> None:
    expected, found = load_file(one.model / "model.safetensors"), load_file(two.model / "model.safetensors")
    assert expected.keys() == found.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=0, atol=1e-5)
    first, second = one.log(), two.log()
    assert len(first) == len(second) > 12
    for before, after in zip(first, second, strict=True):
        assert before.keys() == after.keys()
        for key in [key for key in before if not any(word in key for word in ("second", "runtime", "flos", "epoch"))]:
            assert after[key] == pytest.approx(before[key], abs=1e-5), key
    assert two.manifest["tokens_seen"] == one.manifest["tokens_seen"]
    assert two.manifest["state"] == "finished"


def test_two_processes_equal_one_with_the_same_step(alone):
    file = recipe(alone, "two", training={"per_device_train_batch_size": 2})
    done = command(["finetune", file, "--launch", "2"], alone)
    assert done.code == 0, done.err
    assert_same(the_run(alone, "one"), the_run(alone, "two"))
    # One of them speaks.
    assert done.out.split() == [f"runs/{the_run(alone, 'two').folder.name}"]
    assert done.err.count("Trained on") == 1


def test_a_launcher_of_ones_own_with_accumulation(alone):
    file = recipe(
        alone, "own", training={"per_device_train_batch_size": 1, "gradient_accumulation_steps": 2, "seed": 42}
    )
    launcher = ["torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    arguments = [sys.executable, "-m", *launcher, "-m", "gptft", "finetune", str(file)]
    done = subprocess.run(arguments, cwd=alone, env=environment(alone / "cache"), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert_same(the_run(alone, "one"), the_run(alone, "own"))


def test_weights_spread_over_processes_equal_those_of_one_also_when_resumed(alone):
    """FSDP2 on CPUs."""
    settings = {"per_device_train_batch_size": 2, "fsdp": True}
    file = recipe(alone, "spread", training=settings, evaluation={"during_training": None})
    one, expected = the_run(alone, "one"), load_file(the_run(alone, "one").model / "model.safetensors")
    for options in ([], ["--resume"]):
        done = command(["finetune", file, "--launch", "2", *options], alone)
        assert done.code == 0, done.err
        run = the_run(alone, "spread")
        found = load_file(run.model / "model.safetensors")
        assert expected.keys() == found.keys()
        for name, value in expected.items():
            torch.testing.assert_close(found[name], value, rtol=0, atol=1e-5)
        losses = [[line["eval_loss"] for line in own.log() if "eval_loss" in line] for own in (one, run)]
        assert losses[1] == pytest.approx(losses[0], abs=1e-5) and len(losses[0]) == 2
        assert run.manifest["tokens_seen"] == one.manifest["tokens_seen"]
        # As if it had been killed in its second epoch.
        names = sorted(folder.name for folder in (run.folder / "checkpoints").iterdir())
        assert names == ["checkpoint-12", "checkpoint-6"]
        shutil.rmtree(run.folder / "checkpoints" / "checkpoint-12")
        shutil.rmtree(run.model)
        run.update_manifest(state="running")
    assert "Resuming" in done.err and "checkpoint-6" in done.err


def test_weights_are_spread_over_several_processes_only(alone, monkeypatch):
    file = recipe(alone, "spread-one", training={"fsdp": True}, evaluation={"during_training": None})
    result = in_process("finetune", file)
    assert result.code == 2 and "--launch N" in result.message
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    result = in_process("finetune", recipe(alone, "spread-answers"))
    assert result.code == 2 and "evaluation.during_training" in result.message


def test_a_mistake_is_said_once_and_ends_all(alone):
    file = recipe(alone, "wrong", data={"train": "none.jsonl"})
    done = command(["finetune", file, "--launch", "2"], alone)
    assert done.code != 0
    assert done.err.count("none.jsonl") == 1
    assert not list((alone / "runs").glob("wrong-*"))


@pytest.mark.parametrize("how", ["0", "-1", "many", "none.yaml"])
def test_what_cannot_be_launched(alone, how):
    result = in_process("finetune", alone / "one.yaml", f"--launch={how}")
    assert result.code == 2
    assert "accelerate config" in result.message


def test_accelerate_reads_the_profiles_that_are_its_own():
    profiles = Path(__file__).parents[2] / "docs" / "profiles"
    found = {name: load_config_from_file(str(profiles / f"{name}.yaml")) for name in OWN_PROFILES}
    assert {name: str(config.distributed_type.value) for name, config in found.items()} == OWN_PROFILES


@pytest.mark.parametrize("strategy", ["group_by_length", "random", "sequential"])
@pytest.mark.parametrize(
    ("rows", "batch", "accumulation", "processes"), [(21, 2, 1, 2), (33, 1, 4, 3), (3, 2, 2, 4), (16, 4, 2, 2)]
)
def test_the_batches_of_all_are_those_of_one(rows, batch, accumulation, processes, strategy):
    lengths = [5 + 7 * row % 11 for row in range(rows)]
    one = LengthGroupedBatches(lengths, batch, accumulation * processes, 3, strategy)
    shares = [
        LengthGroupedBatches(lengths, batch, accumulation, 3, strategy, processes, rank) for rank in range(processes)
    ]
    drawn = [list(share) for share in shares]
    assert {len(batches) for batches in drawn} == {len(share) for share in shares} == {-(-len(one) // processes)}
    together = [part for parts in zip(*drawn, strict=True) for part in parts if part != [BLANK]]
    assert together == list(one)
