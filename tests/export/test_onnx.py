from __future__ import annotations

import re

import pytest
import torch
from tiny import greedy

from gptft.errors import UserError
from gptft.export import export_model
from gptft.models.loading import LoadedModel

for package in ("onnx", "onnxscript", "onnxruntime"):
    pytest.importorskip(package, reason=f"{package} is not installed: pip install 'gptft[onnx]'")


def session(folder):
    import onnxruntime

    return onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])


def check_names_no_place(folder):
    content = (folder / "model.onnx").read_bytes()
    assert not re.findall(rb"[^\x00]{0,40}(?:site-packages|\.py\b|/home/|/tmp/)[^\x00]{0,40}", content)


def test_prompts_of_unequal_lengths_are_decoded_together_with_the_cache(speaker, tmp_path, monkeypatch):
    # As of a model too large for one file.
    monkeypatch.setattr("gptft.export.onnx.ONE_FILE", 1000)
    export = export_model(speaker, "onnx", tmp_path / "out")
    assert export.runtime.startswith("onnxruntime ") and export.agreement == 1 and export.difference < 1e-3
    assert {"model.onnx", "config.json", "generation_config.json", "tokenizer.json"} <= export.sizes.keys()
    assert export.sizes["model.onnx.data"] > 100_000 > export.sizes["model.onnx"]
    check_names_no_place(tmp_path / "out")
    graph = session(tmp_path / "out")
    shapes = {entry.name: entry.shape for entry in graph.get_inputs()}
    assert shapes["input_ids"] == shapes["position_ids"] == ["batch", "length"]
    assert shapes["past_key_values.1.value"] == ["batch", 2, "past", 16]
    prompts = [[5, 6, 7, 8, 9, 10], [11, 12], [13]]
    length = max(map(len, prompts))
    pad = speaker.tokenizer.pad_token_id
    ids = torch.tensor([[pad] * (length - len(prompt)) + prompt for prompt in prompts])
    mask = torch.tensor([[0] * (length - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    past = {name: torch.zeros(3, 2, 0, 16) for name in shapes if name.startswith("past")}
    positions, answers = (mask.cumsum(1) - 1).clamp(min=0), []
    for _ in range(8):
        feed = {"input_ids": ids, "attention_mask": mask, "position_ids": positions, **past}
        logits, *present = graph.run(None, {name: values.numpy() for name, values in feed.items()})
        past = dict(zip(past, map(torch.from_numpy, present), strict=True))
        ids = torch.from_numpy(logits[:, -1].argmax(-1))[:, None]
        answers.append(ids)
        mask = torch.cat([mask, torch.ones_like(ids)], dim=1)
        positions = mask.sum(1, keepdim=True) - 1
    assert torch.cat(answers, dim=1).tolist() == [greedy(speaker, prompt, 8) for prompt in prompts]


def test_a_classifier_gives_the_logits_of_its_labels(classifier, tmp_path):
    export = export_model(classifier, "onnx", tmp_path / "out")
    assert export.places == 3 and export.difference < 1e-3
    assert "model.onnx.data" not in export.sizes
    check_names_no_place(tmp_path / "out")
    graph = session(tmp_path / "out")
    assert [entry.name for entry in graph.get_inputs()] == ["input_ids", "attention_mask"]
    texts = ["so glad", "how very sad", "no"]
    batch = classifier.tokenizer(texts, padding=True, padding_side="right", return_tensors="pt")
    expected = [classifier.model(**classifier.tokenizer(text, return_tensors="pt")).logits[0] for text in texts]
    [logits] = graph.run(None, {name: batch[name].numpy() for name in ("input_ids", "attention_mask")})
    torch.testing.assert_close(torch.from_numpy(logits), torch.stack(expected), rtol=0, atol=1e-3)


def test_a_model_without_a_cache_is_refused(tokenizer, tmp_path):
    from transformers import OpenAIGPTConfig, OpenAIGPTLMHeadModel

    model = OpenAIGPTLMHeadModel(OpenAIGPTConfig(n_layer=1, n_head=2, n_embd=32, n_positions=64, vocab_size=257)).eval()
    with pytest.raises(UserError, match="--to onnx: OpenAIGPTLMHeadModel keeps no keys and values of past tokens"):
        export_model(LoadedModel(model, tokenizer, None), "onnx", tmp_path / "out")
    assert not (tmp_path / "out").exists()
