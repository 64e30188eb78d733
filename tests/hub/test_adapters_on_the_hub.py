"""Adapters: pushed as adapters of a base on the Hub, or merged; and what is pushed while a training goes on."""

import json
from pathlib import Path

import pytest
from rich.console import Console

import gptft
from gptft.errors import UserError
from gptft.hub import push as pushing
from gptft.hub.push import Pushed, collect
from gptft.hub.training import check_ready
from gptft.recipe.schema import HubSection

LORA = {"adapter": {"type": "lora", "r": 2}}


@pytest.fixture
def base_on_the_hub(hub, base_folder, monkeypatch, tmp_path):
    """The tiny base in the cache as someone/tiny of the Hub."""
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    repository = tmp_path / "hub" / "models--someone--tiny"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("b" * 40)
    snapshot = repository / "snapshots" / ("b" * 40)
    snapshot.mkdir(parents=True)
    for file in base_folder.iterdir():
        (snapshot / file.name).write_bytes(file.read_bytes())
    (snapshot / "README.md").write_text("---\nlicense: apache-2.0\nlanguage: en\n---\n# Tiny\n")
    return "someone/tiny"


def test_an_adapter_names_its_base_and_revision(write_recipe, base_on_the_hub, tmp_path):
    recipe = write_recipe(model={"base": base_on_the_hub}, **LORA)
    run = gptft.finetune(recipe, runs=tmp_path / "runs", console=Console(quiet=True))
    contents = collect(run, "me/adapter")
    assert {"adapter_model.safetensors", "adapter_config.json"} < set(contents.files)
    assert "model.safetensors" not in contents.files
    config = json.loads(contents.files["adapter_config.json"].read_text())
    assert (config["base_model_name_or_path"], config["revision"]) == (base_on_the_hub, "b" * 40)
    card = contents.texts["README.md"]
    for said in ("base_model: someone/tiny", "base_model_relation: adapter", "library_name: peft", "AutoPeftModel"):
        assert said in card
    assert "license: apache-2.0" in card and str(tmp_path) not in card
    merged = collect(run, "me/merged", merge=True)
    assert "model.safetensors" in merged.files and "adapter_config.json" not in merged.files
    assert "base_model_relation: finetune" in merged.texts["README.md"]


def test_an_adapter_of_a_local_base_goes_up_merged_only(write_recipe, tmp_path):
    run = gptft.finetune(write_recipe(**LORA), runs=tmp_path / "runs", console=Console(quiet=True))
    with pytest.raises(UserError, match="Push the merged weights: --merge"):
        collect(run, "me/adapter", license="mit")
    assert "model.safetensors" in collect(run, "me/adapter", license="mit", merge=True).files


@pytest.mark.parametrize("adapter", [{}, LORA], ids=["full", "lora"])
def test_a_training_pushes_what_each_checkpoint_holds(write_recipe, base_on_the_hub, tmp_path, monkeypatch, adapter):
    import huggingface_hub

    sent: list[tuple[str, set[str]]] = []

    def upload(contents, repo_id, *args, message, **options):
        assert all(Path(file).is_file() for file in contents.files.values())
        sent.append((message, set(contents.files)))
        return Pushed("url", "commit", True)

    # Two names of one function: the module that makes the last push, and the one that pushes meanwhile.
    monkeypatch.setattr("gptft.hub.training.upload", upload)
    monkeypatch.setattr(pushing, "upload", lambda *args: upload(*args[:-1], message=args[-1]))
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: "hf_of_the_test")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    hub = {"repo_id": "me/bot", "strategy": "every_save"}
    training = {"num_train_epochs": 2, "save_strategy": "epoch"}
    recipe = write_recipe(model={"base": base_on_the_hub}, training=training, hub=hub, **adapter)
    run = gptft.finetune(recipe, runs=tmp_path / "runs", console=Console(quiet=True))
    assert sent[0][0].startswith("Step ") and sent[-1][0] == "bot by gptft"
    weights = "adapter_model.safetensors" if adapter else "model.safetensors"
    for _, files in sent:
        assert weights in files
        assert not files & {"optimizer.pt", "trainer_state.json", "training_args.bin", "scheduler.pt"}
    assert not list((run.folder / "checkpoints").glob(".push*"))


@pytest.mark.parametrize("place", ["gptft.hub.training.upload", "gptft.hub.training.os.link"])
def test_a_push_that_fails_while_training_is_said_and_costs_nothing(
    write_recipe, base_on_the_hub, tmp_path, monkeypatch, place
):
    import huggingface_hub

    def fails(*args, **options):
        raise OSError("it broke")

    monkeypatch.setattr(place, fails)
    monkeypatch.setattr(pushing, "upload", lambda *args: Pushed("url", "commit", True))
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: "hf_of_the_test")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    console = Console(record=True, width=200)
    recipe = write_recipe(model={"base": base_on_the_hub}, hub={"repo_id": "me/bot", "strategy": "every_save"})
    run = gptft.finetune(recipe, runs=tmp_path / "runs", console=console)
    assert run.manifest["state"] == "finished" and not list((run.folder / "checkpoints").glob(".push*"))
    assert "was not pushed" in console.export_text()


def test_what_a_training_cannot_push_is_said_before_it(write_recipe, tmp_path, monkeypatch):
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub, "get_token", lambda: None)
    run = gptft.runs.new_run("bot", tmp_path / "runs")
    run.recipe_file.write_text("task: dialogue\n")
    with pytest.raises(UserError, match=r"not logged in.*no licence is known"):
        check_ready(run, HubSection(repo_id="me/bot", strategy="end"))
    recipe = write_recipe(hub={"repo_id": "me/bot", "strategy": "end"})
    with pytest.raises(UserError, match="not logged in"):
        gptft.finetune(recipe, runs=tmp_path / "others", console=Console(quiet=True))
    (left,) = (tmp_path / "others").glob("bot-*")
    assert gptft.runs.Run(left).manifest["state"] == "failed"
