"""Steps of a classification are those of a plain loop: the mean over the step's labels, however it is split."""

import random
from typing import Any

import pytest
import torch
from datasets import Dataset
from tiny import END, NO_DROPOUT, make_model
from torch.nn import functional
from transformers import GPT2ForSequenceClassification, get_linear_schedule_with_warmup, set_seed

from gptft.models.classes import Classes
from gptft.training.batching import ClassCollator, LengthGroupedBatches
from gptft.training.objectives import ClassObjective

NAMES = ("a", "b", "c")
SEVERAL, NUMBER = "multi_label_classification", "regression"
KINDS = {
    "single": Classes(NAMES),
    "several": Classes(NAMES, SEVERAL),
    "number": Classes(("LABEL_0",), NUMBER),
    "words": Classes(NAMES, token_ids=(5, 7, 9)),
}


def make_classifier(classes: Classes) -> Any:
    """A tiny model that gives these labels, always with the same weights."""
    model = make_model(**NO_DROPOUT)
    classes.write_to(model.config)
    if classes.token_ids:
        return model
    set_seed(3)
    return GPT2ForSequenceClassification(model.config)


def make_rows(kind: str, count: int) -> list[dict[str, Any]]:
    """Rows of unequal lengths with labels; of numbers, every third is -100, which elsewhere means: not supervised."""
    draw, rows = random.Random(0), []
    for index in range(count):
        ids = [draw.randrange(256) for _ in range(draw.randint(2, 30))]
        label = {"several": [float(draw.random() < 0.4) for _ in NAMES], "number": [-100.0 if index % 3 else 0.5]}
        rows.append({"input_ids": ids, "labels": label.get(kind, [float(index % 3)]), "length": len(ids)})
    return rows


def plain_loop(kind: str, rows: list[dict[str, Any]], epochs: int, rate: float) -> tuple[list[float], Any]:
    """Steps of eight rows with transformers and torch alone; a language model's labels are read one by one."""
    model = make_classifier(KINDS[kind]).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.0)
    schedule = get_linear_schedule_with_warmup(optimizer, 0, epochs * -(-len(rows) // 8))
    order = LengthGroupedBatches([row["length"] for row in rows], 8, 1, seed=42)
    losses = []
    for epoch in range(epochs):
        order.set_epoch(epoch)
        for indices in order:
            step = [rows[index] for index in indices]
            labels = torch.tensor([row["labels"] for row in step])
            if kind == "words":
                logits = [model(torch.tensor([row["input_ids"]])).logits[0, -1, [5, 7, 9]] for row in step]
                loss = functional.cross_entropy(torch.stack(logits), labels[:, 0].long())
            else:
                longest = max(row["length"] for row in step)
                ids = torch.tensor([row["input_ids"] + [END] * (longest - row["length"]) for row in step])
                wanted = labels if kind == "several" else labels[:, 0] if kind == "number" else labels[:, 0].long()
                loss = model(ids, attention_mask=(ids != END).long(), labels=wanted).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            losses.append(loss.item())
    return losses, model


@pytest.mark.parametrize(("batch", "accumulation"), [(8, 1), (2, 4)])
@pytest.mark.parametrize("kind", KINDS)
def test_steps_equal_a_plain_loop_however_they_are_split(fine_tuner, kind, batch, accumulation):
    # Twenty steps of single labels: nine of eight rows and one of five, twice. The others have a short last step too.
    count, epochs = (77, 2) if kind == "single" else (21, 1)
    # Squares of numbers around a hundred are large: small steps keep float32's noise small.
    rows, rate = make_rows(kind, count), 1e-5 if kind == "number" else 1e-3
    trainer = fine_tuner(
        make_classifier(KINDS[kind]),
        rows,
        objective=ClassObjective(KINDS[kind], END, []),
        num_train_epochs=epochs,
        per_device_train_batch_size=batch,
        gradient_accumulation_steps=accumulation,
        learning_rate=rate,
    )
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    expected, model = plain_loop(kind, rows, epochs, rate)
    assert len(losses) == len(expected) == (20 if kind == "single" else 3)
    torch.testing.assert_close(losses, expected, rtol=1e-5, atol=1e-5)
    for (name, weight), wanted in zip(trainer.model.named_parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(weight, wanted, rtol=0, atol=1e-4, msg=name)
    assert trainer.state.num_input_tokens_seen == epochs * sum(row["length"] for row in rows)


def test_a_model_whose_labels_the_trainer_would_shift_counts_them_all(fine_tuner):
    from transformers import GPTBigCodeConfig, GPTBigCodeForCausalLM

    set_seed(4)
    model = GPTBigCodeForCausalLM(GPTBigCodeConfig(vocab_size=257, n_embd=16, n_layer=1, n_head=2, **NO_DROPOUT))
    rows = make_rows("words", 5)
    with torch.no_grad():
        logits = [model(torch.tensor([row["input_ids"]])).logits[0, -1, [5, 7, 9]] for row in rows]
    expected = functional.cross_entropy(torch.stack(logits), torch.tensor([int(row["labels"][0]) for row in rows]))
    trainer = fine_tuner(
        model,
        rows,
        objective=ClassObjective(KINDS["words"], END, []),
        max_steps=1,
        per_device_train_batch_size=1,
        gradient_accumulation_steps=5,
    )
    assert trainer._loss_shifts_labels  # of GPT-2's own class it does not
    trainer.train()
    assert trainer.state.log_history[0]["loss"] == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_validation_loss_is_a_mean_over_labels_without_smoothing(fine_tuner, kind):
    classes, rows = KINDS[kind], make_rows(kind, 11)
    model = make_classifier(classes).eval()
    trainer = fine_tuner(model, rows, rows, objective=ClassObjective(classes, END, []), label_smoothing_factor=0.3)
    # One step over all rows, with nothing learned, is the same mean.
    expected, _ = plain_loop(kind, rows[:8], 1, 0.0)
    some = trainer.evaluate(Dataset.from_list(rows[:8]))
    assert some["eval_loss"] == pytest.approx(expected[0], rel=1e-4)
    assert trainer.evaluate()["eval_loss"] != pytest.approx(expected[0], rel=1e-4)


def test_weights_smoothing_and_the_text_go_into_the_loss():
    classes, rows = KINDS["words"], make_rows("words", 7)
    model, weights = make_classifier(classes).eval(), torch.tensor([0.5, 2.0, 1.0])
    batch = ClassCollator(END, classes.problem_type)(rows)
    logits = torch.stack([model(torch.tensor([row["input_ids"]])).logits[0, -1, [5, 7, 9]] for row in rows])
    text = [model(ids, labels=ids).loss for ids in (torch.tensor([row["input_ids"]]) for row in rows)]
    loss = functional.cross_entropy(logits, batch["labels"], weights, reduction="sum", label_smoothing=0.1)
    objective = ClassObjective(classes, END, [], weights, language_model_weight=0.5)
    torch.testing.assert_close(objective.loss_sum(model, batch, 0.1), loss + 0.5 * sum(text))
    several = ClassObjective(KINDS["several"], END, [], weights)
    model, rows = make_classifier(KINDS["several"]).eval(), make_rows("several", 5)
    batch = ClassCollator(END, SEVERAL)(rows)
    logits = torch.cat([model(torch.tensor([row["input_ids"]])).logits for row in rows])
    loss = functional.binary_cross_entropy_with_logits(logits, batch["labels"], weights, reduction="sum")
    torch.testing.assert_close(several.loss_sum(model, batch, 0.0), loss)


METRICS = {
    "single": ["accuracy", "f1", "f1:average=micro", "mcc"],
    "several": ["accuracy", "f1", "f1:average=micro"],
    "number": ["mae", "mse"],
    "words": ["accuracy", "f1"],
}


@pytest.mark.parametrize("kind", KINDS)
def test_scores_of_an_evaluation_are_scikit_learns(fine_tuner, kind):
    from sklearn import metrics

    classes, rows = KINDS[kind], make_rows(kind, 40)
    model = make_classifier(classes).eval()
    trainer = fine_tuner(model, rows[:4], rows, objective=ClassObjective(classes, END, METRICS[kind]))
    scores = {name.removeprefix("eval_"): value for name, value in trainer.evaluate().items()}
    with torch.no_grad():
        logits = [model(torch.tensor([row["input_ids"]])).logits for row in rows]
    wanted = torch.tensor([row["labels"] for row in rows])
    if kind == "number":
        said = torch.cat(logits)
        expected = {"mae": metrics.mean_absolute_error(wanted, said), "mse": metrics.mean_squared_error(wanted, said)}
    else:
        if kind == "several":
            said, wanted = (torch.cat(logits) >= 0).long(), wanted.long()
        else:
            said = torch.cat([one[:, -1, [5, 7, 9]] if kind == "words" else one for one in logits]).argmax(-1)
            wanted = wanted[:, 0].long()
        expected = {"accuracy": metrics.accuracy_score(wanted, said)}
        expected["f1"] = metrics.f1_score(wanted, said, average="macro", zero_division=0)
        expected["f1:average=micro"] = metrics.f1_score(wanted, said, average="micro", zero_division=0)
        if kind == "single":
            expected["mcc"] = metrics.matthews_corrcoef(wanted, said)
    assert {name: scores[name] for name in METRICS[kind]} == pytest.approx(
        {name: expected[name] for name in METRICS[kind]}, rel=1e-4
    )
