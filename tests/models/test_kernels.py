"""The faster kernels compute what the model's own code computes."""

import contextlib
import copy
import json

import pytest
import torch
from tiny import NO_DROPOUT, make_model
from torch.nn import functional

from gptft.models import kernels
from gptft.models.adapters import add_adapter
from gptft.models.kernels import cross_entropy_sum, use_fast_kernels
from gptft.models.logits import supervised_logits, supervised_loss_sum
from gptft.recipe.schema import AdapterSection


def batch(packed: bool = False) -> dict[str, torch.Tensor]:
    ids = torch.randint(0, 257, (3, 60), generator=torch.Generator().manual_seed(0))
    labels = ids.clone()
    labels[:, :20] = -100
    labels[1, 40:] = -100
    positions = torch.cat([torch.arange(25), torch.arange(35)]).expand(3, -1)
    return {"input_ids": ids, "labels": labels} | ({"position_ids": positions} if packed else {})


def plain_loss(model, rows, smoothing=0.0):
    logits, targets, _ = supervised_logits(model, rows)
    return functional.cross_entropy(logits.float(), targets, reduction="sum", label_smoothing=smoothing)


def gradient(loss_of, model, rows, dtype=None, smoothing=0.0) -> tuple[float, torch.Tensor]:
    model.zero_grad()
    with torch.autocast("cpu", dtype=dtype) if dtype else contextlib.nullcontext():
        loss = loss_of(model, rows, smoothing)
    loss.backward()
    return loss.item(), torch.cat([parameter.grad.flatten() for parameter in model.parameters()])


@pytest.fixture
def models():
    plain = make_model(initializer_range=0.3, n_embd=48, **NO_DROPOUT).train()
    fast = copy.deepcopy(plain)
    use_fast_kernels(fast)
    return plain, fast


def apart(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one - other).norm() / other.norm())


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(("smoothing", "block"), [(0.0, 128), (0.1, 25), (0.0, 1)])
def test_loss_and_gradients_are_those_of_plain_transformers(models, monkeypatch, packed, smoothing, block):
    monkeypatch.setattr(kernels, "LOSS_ROWS", 7)
    monkeypatch.setattr(kernels, "QUERY_BLOCK", block)
    plain, fast = models
    used = []
    monkeypatch.setattr(kernels._Attention, "backward", staticmethod(spy(kernels._Attention.backward, used)))
    loss, expected = gradient(plain_loss, plain, batch(packed), smoothing=smoothing)
    own_loss, own = gradient(supervised_loss_sum, fast, batch(packed), smoothing=smoothing)
    assert used  # else this test compares transformers with itself
    assert own_loss == pytest.approx(loss, rel=1e-6)
    assert apart(own, expected) < 1e-5


@pytest.mark.parametrize("ahead", [False, True])
@pytest.mark.parametrize("rows", [1, 2])
def test_a_mask_is_kept_to_whatever_it_lets_be_seen(monkeypatch, ahead, rows):
    monkeypatch.setattr(kernels, "QUERY_BLOCK", 4)
    query, key, value = (torch.randn(2, 3, 10, 8, generator=torch.Generator().manual_seed(n)) for n in range(3))
    seen = torch.rand(rows, 1, 10, 10, generator=torch.Generator().manual_seed(3)) < 0.6
    seen = seen | torch.eye(10, dtype=torch.bool)
    seen = seen if ahead else seen.tril()
    mixed, _ = kernels.attention(torch.nn.Module(), query, key, value, seen)
    expected = functional.scaled_dot_product_attention(query, key, value, seen)
    assert torch.allclose(mixed, expected.transpose(1, 2), atol=1e-6)


def spy(function, calls):
    def called(*args):
        calls.append(1)
        return function(*args)

    return called


def test_in_bfloat16_they_err_no_more_than_plain_transformers(models):
    plain, fast = models
    _, exact = gradient(plain_loss, plain, batch())
    _, theirs = gradient(plain_loss, plain, batch(), torch.bfloat16)
    _, ours = gradient(supervised_loss_sum, fast, batch(), torch.bfloat16)
    assert apart(ours, exact) < 1.2 * apart(theirs, exact)


def test_long_rows_and_generation_take_the_fused_kernel(models, monkeypatch):
    plain, fast = models
    monkeypatch.setattr(kernels, "LONGEST_SHORT_ROW", 40)
    monkeypatch.setattr(kernels._Attention, "apply", lambda *_: pytest.fail("rows of 60 are long here"))
    assert fast(**batch()).loss.item() == pytest.approx(plain(**batch()).loss.item(), rel=1e-6)
    prompt = torch.tensor([[1, 2, 3, 4]])
    monkeypatch.undo()
    options = {"max_new_tokens": 12, "do_sample": False}
    assert fast.eval().generate(prompt, **options).tolist() == plain.eval().generate(prompt, **options).tolist()


def test_the_inputs_of_lora_stay_in_the_precision_that_they_have():
    settings = {"type": "lora", "target_modules": ["c_attn", "c_proj", "c_fc"]}
    plain = add_adapter(make_model(**NO_DROPOUT), AdapterSection.model_validate(settings)).train()
    for name, weight in plain.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.3)
    fast, seen = copy.deepcopy(plain), set()
    use_fast_kernels(fast)
    for model in (plain, fast):
        for name, module in model.named_modules():
            if name.endswith("lora_A.default"):
                module.register_forward_pre_hook(lambda module, inputs: seen.add(inputs[0].dtype))
        seen.clear()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = supervised_loss_sum(model, batch())
        loss.backward()
        assert (torch.bfloat16 in seen) == (model is fast)
    gradients = [[w.grad for w in model.parameters() if w.requires_grad] for model in (plain, fast)]
    for expected, found in zip(*gradients, strict=True):
        assert apart(found, expected) < 0.05


def test_with_dropout_of_attention_transformers_own_code_drops(monkeypatch):
    model = make_model(attn_pdrop=0.5).train()
    use_fast_kernels(model)
    monkeypatch.setattr(kernels._Attention, "apply", lambda *_: pytest.fail("nothing was dropped"))
    first, second = (model(**batch()).loss.item() for _ in range(2))
    assert first != second


def test_what_is_saved_stays_as_it_is(models, tmp_path):
    for name, model in zip(("plain", "fast"), models, strict=True):
        model.save_pretrained(tmp_path / name)
    plain, fast = ((tmp_path / name / "config.json").read_text() for name in ("plain", "fast"))
    assert json.loads(plain) == json.loads(fast)
    assert "gptft" not in fast


def test_a_gradient_is_scaled_by_what_comes_after_the_sum():
    logits = torch.randn(10, 30, generator=torch.Generator().manual_seed(1))
    targets = torch.arange(10)
    ours, theirs = (logits.clone().requires_grad_() for _ in range(2))
    (cross_entropy_sum(ours * 1.0, targets) / 7).backward()
    (functional.cross_entropy(theirs, targets, reduction="sum") / 7).backward()
    torch.testing.assert_close(ours.grad, theirs.grad)


def test_without_gradients_the_logits_are_left_alone():
    logits = torch.randn(4, 9)
    before = logits.clone()
    cross_entropy_sum(logits, torch.arange(4))
    assert torch.equal(logits, before)


@pytest.mark.parametrize("share", [0.1, 0.5, 1e-6, 0.0, 1.0])
def test_dropout_drops_its_share_and_keeps_the_mean(share):
    layer = kernels.Dropout(share).train()
    torch.manual_seed(0)
    ones = torch.ones(999, 401, requires_grad=True)
    mixed = layer(ones)
    zeros = (mixed == 0).float()
    assert zeros.mean().item() == pytest.approx(share, abs=3e-3)
    # Each of the four that one number gives, and no pattern along a row.
    for part in (zeros.flatten()[index::4] for index in range(4)):
        assert part.mean().item() == pytest.approx(share, abs=5e-3)
    if share < 1:
        assert mixed.mean().item() == pytest.approx(1.0, abs=1e-2)
        mixed.sum().backward()
        assert torch.equal(ones.grad, mixed.detach())
    assert torch.equal(layer.eval()(ones), ones)


def test_dropout_is_that_of_the_seed():
    layer, ones = kernels.Dropout(0.3).train(), torch.ones(50, 50)
    first, second = (torch.manual_seed(4) and layer(ones) for _ in range(2))
    assert torch.equal(first, second) and not torch.equal(first, layer(ones))


def test_a_model_in_evaluation_mode_stays_in_it():
    model = make_model(resid_pdrop=0.5).eval()
    before = model(**batch()).loss
    use_fast_kernels(model)
    assert not any(module.training for module in model.modules())
    torch.testing.assert_close(model(**batch()).loss, before)
