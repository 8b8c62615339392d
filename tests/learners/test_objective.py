"""How the recipe's choices become one objective."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from learners.corrections import CORRECTIONS
from learners.losses import LOSSES, WITH_REFERENCE, WITHOUT_RATIO, Totals
from learners.objective import Micro, Objective
from learners.penalties import KL_ESTIMATORS
from swarm.config import LearnersSection

LAGS = np.array([0, 1, 3, -1])
TOTALS = Totals(tokens=4, rollouts=2, max_tokens=3)


def micro(**more):
    defaults = {
        "tokens": torch.zeros(1, 1),
        "places": torch.zeros(4),
        "targets": torch.zeros(4),
        "advantages": torch.tensor([1.0, 1.0, -1.0, -1.0]),
        "behaviour": torch.tensor([-1.0, -2.0, -1.5, -0.5]),
        "temperatures": torch.ones(4),
        "rollout": torch.tensor([0, 0, 1, 1]),
        "lengths": torch.tensor([2.0, 2.0]),
        "rewards": torch.tensor([1.0, 0.0]),
        "groups": torch.tensor([0, 0]),
        "lags": LAGS,
    }
    return Micro(**(defaults | more))


def objective(**options):
    return Objective(LearnersSection(steps=1, **options))


def new():
    return torch.tensor([-1.2, -1.0, -1.0, -1.0], requires_grad=True)


def test_the_start_of_the_step_is_the_weights_being_trained_until_they_move():
    x, begun = new(), torch.tensor([-1.1, -1.1, -1.1, -1.1])
    assert torch.equal(objective()._old(x, micro()), x.detach())
    assert torch.equal(objective()._old(x, micro(old=begun)), begun)


def test_an_interpolated_proximal_policy_lies_between_by_lag():
    x, m = new(), micro()
    old = objective(proximal="interpolated")._old(x, m)
    shares = [0.0, 1 / 2, 3 / 4, 1.0]  # lag / (lag + 1); an unknown lag: the weights being trained
    want = [b + s * (n - b) for b, n, s in zip(m.behaviour.tolist(), x.tolist(), shares, strict=True)]
    assert old.tolist() == pytest.approx(want)
    assert not old.requires_grad


@pytest.mark.parametrize("correction", sorted(CORRECTIONS))
def test_with_the_sampler_as_proximal_policy_no_correction_is_left(correction):
    _, seen = objective(proximal="behaviour", correction=correction)(new(), None, None, micro(), TOTALS)
    assert seen.weight.tolist() == [1.0] * 4


def test_coupled_and_decoupled_ppo_differ_where_the_sampler_is_far():
    def gradient(**options):
        x = new()
        objective(loss="ppo", correction="none", **options)(x, None, None, micro(), TOTALS)[0].backward()
        return x.grad.tolist()

    assert gradient(proximal="start") == pytest.approx([-0.25, -0.25, 0.25, 0.25])
    coupled = gradient(proximal="behaviour")
    assert coupled[1] == 0.0, "its ratio to the sampler is e: clipped"
    assert coupled[0] == pytest.approx(-0.25 * np.exp(-0.2))


def test_penalties_are_averaged_as_the_loss_is():
    x, reference = new(), torch.full((4,), -1.3)
    entropy = torch.full((4,), 2.0)
    for name in ("dapo", "grpo"):
        plain = objective(loss=name)(x, None, None, micro(), TOTALS)[0]
        full = objective(loss=name, kl_coef=0.5, kl_estimator="k2", entropy_coef=0.1)
        total, seen = full(x, entropy, reference, micro(), TOTALS)
        kl = KL_ESTIMATORS["k2"](x, reference)
        extra = 0.5 * kl - 0.1 * entropy
        mean = extra.sum() / 4 if name == "dapo" else (extra / 2).sum() / 2
        assert total.item() == pytest.approx((plain + mean).item())
        assert seen.metrics()["learn/kl_reference_nats"] == pytest.approx(kl.mean().item())
        assert seen.entropy_nats == 2.0


@pytest.mark.parametrize("name", sorted(WITHOUT_RATIO))
def test_text_of_an_unknown_sampler_can_be_learned_from(name):
    unknown = micro(behaviour=torch.full((4,), float("nan")))
    loss, seen = objective(loss=name, correction="masked")(new(), None, torch.full((4,), -1.3), unknown, TOTALS)
    assert loss.isfinite()
    assert seen.weight.tolist() == [1.0] * 4
    metrics = seen.metrics()
    assert "learn/kl_behaviour_nats" not in metrics
    assert all(np.isfinite(value) for value in metrics.values())


def test_figures_are_told_for_each_lag():
    _, seen = objective(correction={"name": "truncated", "cap": 1.5})(new(), None, None, micro(), TOTALS)
    metrics = seen.metrics()
    for lag, weight in ((0, np.exp(-0.2)), (1, 1.5), (3, 1.5)):
        assert metrics[f"learn/importance_lag{lag}_mean"] == pytest.approx(weight, rel=1e-6)
        assert metrics[f"learn/ess_lag{lag}_frac"] == pytest.approx(1.0)
        assert f"learn/kl_behaviour_lag{lag}_nats" in metrics
        assert metrics[f"learn/clip_lag{lag}_frac"] == 0.0
    assert "learn/importance_lag-1_mean" not in metrics


def test_what_an_objective_needs_follows_from_the_recipe():
    plain = objective()
    needs = (plain.needs_reference, plain.keeps_flat, plain.whole_groups, plain.needs_entropy)
    assert not any(needs)
    assert objective(kl_coef=0.1).needs_reference
    assert objective(entropy_coef=0.1).keeps_flat
    assert plain.needs_start
    assert not objective(proximal="behaviour").needs_start
    assert not objective(loss="sft").needs_start
    for name in LOSSES:
        assert objective(loss=name).whole_groups == (name in WITH_REFERENCE)
