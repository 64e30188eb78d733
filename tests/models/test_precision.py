import pytest
import torch

from gptft.models.precision import autocast, resolve_dtype


@pytest.mark.parametrize("name", ["float32", "bfloat16", "float16"])
def test_a_named_precision_is_taken(name):
    assert resolve_dtype(name) is getattr(torch, name)


@pytest.mark.parametrize(
    ("cuda", "mps", "capabilities", "expected"),
    [
        ((8, 0), False, {}, torch.bfloat16),
        ((9, 0), False, {}, torch.bfloat16),
        ((7, 5), False, {"amx_bf16": True}, torch.float32),
        (None, True, {"avx512_bf16": True}, torch.float32),
        (None, False, {"avx512_bf16": True}, torch.bfloat16),
        (None, False, {"amx_bf16": True, "avx512_bf16": False}, torch.bfloat16),
        (None, False, {"avx2": True}, torch.float32),
    ],
)
def test_auto_takes_what_the_hardware_is_fast_at(monkeypatch, cuda, mps, capabilities, expected):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda is not None)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    assert resolve_dtype() is expected


def test_products_are_in_the_precision_and_weights_are_not():
    layer = torch.nn.Linear(4, 4)
    with autocast(torch.device("cpu"), torch.bfloat16):
        assert layer(torch.ones(1, 4)).dtype is torch.bfloat16
    assert layer.weight.dtype is torch.float32
    with autocast(torch.device("cpu"), torch.float32):
        assert layer(torch.ones(1, 4)).dtype is torch.float32
