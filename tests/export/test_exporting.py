from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from commands import in_process
from safetensors import safe_open

from gptft.errors import GptftError, UserError
from gptft.export import FORMATS, export_model, find_format
from gptft.export.merged import Merged
from gptft.models.adapters import add_adapter
from gptft.models.loading import load_model, save_model
from gptft.recipe.schema import AdapterSection

IDS = torch.arange(12).reshape(2, 6)


def test_an_adapter_is_merged_into_a_plain_folder_with_tied_embeddings(base_folder, tmp_path):
    from peft import AutoPeftModelForCausalLM
    from transformers import AutoModelForCausalLM, AutoTokenizer

    loaded = load_model(str(base_folder))
    adapted = add_adapter(loaded.model, AdapterSection.model_validate({"type": "lora"}))
    with torch.no_grad():
        for weight in adapted.parameters():
            weight.add_(0.1 * torch.randn_like(weight)) if weight.requires_grad else None
    save_model(adapted, loaded.tokenizer, tmp_path / "adapter")
    export = export_model(load_model(str(tmp_path / "adapter")), "merged", tmp_path / "merged")
    assert (export.agreement, export.difference) == (1, 0)
    assert export.runtime.startswith("transformers ")
    assert export.sizes == {path.name: path.stat().st_size for path in (tmp_path / "merged").iterdir()}
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "merged").eval()
    expected = AutoPeftModelForCausalLM.from_pretrained(tmp_path / "adapter").eval()(IDS).logits
    torch.testing.assert_close(plain(IDS).logits, expected, rtol=0, atol=1e-5)
    assert plain.lm_head.weight is plain.transformer.wte.weight
    with safe_open(tmp_path / "merged" / "model.safetensors", "pt") as file:
        assert "lm_head.weight" not in file.keys()  # noqa: SIM118 - no mapping
    assert AutoTokenizer.from_pretrained(tmp_path / "merged").chat_template == loaded.tokenizer.chat_template


def test_an_export_that_is_not_the_model_is_not_kept(speaker, tmp_path, monkeypatch):
    write = Merged.write

    def transpose(self, loaded, folder, quantization):
        weight = loaded.model.transformer.h[0].attn.c_proj.weight
        before = weight.detach().clone()
        weight.data = before.T.contiguous()
        write(self, loaded, folder, quantization)
        weight.data = before

    monkeypatch.setattr(Merged, "write", transpose)
    with pytest.raises(
        GptftError, match=r"Read back with transformers .* the export is not the model, and is not kept"
    ):
        export_model(speaker, "merged", tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


MISSING = {"gguf": "gguf", "ollama": "gguf", "onnx": "onnx, onnxscript, onnxruntime", "ctranslate2": "ctranslate2"}


@pytest.mark.parametrize(("to", "packages"), MISSING.items())
def test_what_is_missing_is_named_before_any_work(monkeypatch, tmp_path, to, packages):
    monkeypatch.setattr("gptft.export.base.find_spec", lambda name: None)
    monkeypatch.chdir(tmp_path)
    # The model does not exist either, which only loading it would tell.
    done = in_process("export", "./nowhere", "--to", to)
    assert (done.code, done.out) == (2, "")
    assert (
        f"--to {to} needs {packages}, not installed here: pip install 'gptft[{packages.split(',')[0]}]'" in done.message
    )


def test_formats_and_quantizations_that_do_not_exist_are_answered_with_those_that_do():
    with pytest.raises(UserError, match=r"--to ggml: .* merged, gguf, ollama, onnx, ctranslate2"):
        find_format("ggml")
    with pytest.raises(UserError, match="--quantization q8_0: merged takes float32"):
        find_format("merged", "q8_0")


def test_what_exists_is_never_replaced(speaker, tmp_path):
    (tmp_path / "mine").write_text("kept")
    for place in (tmp_path, tmp_path / "mine"):
        with pytest.raises(UserError, match="exists already: delete it, or name another"):
            export_model(speaker, "merged", place)
    assert (tmp_path / "mine").read_text() == "kept"


@pytest.mark.parametrize("name", FORMATS)
def test_only_some_formats_take_a_head_for_labels(classifier, name):
    kind = FORMATS[name]
    if kind.classifiers:
        return kind.check_model(classifier)
    with pytest.raises(
        UserError, match=rf"--to {name} takes language models, .*ForSequenceClassification.* merged, onnx"
    ):
        kind.check_model(classifier)


def test_a_classifier_is_compared_by_its_labels(classifier, tmp_path):
    export = export_model(classifier, "merged", tmp_path / "out")
    assert (export.places, export.agreement, export.difference) == (3, 1, 0)
    assert json.loads((tmp_path / "out" / "config.json").read_text())["id2label"]["2"] == "rage"


def test_the_command_names_folder_files_and_comparison(base_folder, tmp_path, monkeypatch):
    run = tmp_path / "runs" / "bot-1"
    (run / "model").mkdir(parents=True)
    (run / "recipe.yaml").touch()
    for file in base_folder.iterdir():
        (run / "model" / file.name).write_bytes(file.read_bytes())
    monkeypatch.chdir(tmp_path)
    # No format is a plain folder; of a run it lies in the run, of a folder here.
    for target, place in ((run, "runs/bot-1/export/merged"), (run / "model", "model-merged")):
        done = in_process("export", target)
        assert done.code == 0, done.err
        assert done.out == f"{place}\n"
        size = (Path(place) / "model.safetensors").stat().st_size
        assert f"model.safetensors: {size:,} bytes" in done.err
        assert "the likeliest token is the same in 100.0% of" in done.err and "differ by at most 0." in done.err
    again = in_process("export", run)
    assert again.code == 2 and "exists already" in again.message
