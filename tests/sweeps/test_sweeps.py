"""A sweep of eight trials, also one that is killed; what is refused, and what fails."""

import json
import signal
import subprocess
import sys
import time

import optuna
import pytest
import yaml
from commands import command, environment, in_process
from filelock import FileLock
from optuna.trial import TrialState
from shop import dialogues, write_shop

from gptft import load_recipe, sweeps
from gptft.errors import GptftError, UserError
from gptft.recipe.schema import SweepSection
from gptft.runs import Run
from gptft.runs.listing import compare_runs, list_runs

RANGES = {
    "training.learning_rate": {"low": 1e-4, "high": 3e-2, "log": True},
    "training.per_device_train_batch_size": [4, 8],
    "model.config.n_inner": [None],
}
SWEEP = {"ranges": RANGES}


def shop(folder, base, **sections):
    training = {"num_train_epochs": 2} | sections.pop("training", {})
    return write_shop(folder, base, dialogues()[:16], training=training, **{"sweep": SWEEP, **sections})


def study(folder):
    return optuna.load_study(study_name="bot", storage=f"sqlite:///{folder}/sweeps/bot/study.db")


def facts(folder):
    """What the trials of a sweep were and came to, without names that have the time in them."""
    return [
        (trial.state.name, trial.value, trial.user_attrs["values"], trial.intermediate_values)
        for trial in study(folder).trials
    ]


@pytest.fixture(scope="module")
def swept(tmp_path_factory, base_folder):
    """A sweep of eight trials, and what its command said.

    In a process of its own, as what it is compared with: whoever has set torch's number of threads once, as other tests
    have, gets other roundings from MKL.
    """
    folder = tmp_path_factory.mktemp("swept")
    shop(folder, base_folder)
    return folder, command(["sweep", "bot.yaml", "--trials", "8"], folder)


def test_eight_trials_are_eight_runs(swept, monkeypatch):
    folder, result = swept
    assert result.code == 0, result.err
    assert result.out == "sweeps/bot/best.yaml\n"
    monkeypatch.chdir(folder)
    trials, runs = study(folder).trials, list_runs()
    assert len(trials) == len(runs) == 8
    for trial, run in zip(trials, sorted(runs, key=lambda run: run.name), strict=True):
        assert trial.user_attrs["run"] == run.name and run.name.startswith(f"bot-trial-{trial.number + 1}-")
        manifest = Run(folder / "runs" / run.name).manifest
        assert manifest["sweep"]["values"] == trial.user_attrs["values"]
        said = yaml.safe_load((folder / "runs" / run.name / "recipe.yaml").read_text())
        assert said["training"]["learning_rate"] == trial.params["training.learning_rate"]
        assert not run.resumable and not (folder / "runs" / run.name / "checkpoints").exists()
        assert f"{trial.params['training.learning_rate']:.4g}" in result.err
    pruned = [trial for trial in trials if trial.state is TrialState.PRUNED]
    assert pruned, "seed 0 draws some that are far worse"
    for trial in pruned:
        run = Run(folder / "runs" / trial.user_attrs["run"])
        assert run.state == "stopped" and run.manifest["reason"].startswith("pruned at step")
        assert not run.model.exists()
    differences = compare_runs([Run(folder / "runs" / run.name) for run in runs[:2]])
    assert "training.learning_rate" in dict(differences["recipe"])
    assert (folder / "sweeps/bot/sweep.png").read_bytes().startswith(b"\x89PNG")


def test_the_best_recipe_gives_its_score_again(swept, monkeypatch):
    folder, _ = swept
    monkeypatch.chdir(folder)
    best = study(folder).best_trial
    assert best.value == min(trial.value for trial in study(folder).trials if trial.state is TrialState.COMPLETE)
    assert (folder / "runs/latest").resolve().name == best.user_attrs["run"]
    assert load_recipe("sweeps/bot/best.yaml").sweep is None
    again = command(["finetune", "sweeps/bot/best.yaml"], folder)
    assert again.code == 0, again.err
    evaluations = [line["eval_loss"] for line in Run(folder / again.out.strip()).log() if "eval_loss" in line]
    assert evaluations[-1] == best.value
    assert Run(folder / again.out.strip()).folder.name.startswith("bot-2")


def test_killed_and_begun_again_it_is_the_sweep_that_was_never_killed(swept, tmp_path, base_folder, monkeypatch):
    shop(tmp_path, base_folder)
    how = ["sweep", "bot.yaml", "--trials", "8"]
    process = subprocess.Popen(
        [sys.executable, "-m", "gptft", *how],
        cwd=tmp_path,
        env=environment(tmp_path / "cache"),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + 200
        while not list(tmp_path.glob("runs/bot-trial-4-*/checkpoints/checkpoint-*/trainer_state.json")):
            assert time.monotonic() < deadline and process.poll() is None
            time.sleep(0.005)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert [trial.state.name for trial in study(tmp_path).trials][3:] == ["RUNNING"]
    monkeypatch.chdir(tmp_path)
    result = command(how, tmp_path)
    assert result.code == 0, result.err
    assert "Resuming" in result.err and "Trial 3 of 8" not in result.err
    assert len(list_runs()) == 8
    assert facts(tmp_path) == facts(swept[0])
    best = [(folder / "sweeps/bot/best.yaml").read_text().splitlines()[2:] for folder in (tmp_path, swept[0])]
    assert [line for line in best[0] if "path:" not in line and "base:" not in line] == [
        line for line in best[1] if "path:" not in line and "base:" not in line
    ]


@pytest.fixture
def quick(tmp_path, base_folder, monkeypatch, own_cache):
    """A folder with a recipe, and a place of a training that is over at once."""
    monkeypatch.chdir(tmp_path)
    shop(tmp_path, base_folder)
    scores = {}

    def finetune(recipe, *, resume, watch):
        run = Run(tmp_path / "runs" / recipe.name)
        run.folder.mkdir(parents=True)
        run.recipe_file.touch()
        rows = scores.get("rows", "same")
        run.update_manifest(state="finished", base={}, data={"splits": {"validation": {"fingerprint": rows}}})
        watch(run).trial.set_user_attr("score", next(scores["of"]))
        return run

    monkeypatch.setattr(sweeps, "finetune", finetune)
    return tmp_path, scores


def test_failures_are_counted_three_in_a_row_end_the_sweep_and_nothing_else_is_mixed_in(quick):
    folder, scores = quick
    scores["of"] = iter([float("nan"), float("nan"), 2.0, float("nan"), 1.0])
    sweeps.sweep("bot.yaml", 5)
    assert [trial.state.name for trial in study(folder).trials] == ["FAIL", "FAIL", "COMPLETE", "FAIL", "COMPLETE"]
    assert "# Trial 5 (bot-trial-5), score on validation: 1.0\n" in (folder / "sweeps/bot/best.yaml").read_text()
    (folder / "sweeps/bot/best.yaml").unlink()
    sweeps.sweep("bot.yaml", 5)
    assert (folder / "sweeps/bot/best.yaml").is_file(), "killed before it was written, it is written now"
    with pytest.raises(UserError, match=r"begun with another recipe(?s:.*)name=ANOTHER_NAME"):
        sweeps.sweep("bot.yaml", 6, ["training.seed=5"])
    scores["rows"] = "others"
    with pytest.raises(GptftError, match=r"Three trials in a row failed\. The last: validation rows or fall"):
        sweeps.sweep("bot.yaml", 12)
    assert len(study(folder).trials) == 8


def test_a_grid_tries_each_combination_once_and_more_is_better_of_bleu(quick, base_folder):
    folder, scores = quick
    ranges = {
        "training.weight_decay": {"low": 0.0, "high": 0.2, "step": 0.1},
        "training.lr_scheduler_type": ["linear", "cosine"],
    }
    sweep = {"ranges": ranges, "sampler": "grid", "metric": "bleu"}
    shop(folder, base_folder, evaluation={"during_training": 2}, sweep=sweep)
    scores["of"] = iter([1.0, 3.0, 2.0, 1.0, 1.0, 1.0])
    sweeps.sweep("bot.yaml", 50)
    tried = [json.dumps(trial.user_attrs["values"]) for trial in study(folder).trials]
    assert len(tried) == len(set(tried)) == 6
    assert study(folder).best_trial.number == 1


def test_values_are_of_their_kinds_and_depend_on_the_number_of_the_trial_alone():
    section = SweepSection.model_validate(
        {
            "ranges": {
                "a": {"low": 2, "high": 8, "step": 2},
                "b": [True, 1, [1, "é"], {"x": None}],
                "c": {"low": 0, "high": 1.0},
            },
            "sampler": "random",
        }
    )

    def drawn():
        made = optuna.create_study()
        return [sweeps._draw(made.ask(), section) for _ in range(12)]

    values = drawn()
    assert values == drawn() and len({value["c"] for value in values}) == 12
    assert {value["a"] for value in values} <= {2, 4, 6, 8}
    assert all(any(value["b"] is one or value["b"] == one for one in section.ranges["b"]) for value in values)
    assert {type(value["b"]) for value in values} == {bool, int, list, dict}


def test_a_trial_is_taken_over_when_its_process_is_gone_and_only_then(tmp_path):
    from contextlib import ExitStack

    made = optuna.create_study(storage=f"sqlite:///{tmp_path}/study.db")

    def taken(count, shared=False, held=None):
        with ExitStack() as stack:
            trial = sweeps._next_trial(made, count, tmp_path, shared, held or stack)
            return trial and trial.number

    with ExitStack() as held:
        assert taken(3, held=held) == 0
        assert taken(3) == 1, "0 is under way"
        assert taken(3) == 1, "1 is not"
    assert taken(3) == 0
    made.tell(0, 1.0)
    made.tell(1, 1.0)
    assert made.ask().number == 2
    assert taken(3, shared=True) is None, "another machine's"
    assert taken(4, shared=True) == 3
    with FileLock(tmp_path / ".2.lock"):
        assert taken(3) == 3
    made.tell(3, 1.0)
    assert taken(3) == 2


def test_what_ctrl_c_evaluates_in_the_middle_of_an_epoch_is_not_counted(tmp_path):
    from transformers import TrainerControl, TrainerState, TrainingArguments

    made = optuna.create_study(pruner=optuna.pruners.NopPruner())
    trial, run = made.ask(), Run(tmp_path)
    run.update_manifest(base={}, data={"splits": {"validation": {"fingerprint": "x"}}})
    watch = sweeps._Watch(trial, "loss", {}, run)
    arguments = TrainingArguments(str(tmp_path), eval_strategy="epoch", use_cpu=True)
    lines = []
    for step, epoch, loss in ((14, 1.0, 3.0), (15, 15 / 14, 2.9), (28, 2.0, 2.5)):
        lines.append(json.dumps({"step": step, "epoch": epoch, "eval_loss": loss}))
        run.log_file.write_text("\n".join(lines))
        watch.on_evaluate(arguments, TrainerState(global_step=step, max_steps=42), TrainerControl())
    assert made.get_trials()[0].intermediate_values == {1: 3.0, 2: 2.5}


def test_a_database_that_cannot_be_used_is_said_without_its_password(quick):
    result = in_process("sweep", "bot.yaml", "--storage", "postgresql://me:secret@nowhere.invalid/x")
    assert result.code == 2 and "The database of the sweep cannot be used" in result.message
    assert "secret" not in result.err and "Traceback" not in result.err


def test_without_optuna_the_command_says_how_to_get_it(quick, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    monkeypatch.delitem(sys.modules, "gptft.sweeps")
    result = in_process("sweep", "bot.yaml")
    assert result.code == 2 and "pip install 'gptft[sweep]'" in result.message


def test_a_recipe_without_a_sweep(quick):
    (quick[0] / "bot.yaml").write_text(json.dumps(json.loads((quick[0] / "bot.yaml").read_text()) | {"sweep": None}))
    result = in_process("sweep", "bot.yaml")
    assert result.code == 2 and "has no section `sweep`" in result.message
