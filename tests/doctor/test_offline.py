import json
from pathlib import Path

import huggingface_hub
import pytest
from commands import in_process

from gptft.doctor import examine_recipe
from gptft.recipe.schema import AdapterSection


@pytest.fixture
def hub_cache(monkeypatch, tmp_path):
    """An empty cache of the Hub's; puts files into it as downloads do."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))

    def put(kind: str, name: str, *files: str) -> None:
        repository = tmp_path / "hub" / f"{kind}s--{name.replace('/', '--')}"
        snapshot = repository / "snapshots" / ("a" * 40)
        snapshot.mkdir(parents=True, exist_ok=True)
        (repository / "refs").mkdir(exist_ok=True)
        (repository / "refs" / "main").write_text("a" * 40)
        for file in files:
            (snapshot / file).write_text("{}")

    return put


def findings(recipe):
    return {finding.subject: (finding.status, finding.text) for finding in examine_recipe(recipe)}


def test_what_lies_on_this_disk_needs_no_network(write_recipe, tmp_path):
    recipe = write_recipe(data={"validation": "train.jsonl", "test": 0.1}, evaluation={"metrics": ["bleu", "chrf"]})
    found = findings(recipe)
    assert list(found) == ["base", "data.train", "data.validation", "metric bleu", "metric chrf", "offline"]
    assert {status for status, _ in found.values()} == {"ok"}
    assert found["data.train"][1].endswith(f"1 files, {(tmp_path / 'train.jsonl').stat().st_size:,} bytes")
    result = in_process("doctor", tmp_path / "bot.yaml")
    assert result.code == 0 and "can run without a network here" in " ".join(result.out.split())


def test_a_base_from_the_hub_needs_all_its_files(write_recipe, hub_cache, tmp_path):
    recipe = write_recipe(model={"base": "someone/model"})
    hub_cache("model", "someone/model", "config.json")
    status, text = findings(recipe)["base"]
    assert status == "problem" and "not in the cache: tokenizer.json, model.safetensors. With a network: hf" in text
    assert findings(recipe)["offline"] == ("problem", "this recipe cannot run without a network here: base")
    result = in_process("doctor", tmp_path / "bot.yaml", "--json")
    assert result.code == 1 and json.loads(result.out)[0]["subject"] == "base"
    with_fallback = findings(write_recipe(model={"base": "someone/model", "fallback": "starter"}))
    assert with_fallback["base"][0] == "note" and with_fallback["offline"][1].endswith("but from the starter")
    hub_cache("model", "someone/model", "vocab.json", "merges.txt", "model.safetensors")
    assert findings(recipe)["base"] == ("ok", "someone/model is in the cache")


def test_a_tokenizer_needs_its_own_files_alone(write_recipe, hub_cache):
    recipe = write_recipe(model={"tokenizer": "someone/tokenizer"})
    assert findings(recipe)["tokenizer"][0] == "problem"
    hub_cache("model", "someone/tokenizer", "tokenizer.json")
    assert findings(recipe)["tokenizer"][0] == "ok"
    scratch = {"base": None, "tokenizer": None, "config": {"n_layer": 1}}
    assert findings(write_recipe(model=scratch))["base"] == ("ok", "none: from scratch")


def test_an_adapter_needs_its_base(write_recipe, hub_cache, tmp_path):
    folder = tmp_path / "adapter"
    folder.mkdir()
    (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "someone/model"}')
    (folder / "adapter_model.safetensors").write_text("")
    found = findings(write_recipe(model={"base": str(folder)}))
    assert found["base"][0] == "ok" and found["base of the adapter"][0] == "problem"
    hub_cache("model", "me/adapter", "adapter_model.safetensors", "tokenizer.json")
    hub_cache("model", "me/adapter", "adapter_config.json")
    (config,) = tmp_path.glob("hub/models--me--adapter/snapshots/*/adapter_config.json")
    config.write_text('{"base_model_name_or_path": "someone/model", "revision": "main"}')
    found = findings(write_recipe(model={"base": "me/adapter"}))
    assert found["base"] == ("ok", "me/adapter is in the cache") and found["base of the adapter"][0] == "problem"
    # One that the recipe trains comes from nowhere.
    recipe = write_recipe()
    recipe.adapter = AdapterSection(type="lora")
    assert findings(recipe)["offline"][0] == "ok"


def test_a_data_set_from_the_hub_is_looked_for_in_the_cache_alone(write_recipe, monkeypatch):
    recipe = write_recipe(data={"test": {"path": "someone/rows", "split": "dev"}})
    monkeypatch.setattr("huggingface_hub.HfApi.dataset_info", lambda *_, **__: pytest.fail("the Hub was asked"))
    status, text = findings(recipe)["data.test"]
    assert status == "problem" and text.startswith("someone/rows is not in the cache (")
    asked = []

    def load(path, name, split, revision, streaming):
        import datasets.config

        asked.append((path, split, datasets.config.HF_HUB_OFFLINE))
        return [1, 2, 3]

    monkeypatch.setattr("datasets.load_dataset", load)
    assert findings(recipe)["data.test"] == ("ok", "someone/rows is in the cache: 3 rows")
    assert asked == [("hf://datasets/someone/rows", "dev", True)]


def test_metrics_may_need_files(write_recipe, hub_cache, monkeypatch, tmp_path):
    monkeypatch.setattr("sacrebleu.utils.SACREBLEU_DIR", str(tmp_path))
    script = tmp_path / "own.py"
    script.write_text("")
    names = ["bleu:tokenize=zh", "bleu:tokenize=flores200", "meteor", str(script), "./nowhere.py", "a..b"]
    recipe = write_recipe(evaluation={"metrics": names})
    found = findings(recipe)
    assert [found[f"metric {name}"][0] for name in names] == ["ok", "problem", "problem", "ok", "problem", "problem"]
    hub_cache("space", "evaluate-metric/meteor", "meteor.py")
    assert findings(recipe)["metric meteor"][0] == "ok"
    Path(tmp_path / "models").mkdir()
    (tmp_path / "models" / "flores200sacrebleuspm").write_text("")
    # The file is there, and what reads it is not.
    assert "sentencepiece" in findings(recipe)["metric bleu:tokenize=flores200"][1]
