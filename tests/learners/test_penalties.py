"""Estimators of the divergence from the initial policy: their values, their bias, their gradients."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from learners.penalties import KL_ESTIMATORS, kl_k3

floats = st.floats(-2, 2)


@given(st.lists(st.tuples(floats, floats), min_size=1, max_size=8))
def test_each_is_its_equation(rows):
    new, reference = (torch.tensor(c, dtype=torch.float64) for c in zip(*rows, strict=True))
    want = {
        "k1": [n - r for n, r in rows],
        "k2": [(n - r) ** 2 / 2 for n, r in rows],
        "k3": [math.exp(r - n) - (r - n) - 1 for n, r in rows],
    }
    for name, estimator in KL_ESTIMATORS.items():
        assert estimator(new, reference).tolist() == pytest.approx(want[name], abs=1e-12)
    assert (kl_k3(new, reference) >= -1e-12).all()


def divergence(policy, reference):
    return (policy.exp() * (policy - reference)).sum()


@pytest.mark.parametrize("name", ["k1", "k3"])
def test_k1_and_k3_estimate_the_divergence_without_bias(name):
    torch.manual_seed(0)
    policy, reference = torch.randn(2, 6, dtype=torch.float64).log_softmax(-1)
    expected = (policy.exp() * KL_ESTIMATORS[name](policy, reference)).sum()
    assert expected.item() == pytest.approx(divergence(policy, reference).item())


@pytest.mark.parametrize(("name", "same"), [("k1", True), ("k2", True), ("k3", False)])
def test_the_expected_gradient_of_k1_and_k2_is_that_of_the_divergence(name, same):
    torch.manual_seed(0)
    logits = torch.randn(6, dtype=torch.float64, requires_grad=True)
    reference = torch.randn(6, dtype=torch.float64).log_softmax(-1)
    exact = torch.autograd.grad(divergence(logits.log_softmax(-1), reference), logits)[0]
    policy = logits.log_softmax(-1)
    sampled = (policy.exp().detach() * KL_ESTIMATORS[name](policy, reference)).sum()
    found = torch.autograd.grad(sampled, logits)[0]
    assert torch.allclose(found, exact) == same


def test_a_distant_reference_leaves_k3_finite():
    new = torch.tensor([300.0, -300.0], requires_grad=True)
    kl_k3(new, torch.zeros(2)).sum().backward()
    assert new.grad.isfinite().all()
