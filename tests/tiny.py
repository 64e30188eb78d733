"""Tiny things to train, made in a moment: a byte-level tokenizer, a two-layer GPT-2, rows of token ids."""

import random
from typing import Any

END_OF_TEXT = "<|endoftext|>"
END = 256
NO_DROPOUT = {"attn_pdrop": 0.0, "resid_pdrop": 0.0, "embd_pdrop": 0.0}
DIALOGUES = [
    {"prompt": f"What is {number}?", "completion": "It is " + "so " * (number % 5) + str(number)}
    for number in range(22)
]


def make_tokenizer() -> Any:
    """One token a byte and end-of-text, with gptft's chat template."""
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import GPT2Tokenizer

    from gptft.models.templates import CHAT_TEMPLATE

    vocabulary = {token: index for index, token in enumerate([*sorted(ByteLevel.alphabet()), END_OF_TEXT])}
    tokenizer = GPT2Tokenizer(vocab=vocabulary, merges=[], pad_token=END_OF_TEXT)
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def make_model(**settings: Any) -> Any:
    """A GPT-2 of two layers, always with the same weights; keywords are fields of its configuration."""
    from transformers import GPT2Config, GPT2LMHeadModel, set_seed

    set_seed(1)
    shape = {"n_layer": 2, "n_head": 2, "n_embd": 32, "n_positions": 128, "vocab_size": 257}
    ends = {"bos_token_id": END, "eos_token_id": END, "pad_token_id": END}
    return GPT2LMHeadModel(GPT2Config(**{**shape, **ends, **settings})).eval()


def make_rows(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Rows of unequal lengths with unequal numbers of supervised tokens, each closed by a supervised end-of-text."""
    draw, rows = random.Random(seed), []
    for _ in range(count):
        ids = [draw.randrange(256) for _ in range(draw.randint(6, 40))] + [END]
        context = draw.randint(1, len(ids) - 1)
        rows.append({"input_ids": ids, "labels": [-100] * context + ids[context:], "length": len(ids)})
    return rows


def greedy(loaded: Any, prompt: list[int], count: int = 20) -> list[int]:
    """The tokens that plain transformers answers a prompt with, where `loaded` is a LoadedModel."""
    import torch

    output = loaded.model.generate(torch.tensor([prompt]), do_sample=False, max_new_tokens=count)
    return output[0, len(prompt) :].tolist()
