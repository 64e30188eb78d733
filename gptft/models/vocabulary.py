"""Embedding and head of a language model in training on a CPU, without copies of their size for each batch.

They are the largest weights. Autograd writes their gradient anew for each of their two uses and adds it up, autocast
casts the weight anew for each batch, and each time the system must find and clear the memory: an eighth of a step of 8
dialogues, a third where the step is split over four batches. Here gradients are added to `weight.grad` in place, as
Megatron-LM's fused accumulation does (Shoeybi et al. 2019), and the weight that was cast has one place.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

ROWS = 4096
"""Entries of the vocabulary whose gradient is computed at a time; so many lie in a processor's cache."""


def use_one_place(model: Any) -> None:
    """Have a model's embedding and head keep their gradient, and the weight as it was cast, in one place each."""
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    places: dict[Any, _Places] = {}
    if type(embedding) is torch.nn.Embedding and embedding.padding_idx is None and embedding.max_norm is None:
        entries, width = embedding.weight.shape
        model.set_input_embeddings(_like(embedding, Embedding(entries, width, device="meta"), places))
    if type(head) is torch.nn.Linear and head.bias is None:
        outputs, inputs = head.weight.shape
        model.set_output_embeddings(_like(head, Head(inputs, outputs, bias=False, device="meta"), places))


@dataclass
class _Places:
    """Memory that a weight's gradient and its cast copy take again and again."""

    gradient: Tensor | None = None
    cast: Tensor | None = None

    def __deepcopy__(self, memo: Any) -> _Places:
        # A copy of the model takes its own when it learns.
        return _Places()


def _like(module: Any, other: Any, places: dict[Any, _Places]) -> Any:
    other.weight, other.places = module.weight, places.setdefault(module.weight, _Places())
    return other.train(module.training)


def _in_place(weight: Any) -> bool:
    """Whether nobody else has a part in the gradient: other processes, hooks, a graph that the weight comes from."""
    alone = not (torch.distributed.is_available() and torch.distributed.is_initialized())
    awaited = weight._backward_hooks or weight._post_accumulate_grad_hooks
    return alone and not awaited and torch.is_grad_enabled() and weight.device.type == "cpu" and weight.is_leaf


def _gradient(weight: Tensor, places: _Places) -> tuple[Tensor, bool]:
    """The weight's gradient, and whether it is yet to be written."""
    if weight.grad is not None:
        return weight.grad, False
    if places.gradient is None or places.gradient.shape != weight.shape:
        places.gradient = torch.empty_like(weight)
    weight.grad = places.gradient
    return weight.grad, True


class Embedding(torch.nn.Embedding):
    """An embedding whose gradient is added to the rows that were read."""

    places: _Places

    def forward(self, input: Tensor) -> Tensor:
        """As `torch.nn.Embedding`."""
        if not (_in_place(self.weight) and self.weight.requires_grad):
            return super().forward(input)
        return _Embedded.apply(input, self.weight, self.places)  # pyright: ignore[reportReturnType]


class Head(torch.nn.Linear):
    """A projection to the vocabulary whose gradient is added some rows at a time."""

    places: _Places

    def forward(self, input: Tensor) -> Tensor:
        """As `torch.nn.Linear`, in autocast's precision where it is on."""
        if not _in_place(self.weight):
            return super().forward(input)
        weight = self.weight
        if torch.is_autocast_enabled("cpu"):
            dtype, cast = torch.get_autocast_dtype("cpu"), self.places.cast
            if cast is None or cast.shape != weight.shape or cast.dtype != dtype:
                cast = self.places.cast = torch.empty_like(weight, dtype=dtype, requires_grad=False)
            with torch.no_grad():
                weight = cast.copy_(weight)
        return _Projected.apply(input, self.weight, weight, self.places)  # pyright: ignore[reportReturnType]


class _Embedded(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, ids: Tensor, weight: Tensor, places: _Places) -> Tensor:
        ctx.save_for_backward(ids)
        ctx.weight, ctx.places = weight, places
        return functional.embedding(ids, weight)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, None, None]:
        (ids,) = ctx.saved_tensors
        gradient, unwritten = _gradient(ctx.weight, ctx.places)
        if unwritten:
            gradient.zero_()
        gradient.index_add_(0, ids.flatten(), gradients[0].flatten(0, -2).to(gradient.dtype))
        return None, None, None


class _Projected(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, cast: Tensor, places: _Places) -> Tensor:
        ctx.dtype, hidden = hidden.dtype, hidden.detach().to(cast.dtype)
        ctx.save_for_backward(hidden)
        ctx.weight, ctx.cast, ctx.places = weight, cast, places
        return hidden @ cast.t()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, None, None, None]:
        (hidden,), (of_logits,), weight = ctx.saved_tensors, gradients, ctx.weight
        if weight.requires_grad:
            gradient, unwritten = _gradient(weight, ctx.places)
            rows, of_rows = hidden.flatten(0, -2), of_logits.flatten(0, -2)
            for start in range(0, len(gradient), ROWS):
                part = of_rows[:, start : start + ROWS].t() @ rows
                here = gradient[start : start + ROWS]
                here.copy_(part) if unwritten else here.add_(part)
        return (of_logits @ ctx.cast).to(ctx.dtype) if ctx.needs_input_grad[0] else None, None, None, None
