"""Losses against slow transcriptions of their equations, and their gradients against finite differences."""

from __future__ import annotations

import math
import subprocess
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from learners.losses import LOSSES, grpo, importance_weight, kl_k3, reinforce

floats = st.floats(-2, 2)
columns = st.lists(st.tuples(floats, floats, floats, floats), min_size=1, max_size=8)


def tensors(rows):
    return [torch.tensor(column, dtype=torch.float64) for column in zip(*rows, strict=True)]


def slow_grpo(new, old, behaviour, advantage, cap, low, high):
    weight = min(math.exp(old - behaviour), cap)
    ratio = math.exp(new - old)
    bounded = min(max(ratio, 1 - low), 1 + high)
    return -weight * min(ratio * advantage, bounded * advantage)


def slow_reinforce(new, behaviour, advantage, cap):
    return -min(math.exp(new - behaviour), cap) * advantage * new


@given(columns, st.floats(0.5, 4), st.floats(0.05, 0.5), st.floats(0.05, 0.5))
def test_grpo_is_its_equation(rows, cap, low, high):
    terms = grpo(*tensors(rows), cap, clip_low=low, clip_high=high)
    assert terms.loss.tolist() == pytest.approx([slow_grpo(*row, cap, low, high) for row in rows])


@given(columns, st.floats(0.5, 4))
def test_reinforce_is_its_equation(rows, cap):
    terms = reinforce(*tensors(rows), cap)
    wanted = [slow_reinforce(new, behaviour, advantage, cap) for new, _, behaviour, advantage in rows]
    assert terms.loss.tolist() == pytest.approx(wanted)


@pytest.mark.parametrize("name", sorted(LOSSES))
def test_the_gradient_is_that_of_finite_differences(name):
    torch.manual_seed(0)
    new, old, behaviour, advantage = (torch.randn(40, dtype=torch.float64) for _ in range(4))
    new.requires_grad_(True)
    LOSSES[name](new, old, behaviour, advantage, 2.0).loss.sum().backward()
    fixed = importance_weight(new, behaviour, 2.0)

    def value(x):
        if name == "reinforce":  # the weight is a constant of the gradient
            return -fixed * advantage * x
        return LOSSES[name](x, old, behaviour, advantage, 2.0).loss

    step = 1e-6
    numeric = (value(new.detach() + step) - value(new.detach() - step)) / (2 * step)
    assert torch.allclose(new.grad, numeric, atol=1e-6)


def test_a_clipped_token_has_no_gradient_and_only_such_a_token():
    torch.manual_seed(1)
    new, old, behaviour, advantage = (torch.randn(200, dtype=torch.float64) for _ in range(4))
    new.requires_grad_(True)
    terms = grpo(new, old, behaviour, advantage, 2.0)
    terms.loss.sum().backward()
    assert terms.clipped.any()
    assert not terms.clipped.all()
    assert torch.equal(new.grad == 0, terms.clipped)


def test_the_upper_clip_is_wider_than_the_lower():
    old = torch.zeros(2)
    new = torch.tensor([math.log(1.25), math.log(0.75)])
    terms = grpo(new, old, old, torch.tensor([1.0, -1.0]), 2.0)
    assert terms.clipped.tolist() == [False, True]


def test_on_policy_grpo_is_reinforce_up_to_a_constant():
    logprobs = torch.tensor([-1.0, -3.0], requires_grad=True)
    advantage, detached = torch.tensor([0.5, -2.0]), logprobs.detach()
    first = torch.autograd.grad(grpo(logprobs, detached, detached, advantage, 2.0).loss.sum(), logprobs)[0]
    second = torch.autograd.grad(reinforce(logprobs, detached, detached, advantage, 2.0).loss.sum(), logprobs)[0]
    assert torch.equal(first, second)
    assert torch.equal(first, -advantage)


def test_the_importance_weight_is_capped_and_carries_no_gradient():
    target = torch.tensor([0.0, 5.0, 500.0], requires_grad=True)
    weight = importance_weight(target, torch.tensor([0.5, 0.0, 0.0]), 2.0)
    assert weight.tolist() == pytest.approx([math.exp(-0.5), 2.0, 2.0])
    assert not weight.requires_grad


def test_extreme_ratios_leave_loss_and_gradient_finite():
    new = torch.tensor([300.0, -300.0, 300.0, -300.0], requires_grad=True)
    zero = torch.zeros(4)
    terms = grpo(new, zero, zero, torch.tensor([1.0, 1.0, -1.0, -1.0]), 2.0)
    (terms.loss.sum() + kl_k3(new, zero).sum()).backward()
    assert terms.loss.isfinite().all()
    assert new.grad.isfinite().all()


@given(st.lists(st.tuples(floats, floats), min_size=1, max_size=8))
def test_k3_is_its_equation_and_never_negative(rows):
    new, reference = tensors(rows)
    value = kl_k3(new, reference)
    assert value.tolist() == pytest.approx([math.exp(r - n) - (r - n) - 1 for n, r in rows])
    assert (value >= -1e-12).all()


def test_k3_estimates_the_divergence_without_bias():
    torch.manual_seed(0)
    policy, reference = torch.randn(2, 6, dtype=torch.float64).log_softmax(-1)
    expected = (policy.exp() * kl_k3(policy, reference)).sum()
    exact = (policy.exp() * (policy - reference)).sum()
    assert expected.item() == pytest.approx(exact.item())


def test_reading_the_registries_imports_nothing_heavy():
    code = (
        "import sys, learners.losses, learners.advantages; "
        "sys.exit(any(name in sys.modules for name in ('torch', 'transformers', 'deepspeed', 'vllm')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
