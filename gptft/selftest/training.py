"""Checks that fine-tune: what a run does, and what it leaves."""

from __future__ import annotations

import shutil
from typing import Any

import torch

from gptft.models.precision import best_device
from gptft.runs import Run
from gptft.selftest.bench import (
    UNMOVED,
    Bench,
    CheckError,
    conversations,
    difference,
    expect,
    logged,
    plain_logits,
    plain_loss,
    plain_row,
    weights,
)

DROPOUT = {"config": {"resid_pdrop": 0.2, "embd_pdrop": 0.1, "attn_pdrop": 0.1}}


def loss(bench: Bench) -> float:
    """The losses that a run logs, against transformers' own logits of each row alone."""
    # One step over all rows.
    settings = {"learning_rate": UNMOVED, "per_device_train_batch_size": 4, "gradient_accumulation_steps": 6}
    run = bench.finetune("loss", data={"validation": "dialogue.jsonl"}, training={"num_train_epochs": 1, **settings})
    loaded = bench.loaded()
    expected = plain_loss(loaded.model, [plain_row(loaded.tokenizer, turns) for turns in conversations()])
    return difference(logged(run) + logged(run, "eval_loss")[:1], [expected, expected])


def accumulation(bench: Bench) -> float:
    """Losses and weights after six steps of eight rows or fewer, at batch 8 and at batch 2 accumulated four times."""
    found = []
    for batch, count in ((8, 1), (2, 4)):
        # Adam divides by the gradient's size, which would make rounding errors large: plain steps do not.
        settings = {
            "num_train_epochs": 2,
            "learning_rate": 0.05,
            "optim": "sgd",
            "per_device_train_batch_size": batch,
        }
        settings |= {"gradient_accumulation_steps": count, "save_strategy": "no"}
        run = bench.finetune(f"batch-{batch}", training=settings)
        found.append([*logged(run), *weights(run.model).values()])
    moved = difference(weights(run.model), weights(bench.base.model))
    expect(moved > 1e-3, f"training has moved the weights by {moved:.1e} only")
    return difference(*found)


def resume_bound() -> float:
    """None on a CPU; other devices may add up in another order each time."""
    return 0.0 if best_device().type == "cpu" else 1e-4


def resume(bench: Bench) -> float:
    """Weights of a run with dropout, against those of the same run as a kill in its second epoch would leave it.

    Where sums have no fixed order, the losses of the steps after the kill: Adam moves a weight whose gradient is
    nothing but rounding, such as the bias of the keys, as far as any other.
    """
    settings = {"num_train_epochs": 2, "per_device_train_batch_size": 2, "gradient_accumulation_steps": 2}
    settings |= {"save_strategy": "steps", "save_steps": 4, "save_total_limit": None, "learning_rate": 1e-2}
    whole = bench.finetune("resumed", model=DROPOUT, training=settings)
    killed = Run(bench.folder / "killed" / whole.folder.name)
    shutil.copytree(whole.folder, killed.folder)
    shutil.rmtree(killed.model)
    numbers = sorted(int(path.name.split("-")[1]) for path in (killed.folder / "checkpoints").glob("checkpoint-*"))
    expect(numbers == [4, 8, 12], f"checkpoints of steps 4, 8 and 12 were expected, there are {numbers}")
    shutil.rmtree(killed.folder / "checkpoints" / "checkpoint-12")
    killed.update_manifest(state="failed")
    done = bench.finetune("resumed", runs="killed", resume=True, model=DROPOUT, training=settings)
    expect(done == killed and done.manifest["state"] == "finished", "another run was resumed")
    if resume_bound():
        return difference(logged(done)[-4:], logged(whole)[-4:])
    return difference(weights(done.model), weights(whole.model))


def bfloat16(bench: Bench) -> float:
    """Losses of six steps, relative to those in float32."""
    settings = {"num_train_epochs": 2, "learning_rate": 1e-3, "save_strategy": "no"}
    runs = [bench.finetune(dtype, model={"dtype": dtype}, training=settings) for dtype in ("float32", "bfloat16")]
    kinds = {weight.dtype for weight in weights(runs[1].model).values()}
    expect(kinds == {torch.float32}, f"the weights are {kinds}")
    exact, found = map(logged, runs)
    expect(exact != found, "bfloat16 was asked for, and the losses are those of float32 to the last digit")
    return difference([b / a for a, b in zip(exact, found, strict=True)], [1.0] * len(exact))


def saved(bench: Bench) -> float:
    """A run's model as transformers loads it, against the checkpoint of its last step and against gptft's loading."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from gptft.models.loading import load_model

    settings = {"max_steps": 1, "save_strategy": "steps", "save_steps": 1}
    generation = {"do_sample": False, "max_new_tokens": 7}
    run = bench.finetune("saved", training=settings, evaluation={"generation": generation})
    ours, tokenizer = load_model(str(run.folder)), AutoTokenizer.from_pretrained(run.model)
    model: Any = AutoModelForCausalLM.from_pretrained(run.model).eval()
    ends = {(own.eos_token_id, own.pad_token_id) for own in (tokenizer, model.config, model.generation_config)}
    expect(len(ends) == 1, f"tokenizer, configuration and generation settings name other special tokens: {ends}")
    expect(model.generation_config.max_new_tokens == 7, "the recipe's generation settings are not saved")
    prompt = tokenizer.apply_chat_template(conversations()[1][:2], add_generation_prompt=True)["input_ids"]
    expect(prompt == plain_row(tokenizer, conversations()[1])[0][: len(prompt)], "the saved template is another")
    checkpoint = run.checkpoint()
    if not checkpoint:
        raise CheckError("there is no checkpoint")
    same_logits = difference(plain_logits(model, prompt), plain_logits(ours.model, prompt))
    return max(same_logits, difference(weights(run.model), weights(checkpoint)))


def adapter(bench: Bench) -> float:
    """Logits of the model that a run leaves, against PEFT's of base and adapter."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    lora = {"type": "lora", "r": 4, "lora_alpha": 16}
    run = bench.finetune("adapter", adapter=lora, training={"num_train_epochs": 3, "learning_rate": 1e-2})
    base, merged = (AutoModelForCausalLM.from_pretrained(path).eval() for path in (bench.base.model, run.model))
    ids = list(range(60))
    before = plain_logits(base, ids)
    adapted = PeftModel.from_pretrained(base, str(run.adapter)).eval()
    after = plain_logits(adapted, ids)
    expect(difference(before, after) > 0.1, f"the adapter changes logits by {difference(before, after):.1e} only")
    return difference(after, plain_logits(merged, ids))
