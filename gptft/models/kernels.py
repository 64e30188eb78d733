"""What training computes in a faster way than the model's own code: the same mathematics, to the last bits of rounding.

Each is there because it was measured (docs/performance.md), and each is put in by a public hook: the attention by
transformers' AttentionInterface, the activation as the module that it is.
"""

from __future__ import annotations

import ctypes
import sys
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from gptft.models.vocabulary import use_one_place

ATTENTION = "gptft"
"""The name of `attention` among transformers' implementations."""
LONGEST_SHORT_ROW = 1024
"""Tokens of a row up to which a CPU attends by matrix products: two to five times as fast as its fused kernel, at the
price of the weights, which are kept for the gradients."""
QUERY_BLOCK = 128
"""Queries that attend together."""
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4
"""Of glibc's malloc.h."""
LOSS_ROWS, LOSS_ROWS_ON_GPU = 16, 1024
"""Rows of logits whose softmax is held in float32 at a time: on a CPU few, which stay in its cache."""


def use_fast_kernels(model: Any) -> None:
    """Give a model, or what PEFT wraps around one, the faster attention and activation.

    Its configuration, and so what is saved, stays as it is.
    """
    from transformers import AttentionInterface
    from transformers.activations import NewGELUActivation
    from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

    AttentionInterface.register(ATTENTION, attention)
    AttentionMaskInterface.register(ATTENTION, sdpa_mask)
    own = model.get_base_model() if hasattr(model, "get_base_model") else model
    if getattr(own.config, "_attn_implementation", None) == "sdpa":
        own.set_attn_implementation(ATTENTION)
    for module in list(own.modules()):
        for name, part in module.named_children():
            if isinstance(part, NewGELUActivation):
                setattr(module, name, torch.nn.GELU(approximate="tanh").train(part.training))
            elif type(part) is torch.nn.Dropout:
                setattr(module, name, Dropout(part.p).train(part.training))
    use_one_place(own)
    if own is not model:
        from peft.tuners.lora import LoraLayer

        for module in model.modules():
            if isinstance(module, LoraLayer):
                # PEFT would cast to the adapter's float32 what autocast casts back to the precision that it had.
                module.cast_input_dtype_enabled = False


def keep_freed_memory() -> None:
    """Have the C library keep memory that tensors free for those that come next, where it is glibc.

    It would hand each large tensor back to the system and get it anew, zeroed page by page, some 400,000 pages a step
    of GPT-2 (mallopt(3): no mmap, no trimming below 2 GB).
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt:
        for option, value in ((M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, 2**31 - 1), (M_TOP_PAD, 2**26)):
            mallopt(option, value)


def attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attend: short rows on a CPU by matrix products, all others by torch's fused kernels.

    Args:
        module: the model's attention.
        query: (batch, heads, length, width), as key and value are.
        key: likewise.
        value: likewise.
        attention_mask: (batch or 1, 1, length, length), true where a position may be seen; None: causal.
        dropout: of the weights; where there is any, the fused kernels' own code does it.
        scaling: of the products (default: one over the root of the width).
        kwargs: what else transformers hands on.

    Returns:
        (batch, length, heads, width), and no weights.
    """
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    length = query.shape[2]
    short = query.device.type == "cpu" and 1 < length <= LONGEST_SHORT_ROW and query.shape == key.shape == value.shape
    causal = attention_mask is not None or getattr(module, "is_causal", True)
    known = not kwargs.keys() & {"softcap", "position_bias", "cache"}
    if not (short and causal and known and dropout == 0.0):
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
    hidden = torch.finfo(query.dtype).min
    if attention_mask is None:
        bias = torch.full((1, 1, length, length), hidden, dtype=query.dtype).triu_(1)
    elif attention_mask.dtype == torch.bool:
        bias = torch.zeros_like(attention_mask, dtype=query.dtype).masked_fill_(~attention_mask, hidden)
    else:
        bias = attention_mask.to(query.dtype)
    # A mask may let positions see what comes after them, so that they are one block.
    block = QUERY_BLOCK if attention_mask is None else length
    mixed = _Attention.apply(query, key, value, bias, scaling or query.shape[-1] ** -0.5, block)
    return mixed.transpose(1, 2).contiguous(), None  # pyright: ignore[reportOptionalMemberAccess]


class Dropout(torch.nn.Dropout):
    """Dropout whose masks come four from one random number on a CPU, where torch draws each by itself, on one thread.

    The share that is dropped is a whole number of 65536ths.
    """

    def forward(self, input: Tensor) -> Tensor:
        """As `torch.nn.Dropout`."""
        if not self.training or self.p in (0.0, 1.0) or input.device.type != "cpu":
            return super().forward(input)
        dropped = round(self.p * 2**16)
        drawn = torch.empty(-(-input.numel() // 4), dtype=torch.int64).random_(torch.iinfo(torch.int64).min, None)
        kept = drawn.view(torch.int16)[: input.numel()].view(input.shape) >= dropped - 2**15
        return input * kept.to(input.dtype).mul_(2**16 / (2**16 - dropped))


class _Attention(torch.autograd.Function):
    """softmax(scaling QK' + bias) V, the weights kept for the gradients.

    Queries are taken in blocks, each of which sees the keys up to its own last one: the rest is never computed.
    """

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, bias: Tensor, scaling: float, block: int
    ) -> Tensor:
        batch, heads, length, width = query.shape
        # As (batch and head, length, width), once for all products.
        query, key, value = (tensor.reshape(-1, length, width) for tensor in (query, key, value))
        mixed, weights = torch.empty_like(query), []
        for start in range(0, length, block):
            end = min(start + block, length)
            hidden = bias[..., start:end, :end]
            hidden = hidden[0] if len(bias) == 1 else hidden.expand(batch, heads, -1, -1).flatten(0, 1)
            scores = torch.baddbmm(hidden, query[:, start:end], key[:, :end].transpose(1, 2), alpha=scaling)
            weights.append(torch.softmax(scores, dim=-1))
            mixed[:, start:end] = weights[-1] @ value[:, :end]
        ctx.save_for_backward(query, key, value, *weights)
        ctx.scaling, ctx.block = scaling, block
        return mixed.view(batch, heads, length, width)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, *weights = ctx.saved_tensors
        gradient = gradients[0].reshape(query.shape)
        of_query, of_key, of_value = torch.empty_like(query), torch.empty_like(key), torch.empty_like(value)
        # From the last block, which sees all keys, so that the others add to what it has written.
        for number in reversed(range(len(weights))):
            start, part = number * ctx.block, weights[number]
            end, last = start + part.shape[1], number == len(weights) - 1
            here = gradient[:, start:end]
            of_part = here @ value[:, :end].transpose(1, 2)
            of_scores = torch.ops.aten._softmax_backward_data(of_part, part, -1, part.dtype).mul_(ctx.scaling)
            of_query[:, start:end] = of_scores @ key[:, :end]
            for whole, found in (
                (of_key, of_scores.transpose(1, 2) @ query[:, start:end]),
                (of_value, part.transpose(1, 2) @ here),
            ):
                whole.copy_(found) if last else whole[:, :end].add_(found)
        return *(tensor.view(gradients[0].shape) for tensor in (of_query, of_key, of_value)), None, None, None


def cross_entropy_sum(logits: Tensor, targets: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Cross-entropy (nats) summed over rows, as `functional.cross_entropy(logits.float(), ..., reduction="sum")`.

    The softmax is never held in float32 as a whole, and the gradient takes the place of the logits, which must not be
    read afterwards (Liger Kernel, Hsu et al. 2024, does so on GPUs).

    Args:
        logits: (rows, vocabulary), fresh from the model; overwritten where a gradient is wanted.
        targets: (rows) token ids.
        label_smoothing: as in torch.
    """
    if not (logits.requires_grad and torch.is_grad_enabled()):
        return functional.cross_entropy(logits.float(), targets, reduction="sum", label_smoothing=label_smoothing)
    return _CrossEntropySum.apply(logits, targets, label_smoothing)  # pyright: ignore[reportReturnType]


class _CrossEntropySum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor, smoothing: float) -> Tensor:
        total = torch.zeros((), dtype=torch.float32, device=logits.device)
        vocabulary = logits.shape[-1]
        rows = LOSS_ROWS if logits.device.type == "cpu" else LOSS_ROWS_ON_GPU
        for start in range(0, len(logits), rows):
            part, right = logits[start : start + rows], targets[start : start + rows, None]
            likelihoods = torch.log_softmax(part, dim=-1, dtype=torch.float32)
            total -= (1 - smoothing) * likelihoods.gather(1, right).sum()
            if smoothing:
                total -= smoothing / vocabulary * likelihoods.sum()
            gradient = likelihoods.exp_()
            if smoothing:
                gradient -= smoothing / vocabulary
            gradient.scatter_add_(1, right, torch.full_like(right, smoothing - 1, dtype=torch.float32))
            part.copy_(gradient)
        ctx.save_for_backward(logits.detach())
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (of_logits,) = ctx.saved_tensors
        return of_logits.mul_(gradients[0]), None, None
