"""A step on shapes holds what a step on tensors holds."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny import make_model
from transformers import GPT2Config, GPT2LMHeadModel, TrainingArguments

from gptft.inspection.memory import StepShape, StepSimulator
from gptft.models.kernels import cross_entropy_sum, use_fast_kernels

SHAPE: dict[str, Any] = {"n_layer": 2, "n_head": 2, "n_embd": 64, "n_positions": 128, "vocab_size": 1000}

# Newer versions of transformers have the first name.
CHECKPOINTING = next(n for n in ("activation_checkpointing", "gradient_checkpointing") if hasattr(TrainingArguments, n))


@pytest.fixture
def simulate(tmp_path):
    """Make a simulator of a small GPT-2; keywords are TrainingArguments."""

    def make(**settings: Any) -> StepSimulator:
        arguments = TrainingArguments(str(tmp_path), use_cpu=True, **settings)
        with torch.device("meta"):
            model = GPT2LMHeadModel(GPT2Config(**SHAPE, attn_pdrop=0.0))
        return StepSimulator(model, arguments)

    return make


def test_weights_gradients_and_moments_are_those_of_the_parameters(simulate):
    step = simulate().peak(StepShape(2, 16, 8))
    size = 4 * sum(parameter.numel() for parameter in make_model(**SHAPE).parameters())
    assert (step.weights, step.gradients) == (size, size)
    # Two moments, and for each parameter its number of steps.
    assert 2 * size <= step.optimizer < 2.01 * size


def test_what_the_backward_pass_needs_is_held(simulate):
    # Of real tensors, all that autograd saves, each storage once, and not the weights.
    model = make_model(**SHAPE, attn_pdrop=0.0).train()
    use_fast_kernels(model)
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    saved: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        ids = torch.zeros(8, 100, dtype=torch.long)
        loss = cross_entropy_sum(model(ids, use_cache=False).logits.flatten(0, 1), ids.flatten())
    total = sum(saved.values())
    assert loss.requires_grad
    predicted = simulate().peak(StepShape(8, 100, 800)).activations
    # Logits and their gradients come on top.
    assert total <= predicted <= 1.7 * total


def test_batches_logits_and_settings_count_as_they_do_in_training(simulate):
    step = simulate()
    large, larger, largest = (step.peak(StepShape(rows, 64, rows * 32)).activations for rows in (8, 16, 32))
    assert largest - larger == pytest.approx(2 * (larger - large), rel=0.05)
    assert step.peak(StepShape(8, 64, 8)).activations < large - 8 * 31 * 1000 * 4
    assert simulate(**{CHECKPOINTING: True}).peak(StepShape(8, 64, 256)).activations < 0.8 * large
    assert simulate(bf16=True).peak(StepShape(8, 64, 256)).activations < large
    held = [simulate(gradient_accumulation_steps=n).peak(StepShape(8, 64, 256)).total for n in (1, 2, 4)]
    assert held[0] < held[1] == held[2]
