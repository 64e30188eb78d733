import errno
import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file
from tiny import DIALOGUES, make_model

from gptft.errors import GptftError, UserError
from gptft.runs import Run, find_run
from gptft.training.finetune import finetune
from gptft.training.progress import ProgressDisplay

# Two epochs of four full steps and a short one, with dropout: ten steps, a checkpoint every third.
ROWS = DIALOGUES[:17]
TRAINING = {
    "num_train_epochs": 2,
    "per_device_train_batch_size": 2,
    "gradient_accumulation_steps": 2,
    "save_strategy": "steps",
    "save_steps": 3,
    "logging_steps": 1,
}
DROPOUT = {"config": {"resid_pdrop": 0.2, "embd_pdrop": 0.1, "attn_pdrop": 0.1}}


@pytest.fixture
def train(write_recipe, tmp_path) -> Callable[..., Run]:
    """Fine-tune the same recipe; keywords change it or are finetune's."""

    def run(
        rows: Any = ROWS, runs: str = "runs", resume: bool = False, console: Console | None = None, **sections: Any
    ) -> Run:
        recipe = write_recipe(
            rows,
            model=DROPOUT | sections.pop("model", {}),
            training=TRAINING | sections.pop("training", {}),
            **sections,
        )
        return finetune(recipe, resume=resume, runs=tmp_path / runs, console=console)

    return run


@pytest.fixture
def at_step(monkeypatch):
    """Do something at the end of a step, once."""

    def install(step: int, action: Any) -> None:
        original = ProgressDisplay.on_step_end
        pending = [action]

        def on_step_end(self, args, state, control, **kwargs):
            if state.global_step == step and pending:
                pending.pop()()
            return original(self, args, state, control, **kwargs)

        monkeypatch.setattr(ProgressDisplay, "on_step_end", on_step_end)

    return install


def weights(run: Run) -> dict[str, torch.Tensor]:
    return load_file(run.model / "model.safetensors")


_whole: list[Any] = []


@pytest.fixture
def whole(train: Callable[..., Run]) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Weights and manifest of the uninterrupted run; it is trained once."""
    if not _whole:
        run = train(runs="whole")
        _whole.append((weights(run), run.manifest))
    return _whole[0]


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def interrupt() -> None:
    os.kill(os.getpid(), signal.SIGINT)


class Crash(Exception):
    pass


def crash() -> None:
    raise Crash("the power went")


def test_the_same_recipe_gives_the_same_weights(train, whole, tmp_path):
    first = train()
    assert same(weights(first), whole[0])
    assert not same(weights(first), weights(train(training={"seed": 43})))
    # So does the recipe that the run has kept, as it was resolved.
    from gptft.recipe import load_recipe

    assert same(weights(first), weights(finetune(load_recipe(first.recipe_file), runs=tmp_path / "again")))


@pytest.mark.parametrize("step", [2, 5, 8])
def test_stopped_and_resumed_equals_uninterrupted(train, whole, at_step, step, tmp_path):
    handler = signal.getsignal(signal.SIGINT)
    at_step(step, interrupt)
    stopped = train()
    assert stopped.manifest["state"] == "stopped"
    assert stopped.manifest["steps"] == step
    assert not stopped.model.exists()
    resumed = train(resume=True)
    assert resumed == stopped
    assert resumed.manifest["state"] == "finished"
    assert same(weights(resumed), whole[0])
    assert resumed.manifest["tokens_seen"] == whole[1]["tokens_seen"]
    assert signal.getsignal(signal.SIGINT) is handler
    assert find_run(None, tmp_path / "runs") == resumed


@pytest.mark.parametrize("damage", ["none", "no state", "half a state", "temporary"])
def test_killed_and_resumed_equals_uninterrupted(train, whole, at_step, tmp_path, damage):
    at_step(8, crash)
    with pytest.raises(GptftError, match=r"the power went(.|\n)*checkpoint-6 is complete(.|\n)*--resume"):
        train()
    [folder] = (tmp_path / "runs").glob("bot-*")
    assert Run(folder).manifest["state"] == "failed"
    newest = folder / "checkpoints" / "checkpoint-6"
    state = newest / "trainer_state.json"
    if damage == "no state":
        state.unlink()
    elif damage == "half a state":
        state.write_text(state.read_text()[:100])
    elif damage == "temporary":
        (newest.parent / "tmp-checkpoint-9").mkdir()
    resumed = train(resume=True)
    assert same(weights(resumed), whole[0])
    # The log tells of each step once, in order, with the time of the run as a whole.
    lines = [line for line in resumed.log() if "loss" in line]
    assert [line["step"] for line in lines] == list(range(1, 11))
    assert [line["seconds"] for line in lines] == sorted(line["seconds"] for line in lines)


def test_a_run_is_held_while_it_is_trained(train, at_step, tmp_path):
    seen = []
    at_step(2, lambda: seen.extend(Run(folder).state for folder in (tmp_path / "runs").glob("bot-*")))
    run = train()
    assert (seen, run.state, run.is_held()) == (["running"], "finished", False)
    assert "Not evaluated yet" in (run.folder / "report.html").read_text()


def test_a_second_interrupt_ends_at_once(train, at_step):
    at_step(2, lambda: (interrupt(), interrupt()))
    with pytest.raises(KeyboardInterrupt):
        train()


def test_validation_during_training_changes_nothing(train, whole):
    with_validation = train(data={"validation": "train.jsonl"}, training={"eval_strategy": "steps", "eval_steps": 3})
    assert same(weights(with_validation), whole[0])
    lines = [json.loads(line) for line in with_validation.log_file.read_text().splitlines()]
    losses = [line["eval_loss"] for line in lines if "eval_loss" in line]
    assert len(losses) == 4  # and one at the end
    assert losses[-1] < losses[0]


def test_resuming_another_recipe_is_refused(train, at_step):
    at_step(5, interrupt)
    train()
    with pytest.raises(UserError, match=r"started with another recipe \(training changed\)"):
        train(resume=True, training={"learning_rate": 0.5})


def test_resuming_other_data_is_refused(train, at_step):
    at_step(5, interrupt)
    train()
    with pytest.raises(UserError, match=r"data.*changed"):
        train(resume=True, rows=[{"prompt": "new", "completion": "rows"}] * 3 + [{"prompt": "a", "completion": "b"}])


def test_a_run_begun_on_the_fallback_resumes_on_it(train, at_step, base_folder, monkeypatch):
    from gptft.models import loading
    from gptft.models.bases import Base

    asked = []

    def resolve(name: str, revision: str | None = None, fallback: str | None = None) -> Base:
        asked.append(name)
        return Base(name, base_folder, fallback_reason=None if name == "starter" else "no answer")

    monkeypatch.setattr(loading, "resolve_base", resolve)
    section = {"base": "someone/somewhere", "fallback": "starter"}
    at_step(5, interrupt)
    stopped = train(model=section)
    assert find_run(None, stopped.folder.parent) == stopped
    run = train(model=section, resume=True)
    assert asked == ["someone/somewhere", "starter"]
    assert run.manifest["base"] == stopped.manifest["base"]
    assert run.manifest["base"]["fallback_reason"] == "no answer"


def test_there_may_be_nothing_to_resume(train):
    with pytest.raises(UserError, match="nothing to resume"):
        train(resume=True)
    finished = train(training={"max_steps": 1})
    with pytest.raises(UserError, match=f"The newest, {finished.folder.name}, is finished"):
        train(resume=True, training={"max_steps": 1})


def test_a_full_disk_at_a_checkpoint_leaves_the_earlier_one(train, whole, monkeypatch, tmp_path):
    import transformers

    original = transformers.GPT2LMHeadModel.save_pretrained

    def full(self: Any, folder: Any, **options: Any) -> None:
        if "checkpoint-6" in str(folder):
            (Path(folder) / "model.safetensors").write_bytes(b"half")
            raise OSError(errno.ENOSPC, "No space left on device")
        original(self, folder, **options)

    monkeypatch.setattr(transformers.GPT2LMHeadModel, "save_pretrained", full)
    with pytest.raises(GptftError, match=r"No space left on device(.|\n)*checkpoint-3 is complete"):
        train()
    [folder] = (tmp_path / "runs").glob("bot-*")
    assert Run(folder).manifest["state"] == "failed"
    assert "No space left" in Run(folder).manifest["reason"]
    monkeypatch.undo()
    assert same(weights(train(resume=True)), whole[0])


def test_a_full_disk_at_the_model_leaves_the_checkpoint(train, whole, monkeypatch, tmp_path):
    import transformers

    original = transformers.GPT2LMHeadModel.save_pretrained

    def full(self: Any, folder: Any, **options: Any) -> None:
        if "checkpoint" not in str(folder):
            raise OSError(errno.ENOSPC, "No space left on device")
        original(self, folder, **options)

    monkeypatch.setattr(transformers.GPT2LMHeadModel, "save_pretrained", full)
    with pytest.raises(GptftError, match=r"model could not be written: No space left on device") as caught:
        train()
    assert caught.value.exit_code == 1
    [folder] = (tmp_path / "runs").glob("bot-*")
    run = Run(folder)
    assert run.manifest["state"] == "failed"
    assert not run.model.exists()
    assert not [path for path in folder.iterdir() if path.name.startswith(".")]
    monkeypatch.undo()
    # Only the saving is done again: the checkpoint of the last step is there.
    assert same(weights(train(resume=True)), whole[0])


def test_generation_settings_that_contradict_each_other_are_told_before_training(train, tmp_path):
    with pytest.raises(UserError, match=r"evaluation.generation: `temperature`: `do_sample` is not set"):
        train(evaluation={"generation": {"do_sample": False, "temperature": 0.7}})
    assert not (tmp_path / "runs").exists()


def test_a_model_from_scratch_learns_its_tokenizer_from_the_data(train):
    shape = {"n_layer": 1, "n_head": 2, "n_embd": 16, "n_positions": 64}
    section = {"base": None, "vocab_size": 300, "config": shape}
    run = train(model=section)
    from gptft.models.loading import load_model

    loaded = load_model(str(run.folder))
    assert 257 < len(loaded.tokenizer) == loaded.model.config.vocab_size <= 300
    assert loaded.positions == 64
    assert len(loaded.tokenizer("Assistant")["input_ids"]) == 1
    assert same(weights(run), weights(train(model=section)))


def test_a_fallback_is_said_loudly_and_recorded(train, base_folder, monkeypatch):
    from gptft.models import bases

    monkeypatch.setattr(bases, "STARTER", base_folder)
    monkeypatch.setattr(bases, "hub_problem", lambda name, kind, revision: "no answer within 5 seconds")
    console = Console(record=True, width=100)
    run = train(model={"base": "someone/somewhere", "fallback": "starter"}, console=console)
    shown = console.export_text()
    assert "Another base is used" in shown and "no answer within 5 seconds" in shown
    base = run.manifest["base"]
    assert (base["requested"], base["used"]) == ("someone/somewhere", "starter")
    assert base["fallback_reason"] == "no answer within 5 seconds"


def test_the_manifest_tells_what_was_done(train):
    run = train(data={"validation": 0.2})
    manifest = run.manifest
    assert manifest["state"] == "finished"
    assert manifest["steps"] == len([line for line in run.log_file.read_text().splitlines() if '"loss"' in line])
    kept = {name: split["kept"] for name, split in manifest["data"]["splits"].items()}
    assert sum(kept.values()) == 17
    assert manifest["examples"]["train"]["rows"] == kept["train"]
    assert manifest["tokens_seen"] == 2 * manifest["examples"]["train"]["tokens"]
    assert manifest["precision"] == "float32"
    assert manifest["seed"] == 42
    assert manifest["versions"]["torch"] == torch.__version__


def test_a_tiny_model_learns_to_answer_and_to_stop(train):
    run = train(
        rows=[{"prompt": f"What is {word}?", "completion": f"It is {word}."} for word in ("red", "blue", "green")],
        model={"config": {"resid_pdrop": 0.0, "embd_pdrop": 0.0}},
        training={"num_train_epochs": 40, "learning_rate": 1e-2, "save_strategy": "no", "logging_steps": 50},
    )
    from gptft.models.loading import load_model
    from gptft.models.templates import render_prompt

    loaded = load_model(str(run.folder))
    assert loaded.tokenizer.pad_token_id == loaded.tokenizer.eos_token_id
    prompt = render_prompt(loaded.tokenizer, [{"role": "user", "content": "What is blue?"}])
    answer = loaded.model.generate(torch.tensor([prompt]), max_new_tokens=60, do_sample=False)[0, len(prompt) :]
    assert loaded.tokenizer.decode(answer) == "It is blue.<|endoftext|>"


def test_settings_that_transformers_refuses_are_the_users_mistake(train):
    with pytest.raises(UserError, match="training: "):
        train(
            training={"load_best_model_at_end": True, "save_strategy": "no", "eval_strategy": "epoch"},
            data={"validation": 0.2},
        )


def test_every_validation_batch_is_computed_in_the_precision_of_training(train, monkeypatch):
    from gptft.training import losses

    original, seen = losses.row_losses, []

    def spy(model, batch):
        head = model.get_output_embeddings()
        hook = head.register_forward_hook(lambda *_: seen.append(torch.is_autocast_enabled("cpu")))
        try:
            return original(model, batch)
        finally:
            hook.remove()

    monkeypatch.setattr(losses, "row_losses", spy)
    monkeypatch.setattr(losses, "EVALUATION_TOKENS", 1)
    train(model={"dtype": "bfloat16"}, training={"max_steps": 1}, data={"validation": 0.2})
    assert len(seen) > 1 and all(seen)


def test_an_adapter_trained_in_bfloat16_is_merged_by_what_it_says_in_float32(train, tmp_path, tokenizer):
    base = tmp_path / "loud"
    make_model(initializer_range=0.8).save_pretrained(base)
    tokenizer.save_pretrained(base)
    adapter = {"type": "lora", "r": 4}
    run = train(model={"base": str(base), "dtype": "bfloat16"}, adapter=adapter, training={"learning_rate": 0.05})
    assert run.manifest["state"] == "finished" and run.manifest["precision"] == "bfloat16"


def test_the_peak_of_memory_is_the_process_own():
    import subprocess
    import sys

    # A process begins with its parent's peak, as getrusage tells it.
    held = bytearray(600 * 2**20)
    code = "from gptft.runs.manifest import _peak_of_process as peak; print(peak())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 300 * 2**20 < len(held)
