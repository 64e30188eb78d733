"""Messages of the libraries underneath that are wrong or useless here are dropped, one by one and by their text."""

from __future__ import annotations

import logging
import warnings

EXPECTED = (
    # Rows are padded on the right and never read there: causal attention needs no mask (see models/logits.py).
    "We strongly recommend passing in an `attention_mask`",
    # The base's special tokens are set by gptft, for tokenizer, config and generation together.
    "Model config: bos_token_id must be",
    "Model config: eos_token_id must be",
    "Model config: pad_token_id must be",
    "The tokenizer has new PAD/BOS/EOS tokens",
    # GPT-2's head shares its weights with the embeddings, so a checkpoint holds them once.
    "There were missing keys in the checkpoint model loaded: ['lm_head.weight']",
    # Long documents are tokenised whole and cut into rows afterwards.
    "Token indices sequence length is longer than",
    # Checkpoints are numbered, and the numbers are what it goes by then.
    "mtime may not be reliable",
    "`loss_type=None` was set in the config",
    # The head of a classifier is new, and drawn by the recipe's seed.
    "score.weight",
)


class _Expected(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        return not any(text in str(record.msg) for text in EXPECTED)


def quiet_libraries() -> None:
    """Drop the messages in `EXPECTED`, and the progress bars of loading; everything else is still shown."""
    import datasets
    import transformers

    for handler in logging.getLogger("transformers").handlers:
        handler.addFilter(_Expected())
    transformers.utils.logging.disable_progress_bar()
    datasets.disable_progress_bars()
    warnings.filterwarnings("ignore", message=".*pin_memory.*")
    # PEFT still asks transformers under the old name.
    warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated")
