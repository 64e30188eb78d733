"""What the embedded model must be, so that every recipe runs without a network."""

import json

import pytest
from safetensors import safe_open

from gptft.models.bases import STARTER
from gptft.models.loading import load_model, load_tokenizer
from gptft.models.templates import CHAT_TEMPLATE

END_OF_TEXT = "<|endoftext|>"


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer(str(STARTER))


def test_it_is_small_safe_and_half_precision():
    files = {path.name: path.stat().st_size for path in STARTER.iterdir()}
    assert files["model.safetensors"] <= 24_000_000
    assert sum(files.values()) <= 25_000_000
    assert [name for name in files if name.endswith((".bin", ".pt", ".pth", ".pkl", ".py"))] == []
    with safe_open(STARTER / "model.safetensors", "np") as weights:
        types = {weights.get_slice(name).get_dtype() for name in weights.keys()}  # noqa: SIM118
    assert types == {"F16"}


def test_its_tokenizer_has_one_special_token(tokenizer):
    assert len(tokenizer) == 8192
    assert [token.content for token in tokenizer.added_tokens_decoder.values()] == [END_OF_TEXT]
    assert set(tokenizer.all_special_tokens) == {END_OF_TEXT}
    assert tokenizer.eos_token == tokenizer.pad_token == END_OF_TEXT
    text = "Où est mon colis? 北京 \U0001f600\n\ttabs"
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_its_template_is_the_one_of_fine_tuning(tokenizer):
    assert tokenizer.chat_template == CHAT_TEMPLATE


def test_it_loads_in_full_precision_and_all_files_agree(tokenizer):
    loaded = load_model("starter")
    assert {str(weight.dtype) for weight in loaded.model.parameters()} == {"torch.float32"}
    assert loaded.model.get_input_embeddings().weight.shape[0] == len(tokenizer)
    assert 8_000_000 < loaded.model.num_parameters() < 13_000_000
    assert loaded.positions >= 512
    for name in ("config.json", "generation_config.json"):
        ids = json.loads((STARTER / name).read_text(encoding="utf-8"))
        assert ids["eos_token_id"] == ids["pad_token_id"] == ids["bos_token_id"] == tokenizer.eos_token_id


def test_it_has_a_card():
    card = (STARTER / "README.md").read_text(encoding="utf-8")
    for word in ("license:", "tokens seen", "held-out loss", "How to reproduce", "recipes/starter.yaml", "SGD", "PEPs"):
        assert word in card
