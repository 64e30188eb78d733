"""Logits of labels: from a row's last real token, whatever stands beside it in a batch."""

from typing import Any

import pytest
import torch
from datasets import Dataset
from tiny import END, END_OF_TEXT, make_model, make_tokenizer
from torch.nn import functional
from transformers import GPT2ForSequenceClassification, set_seed

from gptft.models.classes import Classes
from gptft.models.logits import class_logits
from gptft.tasks import Classification
from gptft.training import losses
from gptft.training.batching import ClassCollator
from gptft.training.losses import dataset_class_logits

TEXTS = ["a", "a longer text", f"it ends in {END_OF_TEXT}", "<|pad|>", "ends in <|pad|>", "é" * 20, f"{END_OF_TEXT}"]
TOKENS = (5, 7, 200)
CLASSES = Classes(("a", "b", "c"))


def with_pad(own: bool) -> tuple[Any, int]:
    """A tokenizer and the size of its vocabulary: its pad token is its own, or end-of-text."""
    tokenizer = make_tokenizer()
    if own:
        tokenizer.add_special_tokens({"pad_token": "<|pad|>"})
    return tokenizer, len(tokenizer)


def models(vocabulary: int, pad: int) -> dict[tuple[int, ...], Any]:
    """Both heads, by the tokens that they read."""
    words = make_model(vocab_size=vocabulary, pad_token_id=pad, num_labels=3)
    set_seed(2)
    return {TOKENS: words, (): GPT2ForSequenceClassification(words.config).eval()}


def plain(model: Any, ids: list[int], tokens: tuple[int, ...]) -> torch.Tensor:
    """The labels' logits of one row, with transformers alone."""
    row = torch.tensor([ids])
    if tokens:
        return model(row).logits[0, -1, list(tokens)]
    return model.score(model.transformer(row)[0][0, -1])


@pytest.mark.parametrize("own_pad", [True, False])
@pytest.mark.parametrize("tokens", [TOKENS, ()])
@pytest.mark.parametrize("batch", [1, 2, 3, len(TEXTS)])
def test_logits_are_those_of_rows_one_by_one(own_pad, tokens, batch):
    tokenizer, vocabulary = with_pad(own_pad)
    pad = tokenizer.pad_token_id
    assert (pad == END) != own_pad
    model = models(vocabulary, pad)[tokens]
    data = Dataset.from_dict({"text": TEXTS, "targets": [["a"]] * len(TEXTS), "origin": TEXTS})
    rows = list(Classification(classes=CLASSES).examples(data, tokenizer, 100, "key"))
    collate = ClassCollator(pad, CLASSES.problem_type)
    found = [
        class_logits(model, collate(rows[start : start + batch]), tokens)[0] for start in range(0, len(rows), batch)
    ]
    expected = torch.stack([plain(model, row["input_ids"], tokens) for row in rows])
    torch.testing.assert_close(torch.cat(found), expected, rtol=0, atol=1e-5)
    assert expected.std(dim=0).min() > 1e-3  # rows differ, so that a wrong place is seen


@pytest.mark.parametrize("tokens", [TOKENS, ()])
def test_logits_of_a_data_set_are_in_its_order(tokens, monkeypatch):
    monkeypatch.setattr(losses, "EVALUATION_TOKENS", 60)
    model = models(257, END)[tokens].train()
    rows = [{"input_ids": list(range(1, 2 + n)), "labels": [0.0], "length": n + 1} for n in (3, 30, 1, 12, 7)]
    classes = Classes(CLASSES.names, token_ids=tokens)
    found = dataset_class_logits(model, Dataset.from_list(rows), classes, END)
    assert model.training
    expected = torch.stack([plain(model.eval(), row["input_ids"], tokens) for row in rows])
    torch.testing.assert_close(torch.from_numpy(found), expected, rtol=0, atol=1e-5)


def test_the_head_for_sequences_is_transformers_own():
    model = models(257, END)[()]
    rows = [{"input_ids": list(range(1, n)), "labels": [float(n % 3)]} for n in (4, 20, 9)]
    batch = ClassCollator(END, CLASSES.problem_type)(rows)
    plainly = model(
        batch["input_ids"],
        attention_mask=(torch.arange(19) < batch["lengths"][:, None]).long(),
        labels=batch["labels"],
    )
    logits, text = class_logits(model, batch)
    assert text is None
    torch.testing.assert_close(logits, plainly.logits, rtol=0, atol=1e-6)
    torch.testing.assert_close(functional.cross_entropy(logits, batch["labels"]), plainly.loss)


@pytest.mark.parametrize("lengths", [(4, 20, 1, 9), (1, 1), (7, 7)])
def test_the_loss_on_the_text_is_a_plain_language_models(lengths):
    model = models(257, END)[TOKENS]
    rows = [{"input_ids": [(7 * i + n) % 256 for i in range(n)], "labels": [0.0]} for n in lengths]
    batch = ClassCollator(END, CLASSES.problem_type)(rows)
    logits, text = class_logits(model, batch, TOKENS, with_text=True)
    torch.testing.assert_close(logits, class_logits(model, batch, TOKENS)[0], rtol=0, atol=1e-6)
    for row, loss in zip(rows, text, strict=True):
        ids = torch.tensor([row["input_ids"]])
        expected = model(ids, labels=ids).loss if ids.shape[1] > 1 else torch.tensor(0.0)
        torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-6)
    text.sum().backward()
    assert all(torch.isfinite(weight.grad).all() for weight in model.parameters() if weight.grad is not None)


def test_a_language_models_logits_exist_only_where_they_are_read():
    model = models(257, END)[TOKENS]
    projected: list[int] = []
    model.lm_head.register_forward_pre_hook(lambda _, inputs: projected.append(inputs[0].numel() // 32))
    batch = ClassCollator(END, CLASSES.problem_type)([{"input_ids": [1] * n, "labels": [0.0]} for n in (3, 9, 5)])
    class_logits(model, batch, TOKENS)
    class_logits(model, batch, TOKENS, with_text=True)
    assert projected == [3, 17]
