"""A byte-level BPE trained on the data, for models from scratch."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from gptft.models.templates import CHAT_TEMPLATE

END_OF_TEXT = "<|endoftext|>"


def train_tokenizer(texts: Iterable[str], vocabulary_size: int) -> Any:
    """Train GPT-2's kind of tokenizer: byte-level BPE, `<|endoftext|>` its only special token.

    Args:
        texts: documents to learn merges from.
        vocabulary_size: number of tokens, at least 257 (each byte and end-of-text).

    Returns:
        A `GPT2Tokenizer` with gptft's chat template. It writes the digits of numbers as GPT-2's does.
    """
    import json

    from tokenizers import ByteLevelBPETokenizer
    from transformers import GPT2Tokenizer

    trainer = ByteLevelBPETokenizer()
    trainer.train_from_iterator(texts, vocab_size=vocabulary_size, special_tokens=[END_OF_TEXT], show_progress=False)
    trained = json.loads(trainer.to_str())["model"]
    # Annotated as strings, but the Rust tokenizer underneath takes pairs.
    merges: Any = [tuple(merge) for merge in trained["merges"]]
    tokenizer = GPT2Tokenizer(vocab=trained["vocab"], merges=merges, pad_token=END_OF_TEXT)
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer
