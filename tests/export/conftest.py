"""A small language model and a small classifier, whose logits are far enough apart to be compared when rounded."""

from typing import Any

import pytest
from shop import dialogues
from tiny import make_model

from gptft.models.classes import Classes
from gptft.models.loading import LoadedModel
from gptft.models.tokenizer import train_tokenizer


def words() -> list[str]:
    return [turn["content"] for row in dialogues() for turn in row["messages"]]


@pytest.fixture
def speaker() -> LoadedModel:
    """A GPT-2 with a tokenizer that has merges."""
    tokenizer = train_tokenizer(words(), 300)
    end = tokenizer.eos_token_id
    ends = {"bos_token_id": end, "eos_token_id": end, "pad_token_id": end}
    return LoadedModel(make_model(vocab_size=len(tokenizer), initializer_range=0.3, **ends), tokenizer, None)


@pytest.fixture
def classifier(tokenizer: Any) -> LoadedModel:
    """A GPT-2 with a head for three labels."""
    from transformers import GPT2ForSequenceClassification, set_seed

    config = make_model(initializer_range=0.3).config
    Classes(("joy", "grief", "rage")).write_to(config)
    set_seed(1)
    return LoadedModel(GPT2ForSequenceClassification(config).eval(), tokenizer, None)
