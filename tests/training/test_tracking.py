"""Experiment trackers, each without a network: what the Trainer logs, the recipe, and the scores of `gptft eval`."""

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from gptft.errors import RecipeError, UserError
from gptft.evaluation import evaluate
from gptft.runs import Run
from gptft.training.arguments import training_arguments
from gptft.training.finetune import finetune

ROWS = [{"text": f"text {number}", "label": "odd" if number % 2 else "even"} for number in range(12)]


@pytest.fixture
def tracked(write_recipe, tmp_path, monkeypatch) -> Callable[[str], Run]:
    """Train a classifier for two steps with a tracker, and evaluate it."""
    monkeypatch.chdir(tmp_path)

    def run(name: str) -> Run:
        recipe = write_recipe(
            ROWS,
            task="classification",
            data={"validation": "train.jsonl"},
            training={"max_steps": 2, "logging_steps": 1, "eval_strategy": "no", "report_to": name, "seed": 4321},
            evaluation={"metrics": ["accuracy"]},
        )
        made = finetune(recipe, runs=tmp_path / "runs")
        (score,) = evaluate(str(made.folder), compare_base=False, runs=tmp_path / "runs").scores
        made.update_manifest(expected=score.value)
        return made

    return run


def events(folder: Path) -> dict[str, Any]:
    """Tag -> last value in TensorBoard's files: records of length, checksum, event, checksum."""
    from tensorboardX.proto.event_pb2 import Event

    found: dict[str, Any] = {}
    for file in sorted(folder.iterdir(), key=lambda file: file.stat().st_mtime):
        data = file.read_bytes()
        while data:
            (length,) = struct.unpack("<Q", data[:8])
            for value in Event.FromString(data[12 : 12 + length]).summary.value:
                texts = value.tensor.string_val
                found[value.tag] = texts[0].decode() if texts else value.simple_value
            data = data[16 + length :]
    return found


def test_tensorboard(tracked):
    pytest.importorskip("tensorboardX", reason="tensorboardX is not installed")
    run = tracked("tensorboard")
    found = events(run.folder / "tensorboard")
    assert "seed: 4321" in found["recipe/text_summary"] and "train.jsonl" in found["recipe/text_summary"]
    assert found["train/loss"] == pytest.approx(run.log()[1]["loss"])
    assert found["validation/accuracy"] == pytest.approx(run.manifest["expected"])
    assert found["validation/accuracy_low"] <= found["validation/accuracy"] <= found["validation/accuracy_high"]
    # Nothing of it lies in a folder that is named by the machine.
    assert not (run.folder / "checkpoints" / "runs").exists()


def test_mlflow(tracked, tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow", reason="mlflow is not installed")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    run = tracked("mlflow")
    (found,) = mlflow.search_runs(search_all_experiments=True, output_format="list")
    assert found.info.run_name == run.folder.name and found.info.status == "FINISHED"
    assert found.data.metrics["validation/accuracy"] == pytest.approx(run.manifest["expected"])
    assert found.data.metrics["loss"] == pytest.approx(run.log()[1]["loss"])
    assert "seed: 4321" in mlflow.artifacts.load_text(f"{found.info.artifact_uri}/recipe.yaml")


def test_trackio(tracked, tmp_path, monkeypatch):
    # Before the import, which reads it.
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    trackio = pytest.importorskip("trackio", reason="trackio is not installed")
    run = tracked("trackio")
    (found,) = trackio.Api().runs("huggingface")
    assert found.name == run.folder.name and found.config["recipe"]["training"]["seed"] == 4321
    assert found.config["max_steps"] == 2
    from trackio.sqlite_storage import SQLiteStorage

    lines = SQLiteStorage.get_logs("huggingface", found.name, run_id=found.id)
    logged = {key: value for line in lines for key, value in line.items()}
    assert logged["validation/accuracy"] == pytest.approx(run.manifest["expected"])


def test_weights_and_biases(tracked, tmp_path, monkeypatch):
    pytest.importorskip("wandb", reason="wandb is not installed")
    for name, value in {"MODE": "offline", "DIR": str(tmp_path), "SILENT": "true"}.items():
        monkeypatch.setenv(f"WANDB_{name}", value)
    run = tracked("wandb")
    ends = run.manifest["tracking"]["wandb"]["id"]
    # Offline, what is added later may be in a file of its own; `wandb sync` joins those of one run.
    content = b"".join(file.read_bytes() for file in (tmp_path / "wandb").glob(f"offline-run-*/run-{ends}.wandb"))
    assert b"4321" in content and run.folder.name.encode() in content and b"validation/accuracy_low" in content


def test_a_tracker_that_fails_costs_no_scores(tracked, capsys):
    pytest.importorskip("tensorboardX", reason="tensorboardX is not installed")
    run = tracked("tensorboard")
    run.update_manifest(tracking={"no_such_tracker": {}})
    console = Console(stderr=True, width=200)
    evaluate(str(run.folder), compare_base=False, console=console)
    assert "Warning: the scores are not in no_such_tracker: ModuleNotFoundError" in capsys.readouterr().err


def test_a_tracker_that_is_not_there_is_said_before_anything_is_loaded(write_recipe, monkeypatch, tmp_path):
    monkeypatch.setattr("gptft.recipe.checks.find_spec", lambda name: None)
    with pytest.raises(RecipeError, match="report_to: found 'mlflow', which is not installed: pip install mlflow"):
        write_recipe(training={"report_to": ["mlflow", "none"]})
    with pytest.raises(UserError, match=r"tensorbord is not supported, only .*tensorboard"):
        training_arguments(write_recipe(training={"report_to": "tensorbord"}), tmp_path, False)
