from __future__ import annotations

import pytest
from tiny import greedy

from gptft.errors import UserError
from gptft.export import export_model
from gptft.models.loading import LoadedModel

ctranslate2 = pytest.importorskip("ctranslate2", reason="not installed: pip install 'gptft[ctranslate2]'")


def test_the_answers_are_the_models(speaker, tmp_path):
    from transformers import AutoTokenizer

    export = export_model(speaker, "ctranslate2", tmp_path / "out")
    assert export.runtime.startswith("ctranslate2 ") and export.agreement == 1 and export.difference < 1e-3
    generator = ctranslate2.Generator(str(tmp_path / "out"), intra_threads=1)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    prompt = tokenizer("Do you sell boots?")["input_ids"]
    tokens = tokenizer.convert_ids_to_tokens(prompt)
    options = {"sampling_topk": 1, "max_length": 20, "include_prompt_in_result": False, "return_end_token": True}
    assert generator.generate_batch([tokens], **options)[0].sequences_ids[0] == greedy(speaker, prompt)


def test_eight_bits_leave_the_model_itself_alone(speaker, tmp_path):
    before = {name: weight.clone() for name, weight in speaker.model.named_parameters()}
    whole = export_model(speaker, "ctranslate2", tmp_path / "float32")
    export = export_model(speaker, "ctranslate2", tmp_path / "int8", "int8")
    assert all(weight.equal(before[name]) for name, weight in speaker.model.named_parameters())
    assert export.sizes["model.bin"] < whole.sizes["model.bin"] / 2
    assert export.agreement > 0.8 and whole.difference < export.difference


def test_a_kind_that_it_cannot_convert_is_one_sentence(speaker, tmp_path):
    from transformers import OpenAIGPTConfig, OpenAIGPTLMHeadModel

    config = OpenAIGPTConfig(n_layer=1, n_head=2, n_embd=32, n_positions=64, vocab_size=len(speaker.tokenizer))
    loaded = LoadedModel(OpenAIGPTLMHeadModel(config).eval(), speaker.tokenizer, None)
    with pytest.raises(UserError, match="CTranslate2 does not take this model: No conversion is registered"):
        export_model(loaded, "ctranslate2", tmp_path / "out")
    assert not (tmp_path / "out").exists()
