import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny import END_OF_TEXT

from gptft.models.tokenizer import train_tokenizer


@pytest.fixture(scope="module")
def trained():
    return train_tokenizer(["Where is my order? It is on its way.", "Ordnung muß sein: 12345"] * 5, 300)


@given(text=st.text())
def test_any_text_comes_back(trained, text):
    ids = trained(text, split_special_tokens=True)["input_ids"]
    assert trained.decode(ids, clean_up_tokenization_spaces=False) == text
    assert trained.eos_token_id not in ids


def test_end_of_text_is_the_only_special_token(trained, tmp_path):
    trained.save_pretrained(tmp_path)
    from transformers import AutoTokenizer

    for tokenizer in (trained, AutoTokenizer.from_pretrained(tmp_path)):
        assert tokenizer.all_special_tokens == [END_OF_TEXT]
        assert len(tokenizer) <= 300
        assert tokenizer.eos_token == tokenizer.pad_token == END_OF_TEXT
        assert tokenizer(f"a{END_OF_TEXT}")["input_ids"][-1] == tokenizer.eos_token_id
        assert tokenizer.chat_template
    # It has learned something.
    assert len(trained("Where is my order?")["input_ids"]) < len("Where is my order?")
