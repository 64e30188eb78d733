from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from tiny import END, make_model, make_rows

from gptft.models.logits import row_losses, supervised_loss_sum
from gptft.training import losses
from gptft.training.batching import Collator
from gptft.training.losses import dataset_losses


def one_at_a_time(model: Any, rows: list[dict[str, Any]]) -> list[float]:
    """Sum of the negative log-likelihood of each row's supervised tokens: whole logits, no padding, float64."""
    sums = []
    for row in rows:
        ids, labels = torch.tensor([row["input_ids"]]), row["labels"]
        with torch.no_grad():
            logs = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[0].double().log_softmax(-1)
        sums.append(-sum(logs[t - 1, labels[t]].item() for t in range(1, len(labels)) if labels[t] != -100))
    return sums


def test_losses_of_rows_equal_a_naive_loop(monkeypatch):
    model, rows = make_model(), make_rows(30)
    monkeypatch.setattr(losses, "EVALUATION_TOKENS", 150)  # several batches of unequal rows
    sums, counts = dataset_losses(model, Dataset.from_list(rows), END)
    np.testing.assert_allclose(sums, one_at_a_time(model, rows), rtol=1e-5)
    assert counts.tolist() == [sum(label != -100 for label in row["labels"]) for row in rows]


def test_training_mode_and_dropout_do_not_leak_into_a_measurement():
    model, rows = make_model(resid_pdrop=0.5).train(), make_rows(5)
    sums, _ = dataset_losses(model, Dataset.from_list(rows), END)
    assert model.training
    np.testing.assert_allclose(sums, one_at_a_time(model.eval(), rows), rtol=1e-5)


def test_training_loss_is_the_sum_of_the_rows():
    model, rows = make_model(), make_rows(6)
    batch = Collator(END)(rows)
    sums, _ = row_losses(model, batch)
    assert supervised_loss_sum(model, batch).item() == pytest.approx(sums.sum().item(), rel=1e-5)


def test_a_batch_with_nothing_supervised_has_a_zero_gradient():
    model = make_model()
    batch = {"input_ids": torch.tensor([[1, 2, 3]]), "labels": torch.full((1, 3), -100)}
    loss = supervised_loss_sum(model, batch)
    loss.backward()
    assert loss.item() == 0.0
    assert all(weight.grad is None or not weight.grad.any() for weight in model.parameters())


@pytest.mark.parametrize("read", [row_losses, supervised_loss_sum])
def test_logits_exist_only_where_a_supervised_token_follows(read):
    model, rows = make_model(), make_rows(10)
    projected: list[int] = []
    model.lm_head.register_forward_pre_hook(lambda _, inputs: projected.append(inputs[0].numel() // 32))
    read(model, Collator(END)(rows))
    assert projected == [sum(label != -100 for row in rows for label in row["labels"])]


def test_validation_loss_is_weighted_by_tokens(fine_tuner):
    model, rows = make_model(), make_rows(9, seed=5)
    trainer = fine_tuner(model, make_rows(4), validation=rows)
    expected = sum(one_at_a_time(model, rows)) / sum(label != -100 for row in rows for label in row["labels"])
    metrics = trainer.evaluate()
    assert metrics["eval_loss"] == pytest.approx(expected, rel=1e-5)
    assert metrics["eval_perplexity"] == pytest.approx(np.exp(expected), rel=1e-4)


def test_label_smoothing_is_torchs(fine_tuner):
    rows = make_rows(8)
    model = make_model(resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0)
    batch = Collator(END)(rows)
    with torch.no_grad():
        logits = model(input_ids=batch["input_ids"]).logits[:, :-1].reshape(-1, 257)
    expected = torch.nn.functional.cross_entropy(logits, batch["labels"][:, 1:].reshape(-1), label_smoothing=0.1)
    trainer = fine_tuner(model, rows, per_device_train_batch_size=8, max_steps=1, label_smoothing_factor=0.1)
    trainer.train()
    assert trainer.state.log_history[0]["loss"] == pytest.approx(expected.item(), rel=1e-5)
