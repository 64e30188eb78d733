import copy

import pytest
import torch
from tiny import NO_DROPOUT, make_model
from torch.nn import functional

from gptft.models import vocabulary
from gptft.models.vocabulary import Embedding, Head, use_one_place

IDS = torch.tensor([[1, 2, 3, 3, 250], [7, 7, 7, 1, 0]])


@pytest.fixture(params=[True, False], ids=["tied", "apart"])
def pair(request, monkeypatch):
    """A model as it is, and one whose embedding and head have one place; the vocabulary in several pieces."""
    monkeypatch.setattr(vocabulary, "ROWS", 100)
    plain = make_model(**NO_DROPOUT, tie_word_embeddings=request.param).train()
    ours = copy.deepcopy(plain)
    ours.tie_weights()
    use_one_place(ours)
    return plain, ours


def learn(model, dtype=torch.float32, times=2):
    for _ in range(times):
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            logits = model(input_ids=IDS, use_cache=False).logits
        functional.cross_entropy(logits[:, :-1].flatten(0, 1).float(), IDS[:, 1:].flatten()).backward()
    return {name: parameter.grad for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("times", [1, 3])
def test_the_gradients_are_those_of_autograd(pair, dtype, times):
    plain, ours = pair
    wanted, found = learn(plain, dtype, times), learn(ours, dtype, times)
    assert found.keys() == wanted.keys()
    for name, gradient in wanted.items():
        # In bfloat16 parts of the vocabulary's gradient are multiplied by other kernels.
        error = (found[name] - gradient).norm() / gradient.norm()
        assert error < (1e-6 if dtype == torch.float32 else 1e-2), name


def test_the_memory_is_taken_once(pair):
    _, model = pair
    weights = {model.get_input_embeddings().weight, model.get_output_embeddings().weight}
    learn(model, torch.bfloat16)
    places = [weight.grad.data_ptr() for weight in weights]
    cast = model.get_output_embeddings().places.cast.data_ptr()
    before = learn(model)
    model.zero_grad(set_to_none=True)
    with torch.no_grad():
        for weight in weights:
            weight.add_(1.0)
    after = learn(model, torch.bfloat16)
    assert [weight.grad.data_ptr() for weight in weights] == places
    head = model.get_output_embeddings()
    assert head.places.cast.data_ptr() == cast and torch.equal(head.places.cast, head.weight.bfloat16())
    assert after.keys() == before.keys()


def test_a_copy_of_the_model_copies_none_of_it_and_learns_alike(pair):
    plain, ours = pair
    learn(ours, torch.bfloat16)
    other = copy.deepcopy(ours)
    other.zero_grad(set_to_none=True)
    assert other.get_output_embeddings().places == vocabulary._Places()
    found, wanted = learn(other), learn(plain)
    assert all(torch.allclose(found[name], gradient, atol=1e-6) for name, gradient in wanted.items())


def test_it_is_the_same_model(pair):
    plain, ours = pair
    assert type(ours.get_input_embeddings()) is Embedding and type(ours.get_output_embeddings()) is Head
    tied = plain.get_input_embeddings().weight is plain.get_output_embeddings().weight
    assert (ours.get_input_embeddings().weight is ours.get_output_embeddings().weight) == tied
    assert [name for name, _ in ours.named_parameters()] == [name for name, _ in plain.named_parameters()]
    assert ours.state_dict().keys() == plain.state_dict().keys()
    with torch.no_grad():
        assert torch.equal(ours(input_ids=IDS).logits, plain(input_ids=IDS).logits)
    assert ours.get_output_embeddings().places.cast is None, "nothing is kept where nothing is learned"


def test_frozen_weights_get_no_gradient_and_pass_it_on(pair):
    plain, ours = pair
    for model in pair:
        for part in (model.get_input_embeddings(), model.get_output_embeddings()):
            part.weight.requires_grad_(False)
    wanted, found = learn(plain), learn(ours)
    for name, gradient in wanted.items():
        assert (found[name] is None) == (gradient is None), name
        assert gradient is None or torch.allclose(found[name], gradient, atol=1e-6), name
    assert found["transformer.wte.weight"] is None


def test_with_other_processes_autograd_does_it(pair, monkeypatch):
    """As their gradients are averaged where autograd hands them over."""
    plain, ours = pair
    wanted = learn(plain)
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    found = learn(ours)
    assert ours.get_input_embeddings().places.gradient is None
    assert all(torch.allclose(found[name], gradient, atol=1e-6) for name, gradient in wanted.items())


@pytest.mark.parametrize("hook", ["register_hook", "register_post_accumulate_grad_hook"])
def test_hooks_are_called(pair, hook):
    """As optimizers that update a weight as soon as its gradient is there need."""
    _, ours = pair
    called = []
    weight = ours.get_input_embeddings().weight
    getattr(weight, hook)(lambda _: called.append(hook))
    learn(ours, times=1)
    assert called and weight.grad is not None
