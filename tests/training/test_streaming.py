"""Training on a stream: every row once a pass, the same order again, resumed to the same weights."""

import json
import shutil
from itertools import islice
from pathlib import Path

import pytest
import torch
from commands import command, in_process
from safetensors.torch import load_file
from tiny import NO_DROPOUT, make_model, make_tokenizer

from gptft.data.streams import blocks
from gptft.errors import UserError
from gptft.recipe import load_recipe
from gptft.runs import Run


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_model().save_pretrained("base")
    make_tokenizer().save_pretrained("base")
    for name, count in (("a", 40), ("b", 15)):
        rows = ({"prompt": f"{name}{n}?", "completion": f"it is {name}{n}" + "!" * (n % 7)} for n in range(count))
        Path(f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def write(name: str, **sections) -> Path:
    content = {
        "task": "dialogue",
        "name": name,
        "model": {"base": "base", "dtype": "float32", "config": {**NO_DROPOUT, "resid_pdrop": 0.1}},
        "data": {"train": "a.jsonl", "streaming": True, "buffer_rows": 10, "validation": "b.jsonl"},
        "training": {"max_steps": 12, "per_device_train_batch_size": 3, "logging_steps": 1, "save_steps": 5},
    }
    for key, value in sections.items():
        merged = {**content.get(key, {}), **value} if isinstance(value, dict) else value
        content[key] = {k: v for k, v in merged.items() if v is not None} if isinstance(merged, dict) else merged
    Path(f"{name}.yaml").write_text(json.dumps(content))
    return Path(f"{name}.yaml")


def origins(recipe, count: int, share: int = 0, shares: int = 1) -> list[str]:
    return [row["origin"] for block in islice(blocks(recipe, share, shares), count) for row in block]


def test_a_pass_has_every_row_once_and_the_order_is_the_same_again(folder):
    recipe = load_recipe(write("x"))
    once = origins(recipe, 4)
    assert sorted(once) == sorted(f"a.jsonl:{n}" for n in range(1, 41))
    assert once != sorted(once, key=lambda name: int(name.rpartition(":")[2]))
    assert origins(recipe, 4) == once
    assert origins(load_recipe(write("y", data={"seed": 1})), 4) != once


def test_shares_have_no_row_in_common(folder):
    recipe = load_recipe(write("x"))
    parts = [set(origins(recipe, 1, share, 4)) for share in range(4)]
    assert [len(part) for part in parts] == [10] * 4
    assert len(set().union(*parts)) == 40


def test_weights_say_how_often_a_source_is_met(folder):
    sources = [{"path": "a.jsonl", "weight": 3.0}, {"path": "b.jsonl", "weight": 1.0}]
    found = origins(load_recipe(write("x", data={"train": sources})), 200)
    assert 0.2 < sum(name.startswith("b.") for name in found) / len(found) < 0.3


def test_a_row_that_cannot_be_used_is_named(folder):
    with Path("a.jsonl").open("a") as file:
        file.write("{\n")
    with pytest.raises(UserError, match=r"a\.jsonl:41"):
        origins(load_recipe(write("x")), 6)


def test_stopped_in_the_middle_and_resumed_gives_the_same_weights(folder):
    write("whole")
    write("part", training={"save_total_limit": 9})
    for name in ("whole", "part"):
        done = in_process("finetune", f"{name}.yaml")
        assert done.code == 0, done.err
    (whole,), (part,) = (list(Path("runs").glob(f"{name}-2*")) for name in ("whole", "part"))
    # As a kill after step 5 leaves it.
    for late in ("checkpoints/checkpoint-10", "checkpoints/checkpoint-12", "model"):
        shutil.rmtree(part / late)
    Run(part).update_manifest(state="running")
    resumed = in_process("finetune", "part.yaml", "--resume")
    assert resumed.code == 0, resumed.err
    assert "from checkpoint-5" in resumed.message
    expected, found = (load_file(run / "model/model.safetensors") for run in (whole, part))
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    assert Run(whole).manifest["data"]["splits"]["train"]["streamed"] is True


def test_what_had_been_done_already_ends_at_once(folder):
    write("done", training={"max_steps": 5})
    assert in_process("finetune", "done.yaml").code == 0
    (run,) = Path("runs").glob("done-2*")
    before = load_file(run / "model/model.safetensors")
    # As a kill after the last checkpoint leaves it.
    shutil.rmtree(run / "model")
    Run(run).update_manifest(state="running")
    resumed = in_process("finetune", "done.yaml", "--resume")
    assert resumed.code == 0, resumed.err
    assert all(torch.equal(value, before[name]) for name, value in load_file(run / "model/model.safetensors").items())


def test_pretraining_packs_on_the_fly_in_two_processes_with_workers(folder):
    rows = [{"text": "word " * (n % 9 + 1)} for n in range(60)]
    Path("t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    training = {"max_steps": 4, "dataloader_num_workers": 2, "per_device_train_batch_size": 2}
    write("packed", task="pretraining", data={"train": "t.jsonl", "validation": None}, training=training)
    done = command(["finetune", "packed.yaml", "--launch", "2"], folder)
    assert done.code == 0, done.err
    (run,) = Path("runs").glob("packed-2*")
    assert Run(run).manifest["steps"] == 4
    # Nothing of the stream is kept.
    assert sum(file.stat().st_size for file in (folder / "cache").rglob("*.arrow")) == 0


def test_what_a_stream_needs_is_said_at_once(folder):
    write("x", task="classification", data={"validation": 0.1}, training={"max_steps": None})
    result = in_process("finetune", "x.yaml")
    assert result.code == 2
    for part in ("no end of its own", "give a source of its own", "reads all labels"):
        assert part in result.message
