"""Ctrl-C, a full disk, a Hub that cannot be reached: what was done stays, and the command says how to go on."""

import contextlib
import json
import re
import resource
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub
import pytest
from commands import Result, command, environment, in_process
from safetensors.torch import load_file
from shop import dialogues, write_shop

pytestmark = pytest.mark.e2e


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@contextlib.contextmanager
def full_disk() -> Iterator[None]:
    """Let no file grow beyond 60 kB; the tiny model has 140. The write then fails as on a full disk."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def refused(result: Result) -> str:
    """The one message of a failure."""
    assert result.code == 1, result.err
    assert result.out == "" and "Traceback" not in result.err
    assert sum(line.startswith("Error: ") for line in result.err.splitlines()) == 1
    return result.message


def test_stopped_then_out_of_space_then_finished(tmp_path, base_folder, own_cache, monkeypatch):
    training = {
        "max_steps": 200,
        "save_strategy": "steps",
        "save_steps": 100,
        "logging_steps": 1,
        "learning_rate": 1e-3,
    }
    write_shop(tmp_path, base_folder, data={"validation": None}, training=training)
    process = subprocess.Popen(
        [sys.executable, "-m", "gptft", "finetune", "bot.yaml"],
        cwd=tmp_path,
        env=environment(tmp_path / "cache"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        deadline = time.monotonic() + 240
        while not list(tmp_path.glob("runs/bot-*/log.jsonl")) and process.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=240)
    finally:
        process.kill()
    assert process.returncode == 130, err
    assert out == "" and "Traceback" not in err
    [run] = tmp_path.glob("runs/bot-*")
    [checkpoint] = (run / "checkpoints").iterdir()
    step = int(checkpoint.name.removeprefix("checkpoint-"))
    assert f"Stopped at step {step} of 200, and saved." in err
    how = shlex.split(re.search(r"^ +gptft (finetune .* --resume)$", err, re.MULTILINE)[1])
    manifest = json.loads((run / "manifest.json").read_text())
    assert (manifest["state"], manifest["steps"]) == ("stopped", step)
    assert not (run / "model").exists()

    before = contents(checkpoint)
    monkeypatch.setenv("COLUMNS", "300")
    monkeypatch.chdir(tmp_path)
    with full_disk():
        message = refused(in_process(*how))
    assert "File too large" in message
    assert f"The checkpoint {checkpoint.name} is complete" in message and "--resume" in message
    assert contents(checkpoint) == before
    assert json.loads((run / "manifest.json").read_text())["state"] == "failed"

    finished = in_process(*how)
    assert finished.code == 0, finished.err
    assert finished.out.strip().endswith(str(run.relative_to(tmp_path)))
    assert f"{run.name} from {checkpoint.name}" in finished.message
    manifest = json.loads((run / "manifest.json").read_text())
    assert (manifest["state"], manifest["steps"]) == ("finished", 200)
    steps = [line["step"] for line in map(json.loads, (run / "log.jsonl").open()) if "loss" in line]
    assert sorted(set(steps)) == list(range(1, 201))
    assert load_file(run / "model" / "model.safetensors")
    assert "is finished" in in_process(*how).message


def test_out_of_space_at_the_end_keeps_the_earlier_run(shop, tuned, monkeypatch, own_cache):
    monkeypatch.chdir(shop)
    earlier = (shop / "runs" / "latest").resolve()
    before = contents(earlier / "model")
    with full_disk():
        result = in_process("finetune", "bot.yaml", "training.max_steps=1", "training.save_strategy=no")
    assert "File too large" in refused(result)
    assert contents(earlier / "model") == before
    [new] = [path for path in (shop / "runs").glob("bot-*") if path != earlier]
    assert not (new / "model").exists()
    assert [path.name for path in new.iterdir() if path.name.startswith(".")] == []


def test_a_hub_that_cannot_be_reached(tmp_path, base_folder, monkeypatch, own_cache):
    write_shop(
        tmp_path,
        base_folder,
        dialogues()[:8],
        model={"base": "openai-community/gpt2", "fallback": "starter"},
        data={"validation": None, "max_length": 64},
        training={"max_steps": 1, "save_strategy": "no", "per_device_train_batch_size": 2},
    )
    done = command(["finetune", "bot.yaml"], tmp_path)
    assert done.code == 0, done.err
    for words in ("Another base is used", "openai-community/gpt2", "HF_HUB_OFFLINE", "--no-fallback"):
        assert words in done.err
    base = json.loads((tmp_path / done.out.strip() / "manifest.json").read_text())["base"]
    assert (base["requested"], base["used"]) == ("openai-community/gpt2", "starter")
    assert "HF_HUB_OFFLINE" in base["fallback_reason"]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    message = refused(in_process("finetune", "bot.yaml", "--no-fallback"))
    assert "openai-community/gpt2 is not in the cache" in message and "model.base=starter" in message
    assert len(list((tmp_path / "runs").glob("bot-*"))) == 1
