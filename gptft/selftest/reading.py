"""Checks that train nothing: what rows become, and what the model makes of them."""

from __future__ import annotations

from typing import Any

import torch

from gptft.models.logits import class_logits, supervised_logits
from gptft.selftest.bench import (
    DOCUMENTS,
    LABELLED,
    PAIRS,
    UNMOVED,
    Bench,
    conversations,
    difference,
    expect,
    logged,
    plain_logits,
    plain_loss,
    supervised,
)
from gptft.training.objectives import objective_of
from gptft.training.preparation import Prepared


def batch_of(bench: Bench, name: str, prepared: Prepared, **sections: Any) -> dict[str, Any]:
    """All rows as one batch, made as for a training step, on the model's device."""
    recipe = bench.recipe(name, **sections)
    objective = objective_of(recipe, prepared, torch.float32, bench.console)
    device = next(prepared.loaded.model.parameters()).device
    batch = objective.collate([prepared.train[index] for index in range(len(prepared.train))])
    return {key: value.to(device) for key, value in batch.items() if isinstance(value, torch.Tensor)}


def packing(bench: Bench) -> float:
    """Logits and loss of packed documents against each alone; and the last ones' while the first is another."""
    settings: dict[str, Any] = {"task": "pretraining", "training": {"max_steps": 1, "learning_rate": UNMOVED}}
    bench.write_rows("changed", [{"text": text} for text in ("Something else entirely!", *DOCUMENTS[1:])])
    logits = []
    for rows in ("pretraining", "changed"):
        prepared = bench.prepare(f"packing-{rows}", rows=rows, **settings)
        expect(len(prepared.train) == 1, f"one row was expected, there are {len(prepared.train)}")
        batch = batch_of(bench, f"packing-{rows}", prepared, rows=rows, **settings)
        logits.append(supervised_logits(prepared.loaded.model, batch)[0])
    model, tokenizer = prepared.loaded.model, prepared.loaded.tokenizer
    texts = [[*tokenizer(text)["input_ids"], tokenizer.eos_token_id] for text in DOCUMENTS]
    alone = torch.cat([plain_logits(model, ids)[:-1] for ids in texts])
    others = sum(len(ids) - 1 for ids in texts[1:])
    expected = plain_loss(model, [(ids, [True] * len(ids)) for ids in texts])
    run = bench.finetune("packing-loss", **settings)
    found = [difference(logits[0], alone), difference(logits[0][-others:], logits[1][-others:])]
    return max(*found, difference(logged(run), [expected]))


def padding(bench: Bench) -> float:
    """Logits of a batch of unequal rows, of language and of labels, against each row alone."""
    prepared = bench.prepare("padding")
    model = prepared.loaded.model
    with torch.no_grad():
        logits, _, _ = supervised_logits(model, batch_of(bench, "padding", prepared))
    rows = [prepared.train[index] for index in range(len(prepared.train))]
    alone = [plain_logits(model, row["input_ids"])[[place - 1 for place in supervised(row)]] for row in rows]
    labels = bench.prepare("labels", task="classification")
    with torch.no_grad():
        classes, _ = class_logits(labels.loaded.model, batch_of(bench, "labels", labels, task="classification"))
    rows = [labels.train[index]["input_ids"] for index in range(len(labels.train))]
    expect(len(set(map(len, rows))) > 1 and len(rows) == len(LABELLED), "rows of unequal lengths were expected")
    singly = torch.stack([plain_logits(labels.loaded.model, row) for row in rows])
    return max(difference(logits, torch.cat(alone)), difference(classes, singly))


def causality(bench: Bench) -> float:
    """Logits before a token that is changed."""
    prepared = bench.prepare("causality")
    batch = batch_of(bench, "causality", prepared)
    batch["labels"] = batch["input_ids"].clone()
    changed = {**batch, "input_ids": batch["input_ids"].clone()}
    place = batch["input_ids"].shape[1] // 3
    changed["input_ids"][:, place:] = 65
    with torch.no_grad():
        first, second = (
            supervised_logits(prepared.loaded.model, rows)[0].unflatten(0, (len(batch["labels"]), -1))
            for rows in (batch, changed)
        )
    expect(difference(first[:, place:], second[:, place:]) > 0.1, "the change has no effect, so nothing is measured")
    return difference(first[:, :place], second[:, :place])


def closing(bench: Bench) -> float:
    """Answers and documents whose end is no target of the loss, or supervised ends that are none."""
    spoken = sum(message["role"] == "assistant" for messages in conversations() for message in messages)
    wrong = 0
    for task, expected in (("dialogue", spoken), ("completion", len(PAIRS)), ("pretraining", len(DOCUMENTS))):
        prepared = bench.prepare(f"closing-{task}", task=task)
        tokenizer = prepared.loaded.tokenizer
        expect(tokenizer.pad_token_id == tokenizer.eos_token_id, "pad and eos are not one token")
        batch = batch_of(bench, f"closing-{task}", prepared, task=task)
        with torch.no_grad():
            _, targets, _ = supervised_logits(prepared.loaded.model, batch)
        wrong += abs(int((targets == tokenizer.eos_token_id).sum()) - expected)
    return wrong


def prompt(bench: Bench) -> float:
    """Prompts that are not how their training row begins, or are supervised, or whose answer is not."""
    wrong = 0
    for task in ("dialogue", "completion"):
        prepared = bench.prepare(f"prompt-{task}", task=task)
        rows = {row["origin"]: row for row in map(dict, prepared.train)}
        source = _rows_of(bench, task)
        prompts = prepared.task.prompts(source, prepared.loaded.tokenizer, prepared.loaded.positions)
        expect(len(prompts) >= len(rows) > 5, f"{len(prompts)} prompts of {len(rows)} rows")
        seen: set[str] = set()
        for asked in prompts:
            origin = asked.origin.partition("#")[0]
            row, length = rows[origin], len(asked.input_ids)
            answers = supervised(row)
            fits = row["input_ids"][:length] == asked.input_ids and length in answers and length - 1 not in answers
            # What stands before the first answer, and only that, is not supervised in a row of one turn.
            wrong += not fits or (origin not in seen and answers[0] != length)
            seen.add(origin)
    return wrong


def _rows_of(bench: Bench, task: str) -> Any:
    from gptft.data import load_splits

    return load_splits(bench.recipe(f"rows-{task}", task=task)).train


def generation(bench: Bench) -> float:
    """Greedy answers that differ, by gptft's own decoding and by left-padded batches, from one prompt at a time."""
    from gptft.models.generation import generate_answers, generation_settings

    loaded = bench.loaded()
    model, tokenizer = loaded.model, loaded.tokenizer
    prepared = bench.prepare("generation")
    prompts = [asked.input_ids for asked in prepared.task.prompts(_rows_of(bench, "dialogue"), tokenizer, 120)]
    expected = []
    for ids in prompts:
        row = torch.tensor([ids], device=model.device)
        said = model.generate(row, attention_mask=torch.ones_like(row), max_new_tokens=30, do_sample=False)
        expected.append(tokenizer.decode(said[0, len(ids) :], skip_special_tokens=True).strip())
    lengths = {len(text) for text in expected}
    expect(len(lengths) > 3, f"the answers should differ in length, and have {lengths} characters")
    wrong = 0
    for way in ({}, {"use_cache": False}):
        settings = generation_settings(model, {"max_new_tokens": 30, "do_sample": False, **way})
        answers = generate_answers(model, tokenizer, prompts, settings)
        wrong += sum(answer.text != text for answer, text in zip(answers, expected, strict=True))
    return wrong
