"""`gptft runs`: a table, one run, two side by side, and runs removed."""

import json
from pathlib import Path
from typing import Any

import pytest
from commands import in_process

from gptft.errors import UserError
from gptft.runs import Run
from gptft.runs.checkpoints import DIGESTS
from gptft.runs.listing import compare_runs, list_runs, remove_runs

SCORE = {"low": 0.4, "high": 0.8, "rows": 20, "definition": "share", "higher_is_better": True}


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Write a run of ./runs, without any training."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")

    def run(name: str, state: str = "finished", started: int = 1, accuracy: float | None = None, **recipe: Any) -> Run:
        made = Run(tmp_path / "runs" / name)
        made.folder.mkdir(parents=True)
        recipe = {"task": "classification", "evaluation": {"metrics": ["accuracy"]}, **recipe}
        made.recipe_file.write_text(json.dumps(recipe))
        made.update_manifest(
            task="classification",
            base={"used": "starter"},
            state=state,
            started=f"2026-11-25T10:00:0{started}+00:00",
            tokens_seen=1234,
            training_seconds=65.0,
            versions={"torch": "2.13.0"},
            data={"splits": {"train": {"kept": 5, "read": 6, "fingerprint": "abc", "sources": [{"path": "/x/a.csv"}]}}},
        )
        if state != "finished":
            folder = made.folder / "checkpoints" / "checkpoint-7"
            folder.mkdir(parents=True)
            (folder / DIGESTS).write_text("{}")
        if accuracy is not None:
            made.evaluation("test").mkdir(parents=True)
            scores = {name: {"name": name, "value": accuracy, **SCORE} for name in ("f1", "accuracy")}
            content = {"scores": scores, "base": {"accuracy": {"name": "accuracy", "value": 0.1, **SCORE}}}
            (made.evaluation("test") / "scores.json").write_text(json.dumps(content))
        return made

    return run


def test_runs_are_listed_by_age_with_the_recipes_first_metric(write):
    write("b-1", started=1, accuracy=0.5)
    write("a-1", "stopped", started=3).log_file.write_text('{"step": 1, "eval_loss": 2.5}\n')
    write("c-1", started=2).set_latest()
    (Path("runs") / "no run").mkdir()
    first, second, third = list_runs()
    assert [run.name for run in (first, second, third)] == ["b-1", "c-1", "a-1"]
    assert first.score is not None and (first.score["name"], first.score["split"]) == ("accuracy", "test")
    assert (first.state, first.resumable, first.latest) == ("finished", False, False)
    assert second.latest and second.score is None
    assert (third.state, third.resumable, third.validation_loss) == ("stopped", True, 2.5)
    lines = in_process("runs").out.splitlines()
    words = " ".join(lines[1].split())
    assert words == "b-1 classification starter accuracy 0.500 [0.400, 0.800] 1,234 1 min 05 s finished"
    assert "c-1 (latest)" in lines[2]
    assert "validation loss 2.5000" in lines[3] and lines[3].rstrip().endswith("stopped, resumable")
    assert [run["name"] for run in json.loads(in_process("runs", "--json").out)] == ["b-1", "c-1", "a-1"]


def test_without_runs_there_is_a_hint(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "gptft finetune" in in_process("runs").out and in_process("runs", "--json").out == "[]\n"


def test_one_run_is_shown(write):
    write("b-1", "failed", accuracy=0.5).update_manifest(reason="OSError: the disk is full")
    said = " ".join(in_process("runs", "show", "b-1").out.split())
    for part in (
        "state failed, resumable from checkpoint-7",
        "reason OSError: the disk is full",
        "train 5 of 6 rows from a.csv",
        "accuracy (test) 0.500 [0.400, 0.800], base 0.100",
    ):
        assert part in said
    wrong = in_process("runs", "show", "nothing")
    assert wrong.code == 2 and "nothing is no run" in wrong.message


def test_two_runs_are_compared_key_by_key(write):
    a = write("a-1", accuracy=0.5, training={"seed": 1, "lr": 0.1}, data={"train": [{"path": "x"}]})
    b = write("b-1", accuracy=0.6, training={"seed": 2, "lr": 0.1}, data={"train": [{"path": "x"}, {"path": "y"}]})
    b.update_manifest(data={"splits": {"train": {"kept": 5, "fingerprint": "xyz"}}})
    found = compare_runs([a, b])
    assert found["recipe"] == [("training.seed", [1, 2]), ("data.train.1.path", [None, "y"])]
    assert found["data"] == [("train.fingerprint", ["abc", "xyz"])] and found["versions"] == []
    assert [(key, [score["value"] for score in values]) for key, values in found["scores"]] == [
        ("test.f1", [0.5, 0.6]),
        ("test.accuracy", [0.5, 0.6]),
    ]
    said = " ".join(in_process("runs", "diff", "a-1", "b-1").out.split())
    assert "training.seed 1 2" in said and "versions: no difference" in said
    assert "test.accuracy 0.500 [0.400, 0.800] 0.600 [0.400, 0.800]" in said


def test_removing_moves_latest_to_the_newest_that_is_of_use(write):
    for number, state in enumerate(("finished", "stopped", "failed", "finished"), start=1):
        write(f"r-{number}", state, started=number)
    # A failed run without a checkpoint is nothing to go on with.
    (Path("runs/r-3/checkpoints/checkpoint-7") / DIGESTS).unlink()
    Run(Path("runs/r-4")).set_latest()
    assert [run.folder.name for run in remove_runs(["latest", "r-4"])] == ["r-4"]
    assert sorted(file.name for file in Path("runs").iterdir()) == ["latest", "r-1", "r-2", "r-3"]
    assert Path("runs/latest").resolve().name == "r-2"
    done = in_process("runs", "rm", "--yes", "r-1", "r-2", "runs/r-3")
    assert done.code == 0 and done.out.count("Removed") == 3
    assert list(Path("runs").iterdir()) == []


def test_what_is_running_or_no_run_is_never_removed(write, tmp_path):
    running = write("a-1", "running")
    write("b-1")
    elsewhere = write("../elsewhere")
    with running.held(), pytest.raises(UserError) as error:
        remove_runs(["a-1", "b-1", "nothing", str(elsewhere.folder)])
    lines = str(error.value).splitlines()
    assert lines[0].startswith("a-1 is running") and lines[1].startswith("nothing is no run")
    assert lines[2].endswith("elsewhere is no run in runs/.") and lines[3].startswith("Nothing was removed")
    assert Path("runs/b-1").is_dir() and elsewhere.folder.is_dir()
    assert list_runs()[0].state == "killed"


def test_removing_asks_first(write, monkeypatch):
    write("a-1")
    unasked = in_process("runs", "rm", "a-1")
    assert unasked.code == 2 and "--yes" in unasked.message
    asked = []
    monkeypatch.setattr("sys.stdin.isatty", lambda: True)

    def refuse(text: str, abort: bool) -> None:
        asked.append(text)
        raise SystemExit(1)

    monkeypatch.setattr("typer.confirm", refuse)
    assert in_process("runs", "rm", "a-1").code == 1
    assert asked == ["Remove this run for good?"] and Path("runs/a-1").is_dir()
