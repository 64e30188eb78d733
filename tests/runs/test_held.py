"""One process at a time trains a run, and a run whose process is gone is known for it."""

import subprocess
import sys

import pytest

from gptft.errors import UserError
from gptft.runs import Run, new_run
from gptft.runs.checkpoints import DIGESTS
from gptft.runs.folder import resumable_run

HOLD = """
import sys, time
from pathlib import Path
from gptft.runs import Run
run = Run(Path(sys.argv[1]))
with run.held() as locked:
    run.update_manifest(state="running")
    print(locked, flush=True)
    time.sleep(60)
"""


@pytest.fixture
def run(tmp_path) -> Run:
    made = new_run("bot", tmp_path)
    made.recipe_file.write_text("task: dialogue\n")
    made.update_manifest(state="stopped")
    folder = made.folder / "checkpoints" / "checkpoint-3"
    folder.mkdir(parents=True)
    (folder / DIGESTS).write_text("{}")
    return made


def test_a_run_is_running_as_long_as_its_process_lives(run, tmp_path):
    assert (run.state, run.is_held()) == ("stopped", False)
    with subprocess.Popen([sys.executable, "-c", HOLD, run.folder], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "True\n"
        assert (run.state, run.is_held()) == ("running", True)
        with pytest.raises(UserError, match="in use: another process trains it"), run.held():
            pass
        with pytest.raises(UserError, match="is being trained by another process"):
            resumable_run("bot", tmp_path)
        process.kill()
    # The lock goes with the process, though no one has told the manifest.
    assert (run.manifest["state"], run.state) == ("running", "killed")
    assert resumable_run("bot", tmp_path) == run


def test_a_run_is_held_until_the_block_ends(run):
    with run.held() as locked:
        assert locked and run.is_held()
        # To look at what is trained removes no checkpoint that is being written.
        half = run.folder / "checkpoints" / "checkpoint-4"
        half.mkdir()
        assert run.checkpoint().name == "checkpoint-3"
        assert half.is_dir()
    assert not run.is_held()


def test_a_file_system_without_locks(run, monkeypatch):
    import fcntl

    def no_locks(file, operation):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    run.update_manifest(state="running")
    with run.held() as locked:
        assert locked is False
    assert (run.is_held(), run.state) == (None, "running")


def test_the_log_is_read_without_a_line_that_was_cut_off(run):
    assert run.log() == []
    run.log_file.write_text('{"step": 1, "loss": NaN}\n{"step": 2, "lo')
    (line,) = run.log()
    assert line["step"] == 1
