"""Which precision to compute in: what the hardware does fast."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def resolve_dtype(name: str = "auto") -> torch.dtype:
    """Turn a recipe's `model.dtype` into a torch dtype.

    `auto` is bfloat16 on GPUs from Ampere on and on CPUs with AVX512-BF16 or AMX, which multiply it in hardware;
    float32 elsewhere: a CPU without these emulates bfloat16 a hundred times slower.
    """
    if name != "auto":
        return DTYPES[name]
    if torch.cuda.is_available():
        return torch.bfloat16 if torch.cuda.get_device_capability()[0] >= 8 else torch.float32
    if torch.backends.mps.is_available():
        return torch.float32
    capabilities = torch.cpu.get_capabilities()
    fast = capabilities.get("avx512_bf16", False) or capabilities.get("amx_bf16", False)
    return torch.bfloat16 if fast else torch.float32


def autocast(device: torch.device, dtype: torch.dtype) -> AbstractContextManager[object]:
    """Matrix products in `dtype` on `device`; weights stay as they are. Nothing for float32."""
    if dtype is torch.float32:
        return nullcontext()
    return torch.autocast(device.type, dtype=dtype)


def best_device() -> torch.device:
    """The accelerator of this machine, else the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def training_dtype(arguments: Any) -> torch.dtype:
    """The precision that TrainingArguments say."""
    return torch.bfloat16 if arguments.bf16 else torch.float16 if arguments.fp16 else torch.float32
