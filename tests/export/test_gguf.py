from __future__ import annotations

import numpy as np
import pytest
from tiny import END_OF_TEXT, greedy, make_model, make_tokenizer

from gptft.errors import UserError
from gptft.export import export_model
from gptft.export.gguf import Gguf
from gptft.models.loading import LoadedModel
from gptft.models.templates import render_prompt

gguf = pytest.importorskip("gguf", reason="gguf is not installed: pip install 'gptft[gguf]'")
TALK = [
    {"role": "user", "content": f" Hi{END_OF_TEXT}there "},
    {"role": "assistant", "content": "Yes?"},
    {"role": "user", "content": "Boots."},
]


@pytest.fixture
def without_llama(monkeypatch):
    monkeypatch.setattr("gptft.export.gguf.find_spec", lambda name: None)


def contents(folder):
    return gguf.GGUFReader(folder / "model.gguf")


def test_tensors_lie_as_llama_cpp_has_them(speaker, tmp_path, without_llama):
    export = export_model(speaker, "gguf", tmp_path / "out")
    assert export.runtime.startswith("transformers ") and export.agreement == 1 and 0 < export.difference < 0.1
    assert list(export.sizes) == ["model.gguf"]
    tensors = {tensor.name: tensor for tensor in contents(tmp_path / "out").tensors}
    first = speaker.model.transformer.h[0]
    up = tensors["blk.0.ffn_up.weight"]
    assert up.tensor_type == gguf.GGMLQuantizationType.F16
    np.testing.assert_array_equal(up.data, first.mlp.c_fc.weight.detach().T.half().numpy())
    norm, places = tensors["blk.0.attn_norm.weight"], tensors["position_embd.weight"]
    assert norm.tensor_type == places.tensor_type == gguf.GGMLQuantizationType.F32
    # The head is the embeddings, once.
    assert "output.weight" not in tensors and len(tensors) == len(list(speaker.model.parameters()))


def test_an_own_head_is_written_and_rows_without_a_token_are_unused(tmp_path, speaker, without_llama):
    tokenizer = speaker.tokenizer
    model = make_model(vocab_size=len(tokenizer) + 5, tie_word_embeddings=False, initializer_range=0.3)
    export = export_model(LoadedModel(model, tokenizer, None), "gguf", tmp_path / "out")
    assert export.agreement > 0.9
    reader = contents(tmp_path / "out")
    assert "output.weight" in {tensor.name for tensor in reader.tensors}
    tokens, kinds = (reader.fields[f"tokenizer.ggml.{name}"].contents() for name in ("tokens", "token_type"))
    assert len(tokens) == len(kinds) == len(tokenizer) + 5
    assert kinds[-5:] == [gguf.TokenType.UNUSED] * 5 and kinds[tokenizer.eos_token_id] == gguf.TokenType.CONTROL
    assert [tokens[i] for i in range(len(tokenizer))] == tokenizer.convert_ids_to_tokens(range(len(tokenizer)))


def test_q8_0_is_half_of_f16(tmp_path, speaker, without_llama):
    half = export_model(speaker, "gguf", tmp_path / "f16")
    eight = export_model(speaker, "gguf", tmp_path / "q8_0", "q8_0")
    kinds = {str(tensor.name): tensor.tensor_type for tensor in contents(tmp_path / "q8_0").tensors}
    assert kinds["token_embd.weight"] == kinds["blk.1.attn_qkv.weight"] == gguf.GGMLQuantizationType.Q8_0
    assert eight.sizes["model.gguf"] < half.sizes["model.gguf"]
    assert half.difference < eight.difference < 1


def test_the_template_is_read_by_an_engine_that_knows_no_marks(tmp_path, speaker, without_llama):
    from jinja2 import Environment

    export_model(speaker, "gguf", tmp_path / "out")
    written = contents(tmp_path / "out").fields["tokenizer.chat_template"].contents()
    assert "generation %}" not in written.replace("add_generation_prompt %}", "") and "generation" in (
        speaker.tokenizer.chat_template
    )
    rendered = (
        Environment().from_string(written).render(messages=TALK, add_generation_prompt=True, eos_token=END_OF_TEXT)
    )
    assert rendered == speaker.tokenizer.apply_chat_template(TALK, tokenize=False, add_generation_prompt=True)


@pytest.mark.parametrize(
    "change",
    [{"activation_function": "relu"}, {"scale_attn_by_inverse_layer_idx": True}, {"scale_attn_weights": False}],
)
def test_what_llama_cpp_does_not_compute_is_refused(speaker, change):
    speaker.model.config.update(change)
    [(key, value)] = change.items()
    with pytest.raises(UserError, match=f"--to gguf writes GPT-2's architecture, and this model has {key}: {value}"):
        Gguf().check_model(speaker)


def test_another_kind_of_tokenizer_is_refused(speaker):
    from tokenizers import normalizers

    without_merges = LoadedModel(speaker.model, make_tokenizer(), None)
    speaker.tokenizer.backend_tokenizer.normalizer = normalizers.Lowercase()
    for loaded in (without_merges, speaker):
        with pytest.raises(UserError, match="--to gguf writes tokenizers of GPT-2's kind"):
            Gguf().check_model(loaded)


@pytest.mark.parametrize("quantization", ["f16", "q8_0"])
def test_llama_cpp_reads_the_same_tokens_and_says_the_same(tmp_path, speaker, quantization):
    llama_cpp = pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed: it compiles for minutes")
    export = export_model(speaker, "gguf", tmp_path / "out", quantization)
    assert export.runtime.startswith("llama-cpp-python ") and export.agreement > 0.9
    if quantization == "q8_0":
        return
    llama = llama_cpp.Llama(str(tmp_path / "out" / "model.gguf"), n_ctx=128, verbose=False)
    prompt = render_prompt(speaker.tokenizer, TALK)
    found = llama.generate(prompt, top_k=1, temp=0.0, repeat_penalty=1.0)
    assert [token for token, _ in zip(found, range(20), strict=False)] == greedy(speaker, prompt)
    text = "  it's  12,345 tabs\t\n\n\nÜber 東京 🙂" + END_OF_TEXT + "x"
    assert llama.tokenize(text.encode(), special=True) == speaker.tokenizer(text)["input_ids"]
    # An untrained model cuts letters in two, which llama-cpp-python leaves out.
    answer = llama.create_chat_completion(TALK, temperature=0.0, max_tokens=20)["choices"][0]["message"]["content"]
    assert answer == speaker.tokenizer.decode(greedy(speaker, prompt)).replace("\ufffd", "")
    llama.close()
