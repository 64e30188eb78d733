"""A FineTuner's steps are those of a loop that anybody would write with transformers and torch alone."""

from typing import Any

import pytest
import torch
from tiny import END, NO_DROPOUT, make_model, make_rows
from transformers import get_linear_schedule_with_warmup

from gptft.training.batching import LengthGroupedBatches

EPOCHS, ROWS = 2, 77  # nine full steps of eight rows and one of five, twice


def plain_loop(rows: list[dict[str, Any]], mask_padding_by_id: bool = False, mean_of_means: bool = False):
    """Twenty steps with the attention mask given, whole logits, and the model's own loss."""
    model = make_model(**NO_DROPOUT).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.0)
    schedule = get_linear_schedule_with_warmup(optimizer, 3, 20)
    order = LengthGroupedBatches([row["length"] for row in rows], 8, 1, seed=42)
    losses = []
    for epoch in range(EPOCHS):
        order.set_epoch(epoch)
        for indices in order:
            step = [rows[index] for index in indices]
            parts = [step[start : start + 2] for start in range(0, len(step), 2)] if mean_of_means else [step]
            total = 0.0
            for part in parts:
                longest = max(row["length"] for row in part)
                ids = torch.tensor([row["input_ids"] + [END] * (longest - row["length"]) for row in part])
                labels = torch.tensor([row["labels"] + [-100] * (longest - row["length"]) for row in part])
                mask = torch.tensor([[1] * row["length"] + [0] * (longest - row["length"]) for row in part])
                if mask_padding_by_id:
                    labels[labels == END] = -100
                loss = model(input_ids=ids, attention_mask=mask, labels=labels).loss / len(parts)
                loss.backward()
                total += loss.item()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            losses.append(total)
    return losses, model


@pytest.mark.parametrize(("batch", "accumulation"), [(8, 1), (2, 4)])
def test_twenty_steps_equal_a_plain_loop(fine_tuner, batch, accumulation):
    rows = make_rows(ROWS)
    trainer = fine_tuner(
        make_model(**NO_DROPOUT),
        rows,
        num_train_epochs=EPOCHS,
        per_device_train_batch_size=batch,
        gradient_accumulation_steps=accumulation,
        warmup_steps=3,
    )
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    expected, model = plain_loop(rows)
    assert len(losses) == len(expected) == 20
    torch.testing.assert_close(losses, expected, rtol=0, atol=1e-5)
    for (name, weight), wanted in zip(trainer.model.named_parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(weight, wanted, rtol=0, atol=1e-4, msg=name)
    assert trainer.state.num_input_tokens_seen == EPOCHS * sum(row["length"] for row in rows)


def test_the_comparison_sees_what_others_get_wrong():
    rows = make_rows(ROWS)
    right, _ = plain_loop(rows)
    for mistake in ("mask_padding_by_id", "mean_of_means"):
        wrong, _ = plain_loop(rows, **{mistake: True})
        assert max(abs(a - b) for a, b in zip(right, wrong, strict=True)) > 1e-3, mistake


def test_a_collator_that_masks_by_token_id_is_seen(fine_tuner):
    rows = make_rows(16)
    losses = []
    for broken in (False, True):
        trainer = fine_tuner(make_model(**NO_DROPOUT), rows, num_train_epochs=1)
        if broken:
            collate = trainer.data_collator

            def masking(batch, collate=collate):
                tensors = collate(batch)
                tensors["labels"][tensors["labels"] == END] = -100
                return tensors

            trainer.data_collator = masking
        trainer.train()
        losses.append(trainer.state.log_history[0]["loss"])
    assert abs(losses[0] - losses[1]) > 1e-3
