import json
import os
from pathlib import Path

import pytest

from gptft.errors import GptftError, UserError
from gptft.runs import Run, find_run, latest_run, new_run
from gptft.runs.checkpoints import DIGESTS, WRITING, put_in_place
from gptft.runs.folder import resumable_run
from gptft.runs.manifest import hardware, peak_memory_bytes, versions


def finished(run: Run, state: str = "finished") -> Run:
    run.recipe_file.write_text("task: dialogue\n")
    run.update_manifest(state=state)
    return run


def checkpoint(run: Run, step: int, state: str | None = '{"global_step": 1}') -> Path:
    folder = run.folder / "checkpoints" / f"checkpoint-{step}"
    folder.mkdir(parents=True)
    if state is not None:
        (folder / "trainer_state.json").write_text(state)
        put_in_place(folder.rename(folder.with_name("place")), folder)
    return folder


def test_runs_of_the_same_second_have_names_of_their_own(tmp_path):
    runs = [new_run("bot", tmp_path / "runs") for _ in range(4)]
    assert len({run.folder for run in runs}) == 4
    assert all(run.folder.is_dir() and run.folder.name.startswith("bot-2") for run in runs)
    # The later one sorts last, as resuming takes it for the newest.
    assert sorted(runs, key=lambda run: run.folder.name) == runs


def test_a_folder_that_cannot_be_made_is_one_sentence(tmp_path):
    (tmp_path / "runs").write_text("a file")
    with pytest.raises(GptftError, match="runs could not be written"):
        new_run("bot", tmp_path / "runs")


def test_latest_names_the_newest_and_moves_with_the_folder(tmp_path):
    with pytest.raises(UserError, match="There is no run"):
        latest_run(tmp_path)
    first, second = (finished(new_run("bot", tmp_path)) for _ in range(2))
    first.set_latest()
    assert latest_run(tmp_path) == Run(first.folder.resolve())
    second.set_latest()
    assert latest_run(tmp_path) == Run(second.folder.resolve())
    assert os.readlink(tmp_path / "latest") == second.folder.name
    assert sorted(os.listdir(tmp_path)) == sorted([first.folder.name, second.folder.name, "latest"])


def test_latest_that_points_nowhere_is_no_run(tmp_path):
    (tmp_path / "latest").symlink_to("gone")
    with pytest.raises(UserError, match="There is no run"):
        find_run(None, tmp_path)


def test_a_run_is_found_by_folder_by_name_and_as_the_latest(tmp_path):
    run = finished(new_run("bot", tmp_path / "runs"))
    run.set_latest()
    found = Run(run.folder.resolve())
    assert find_run(str(run.folder), tmp_path / "runs") == found
    assert find_run(run.folder.name, tmp_path / "runs") == found
    assert find_run("latest", tmp_path / "runs") == found
    assert find_run(None, tmp_path / "runs") == found
    assert find_run("openai-community/gpt2", tmp_path / "runs") is None
    (tmp_path / "model").mkdir()
    assert find_run(str(tmp_path / "model"), tmp_path / "runs") is None


def test_the_manifest_keeps_what_is_not_set_anew(tmp_path, monkeypatch):
    run = new_run("bot", tmp_path)
    assert run.manifest == {}
    run.update_manifest(state="running", seed=1)
    run.update_manifest(state="finished")
    assert run.manifest == {"state": "finished", "seed": 1}

    def no_space(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", no_space)
    with pytest.raises(GptftError, match=r"manifest.json could not be written: No space left"):
        run.update_manifest(state="lost")
    assert json.loads((run.folder / "manifest.json").read_text())["state"] == "finished"


def test_the_newest_complete_checkpoint_counts_by_number(tmp_path):
    run = new_run("bot", tmp_path)
    assert run.checkpoint() is None
    checkpoint(run, 9)
    tenth = checkpoint(run, 10)
    checkpoint(run, 11, None)
    (run.folder / "checkpoints" / "tmp-checkpoint-99").mkdir()
    assert run.checkpoint() == tenth


@pytest.mark.parametrize("harm", ["changed", "cut", "gone", "more", "digests", "unsealed"])
def test_a_damaged_checkpoint_is_put_aside_and_the_one_before_it_taken(tmp_path, harm):
    run = new_run("bot", tmp_path)
    ninth, tenth = checkpoint(run, 9), checkpoint(run, 10)
    state = tenth / "trainer_state.json"
    if harm == "changed":
        state.write_text('{"global_step": 2}')
    elif harm == "cut":
        os.truncate(state, 3)
    elif harm == "gone":
        state.unlink()
    elif harm == "more":
        (tenth / "adapter_model.safetensors").write_text("what nobody wrote")
    else:
        (tenth / DIGESTS).write_text("{") if harm == "digests" else (tenth / DIGESTS).unlink()
    said: list[str] = []
    assert run.checkpoint(put_aside=said.append) == ninth
    assert len(said) == 1 and said[0].startswith("checkpoint-10 is left out, as ")
    [aside] = (run.folder / "checkpoints").glob("damaged-*")
    assert aside.name in said[0] and not tenth.exists()
    assert run.checkpoint() == ninth


def test_what_a_kill_left_of_a_checkpoint_is_finished_or_removed(tmp_path):
    run = new_run("bot", tmp_path)
    ninth, tenth = checkpoint(run, 9), checkpoint(run, 10)
    writing = run.folder / "checkpoints" / WRITING
    writing.mkdir()
    tenth.rename(writing / tenth.name)
    (writing / "checkpoint-11").mkdir()
    assert run.checkpoint() == ninth
    assert run.checkpoint(put_aside=pytest.fail) == tenth
    assert sorted(path.name for path in (run.folder / "checkpoints").iterdir()) == ["checkpoint-10", "checkpoint-9"]


def test_resuming_takes_the_newest_unfinished_run_of_that_name(tmp_path):
    with pytest.raises(UserError, match="nothing to resume: no unfinished run of bot"):
        resumable_run("bot", tmp_path)
    old, wanted, without, done = (new_run("bot", tmp_path) for _ in range(4))
    for run in (old, wanted, done, new_run("bot-two", tmp_path)):
        checkpoint(run, 1)
        finished(run, "stopped")
    finished(without, "failed")
    finished(done)
    assert resumable_run("bot", tmp_path) == Run(wanted.folder.resolve())


def test_resuming_does_not_take_a_run_of_a_longer_name(tmp_path):
    other = new_run("bot-2", tmp_path)
    checkpoint(other, 1)
    finished(other, "stopped")
    with pytest.raises(UserError, match="nothing to resume"):
        resumable_run("bot", tmp_path)


def test_facts_name_the_computation_and_nobody(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    facts = json.dumps([versions(), hardware(), peak_memory_bytes()])
    for package in ("torch", "transformers", "peft", "gptft"):
        assert f'"{package}": "' in facts
    import platform

    assert platform.node() not in facts
    assert "hf_secret" not in facts
    assert 10_000_000 < peak_memory_bytes()["process"] < 10**12
