"""Log-probabilities by blocks of the vocabulary against those of whole logits."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from learners import head
from learners.head import Shape, token_logprobs


def plainly(hidden, weight, bias, targets, temperatures, shape, entropy):
    logits = torch.nn.functional.linear(hidden, weight, bias).double()
    logits = shape.scale * logits if shape.cap is None else shape.cap * torch.tanh(shape.scale * logits / shape.cap)
    logprobs = (logits / temperatures[:, None]).log_softmax(-1)
    spread = -(logprobs.exp() * logprobs).sum(-1)
    chosen = logprobs.gather(1, targets[:, None])[:, 0]
    return chosen, None if entropy is None else spread if entropy else spread.detach()


def case(num, size, vocab, seed, dtype, with_bias, temperature=1.0):
    rng = torch.Generator().manual_seed(seed)
    draw = partial(torch.randn, generator=rng, dtype=dtype)
    bias = draw(vocab).requires_grad_() if with_bias else None
    targets = torch.randint(0, vocab, (num,), generator=rng)
    temperatures = torch.full((num,), temperature, dtype=dtype)
    temperatures[::2] *= 0.7 if temperature != 1.0 else 1.0
    return draw(num, size).requires_grad_(), draw(vocab, size).requires_grad_(), bias, targets, temperatures


SHAPES = [Shape(), Shape(0.3), Shape(1.5, 4.0)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("temperature", [1.0, 1.3])
@pytest.mark.parametrize("entropy", [None, False, True])
@pytest.mark.parametrize("keep", [0, 1 << 20])
def test_gradients_are_exact_in_float64(monkeypatch, shape, with_bias, temperature, entropy, keep):
    monkeypatch.setattr(head, "BLOCK", 80)  # blocks of 16 of 37, the last one shorter
    monkeypatch.setattr(head, "KEEP", keep)
    hidden, weight, bias, targets, temperatures = case(5, 3, 37, 0, torch.float64, with_bias, temperature)
    given_inputs = [x for x in (hidden, weight, bias) if x is not None]

    def run(*inputs):
        hidden, weight, bias = (*inputs, None)[:3]
        logprobs, spread = token_logprobs(hidden, weight, bias, targets, temperatures, shape, entropy)
        return (logprobs, spread) if entropy else logprobs

    assert torch.autograd.gradcheck(run, given_inputs)


@given(
    num=st.integers(1, 9),
    vocab=st.integers(1, 70),
    seed=st.integers(0, 100),
    with_bias=st.booleans(),
    shape=st.sampled_from(SHAPES),
    keep=st.sampled_from([0, 1 << 20]),
    entropy=st.sampled_from([None, False, True]),
    block=st.sampled_from([1, 100, 1 << 21]),
)
def test_values_and_gradients_are_those_of_whole_logits(num, vocab, seed, with_bias, shape, entropy, block, keep):
    inputs = case(num, 6, vocab, seed, torch.float32, with_bias, 0.8)
    wanted, wanted_spread = plainly(*inputs, shape, entropy)
    before, (head.BLOCK, head.KEEP) = (head.BLOCK, head.KEEP), (block, keep)
    try:
        found, spread = token_logprobs(*inputs, shape, entropy)
        assert found.dtype == torch.float32
        assert torch.allclose(found.double(), wanted, atol=1e-4)
        learnt = [x for x in inputs[:3] if x is not None]
        factors = torch.linspace(-1, 2, num)
        assert (spread is None) == (entropy is None)
        total, wanted_total = (found * factors).sum(), (wanted * factors).sum()
        if entropy is not None:
            assert torch.allclose(spread.double(), wanted_spread, atol=1e-4)
            assert spread.requires_grad == entropy
            total, wanted_total = total + (spread * factors).sum(), wanted_total + (wanted_spread * factors).sum()
        for one, other in zip(
            torch.autograd.grad(total, learnt), torch.autograd.grad(wanted_total, learnt), strict=True
        ):
            assert torch.allclose(one, other, rtol=1e-3, atol=1e-4)
    finally:
        head.BLOCK, head.KEEP = before


def test_a_frozen_weight_gets_no_gradient_and_hidden_states_the_same_one():
    inputs = case(4, 6, 40, 3, torch.float32, with_bias=False)
    wanted = torch.autograd.grad(token_logprobs(*inputs)[0].sum(), inputs[0])[0]
    frozen = inputs[1].detach()
    hidden = inputs[0].detach().requires_grad_()
    token_logprobs(hidden, frozen, *inputs[2:])[0].sum().backward()
    assert torch.equal(hidden.grad, wanted)
    assert frozen.grad is None


def test_large_logits_neither_overflow_nor_lose_the_target():
    hidden = torch.tensor([[300.0], [-300.0]])
    weight = torch.linspace(-1, 1, 50)[:, None]
    logprobs, spread = token_logprobs(hidden, weight, None, torch.tensor([49, 49]), torch.ones(2), entropy=False)
    assert logprobs[0] == pytest.approx(0.0, abs=1e-4)
    assert logprobs[1] == pytest.approx(-600.0, rel=1e-4)
    assert torch.isfinite(spread).all()


def test_under_autocast_products_are_those_of_a_linear_layer_under_autocast():
    inputs = case(6, 32, 90, 1, torch.float32, with_bias=False)
    with torch.autocast("cpu", torch.bfloat16):
        found, _ = token_logprobs(*inputs)
        logits = torch.nn.functional.linear(inputs[0], inputs[1])
    wanted = logits.float().log_softmax(-1).gather(1, inputs[3][:, None])[:, 0]
    assert logits.dtype == torch.bfloat16
    assert torch.allclose(found, wanted, atol=1e-6)
    for one, other in zip(
        torch.autograd.grad(found.sum(), inputs[:2]), torch.autograd.grad(wanted.sum(), inputs[:2]), strict=True
    ):
        assert torch.allclose(one, other, atol=0.05)


def test_neither_pass_holds_logits_of_the_whole_vocabulary(monkeypatch):
    monkeypatch.setattr(head, "BLOCK", 64 * 16)
    monkeypatch.setattr(head, "KEEP", 0)
    hidden, weight, bias, targets, temperatures = case(64, 4, 5000, 2, torch.float32, with_bias=False)
    largest = []

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            leaves = torch.utils._pytree.tree_leaves(out)
            largest.extend(leaf.numel() for leaf in leaves if isinstance(leaf, torch.Tensor))
            return out

    with Watch():
        logprobs, _ = token_logprobs(hidden, weight, bias, targets, temperatures, entropy=False)
        logprobs.sum().backward()
    assert max(largest) == weight.numel() < 64 * 5000
