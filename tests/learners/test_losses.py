"""Losses against slow transcriptions of their equations, and their gradients against finite differences."""

from __future__ import annotations

import math
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from learners.losses import (
    LOSSES,
    WITH_REFERENCE,
    WITHOUT_RATIO,
    Tokens,
    Totals,
    copg,
    dapo,
    grpo,
    gspo,
    luspo,
    reinforce,
    sft,
)

floats = st.floats(-2, 2)
token = st.tuples(floats, floats, floats, st.floats(0, 2))
"""new, old, reference, weight"""
rollouts = st.lists(st.tuples(st.lists(token, min_size=1, max_size=4), floats, floats), min_size=1, max_size=5)
"""tokens, advantage, reward"""


def make(rows, num_groups=2, max_tokens=9):
    """Tokens of rollouts given as (tokens, advantage, reward); rollouts take turns between groups."""
    flat = [entry for entries, _, _ in rows for entry in entries]
    new, old, reference, weight = (torch.tensor(c, dtype=torch.float64) for c in zip(*flat, strict=True))
    lengths = [len(entries) for entries, _, _ in rows]
    return Tokens(
        new=new.requires_grad_(True),
        old=old,
        weight=weight,
        advantage=torch.tensor([a for entries, a, _ in rows for _ in entries], dtype=torch.float64),
        rollout=torch.repeat_interleave(torch.arange(len(rows)), torch.tensor(lengths)),
        lengths=torch.tensor(lengths, dtype=torch.float64),
        rewards=torch.tensor([r for _, _, r in rows], dtype=torch.float64),
        group=torch.arange(len(rows)) % num_groups,
        reference=reference,
        totals=Totals(tokens=sum(lengths) + 3, rollouts=len(rows) + 1, max_tokens=max_tokens),
    )


def value_of(name, t, **options):
    terms = LOSSES[name](t, **options)
    return terms.mean(terms.loss, t)


def surrogate(ratio, advantage, low, high):
    return min(ratio * advantage, min(max(ratio, 1 - low), 1 + high) * advantage)


def slow(name, rows, t):
    """The batch's loss by its equation, token by token."""
    tokens, num, limit = t.totals.tokens, t.totals.rollouts, t.totals.max_tokens
    total = 0.0
    for i, (entries, advantage, reward) in enumerate(rows):
        whole = math.exp(sum(new - old for new, old, _, _ in entries) / len(entries))
        others = [regularised(r) for j, r in enumerate(rows) if j != i and j % 2 == i % 2]
        factor = regularised(rows[i]) - sum(others) / len(others) if others else 0.0
        for new, old, _, weight in entries:
            ratio = math.exp(new - old)
            total += {
                "reinforce": -weight * ratio * advantage * new / tokens,
                "ppo": -weight * surrogate(ratio, advantage, 0.2, 0.2) / tokens,
                "dapo": -weight * surrogate(ratio, advantage, 0.2, 0.28) / tokens,
                "grpo": -weight * surrogate(ratio, advantage, 0.2, 0.2) / len(entries) / num,
                "dr_grpo": -weight * surrogate(ratio, advantage, 0.2, 0.2) / (num * limit),
                "gspo": -weight * surrogate(whole, advantage, 3e-4, 4e-4) / len(entries) / num,
                "luspo": -weight * surrogate(whole, advantage, 3e-4, 4e-4) / tokens,
                "cispo": -weight * min(ratio, 5.0) * advantage * new / tokens,
                "sft": -new / tokens if reward > 0 else 0.0,
                "copg": -factor * new / num,
            }[name]
    return total


def regularised(row, beta=0.1):
    entries, _, reward = row
    return reward - beta * sum(new - reference for new, _, reference, _ in entries)


@pytest.mark.parametrize("name", sorted(LOSSES))
@given(rows=rollouts)
def test_a_loss_is_its_equation(name, rows):
    t = make(rows)
    assert value_of(name, t).item() == pytest.approx(slow(name, rows, t), rel=1e-9, abs=1e-9)


DETACHED = {"reinforce", "cispo", "copg"}
"""Losses with a factor that their gradient takes as constant."""


@pytest.mark.parametrize("name", sorted(LOSSES))
def test_the_gradient_is_that_of_finite_differences(name):
    rng = np.random.default_rng(4)
    rows = [
        ([(*(0.3 * rng.standard_normal(3)), rng.uniform(0, 2)) for _ in range(n)], rng.normal(), rng.normal())
        for n in (3, 1, 4, 2, 5)
    ]
    t = make(rows)
    options = {"clip_low": 0.2, "clip_high": 0.3} if name in ("gspo", "luspo") else {}
    value_of(name, t, **options).backward()
    factor = None
    if name in DETACHED:  # linear in `new` then: the factor is the loss at new = 1 for one token
        frozen = replace(t, new=t.new.detach())
        factor = torch.stack([LOSSES[name](frozen).loss[i] / frozen.new[i] for i in range(len(frozen.new))])

    def value(new):
        if factor is not None:
            return LOSSES[name](t).mean(factor * new, t)
        return value_of(name, replace(t, new=new), **options)

    step = 1e-6
    numeric = []
    for i in range(len(t.new)):
        shift = torch.zeros_like(t.new)
        shift[i] = step
        numeric.append((value(t.new.detach() + shift) - value(t.new.detach() - shift)) / (2 * step))
    assert torch.allclose(t.new.grad, torch.stack(numeric).detach(), atol=1e-7)


@pytest.mark.parametrize("name", sorted(LOSSES))
def test_parts_of_a_batch_add_up_to_it(name):
    rng = np.random.default_rng(5)
    rows = [([tuple(rng.uniform(-1, 1, 4)) for _ in range(n)], rng.normal(), rng.normal()) for n in (3, 1, 4, 2)]
    whole = make(rows)
    value_of(name, whole).backward()
    order, grads, values = [[0, 2], [1, 3]], {}, 0.0  # by groups, which some losses need whole
    for part in order:
        t = replace(make([rows[i] for i in part], num_groups=1), totals=whole.totals)
        loss = value_of(name, t)
        loss.backward()
        values += loss.item()
        grads |= {i: t.new.grad[t.rollout == k] for k, i in enumerate(part)}
    assert values == pytest.approx(value_of(name, whole).item())
    assert torch.allclose(torch.cat([grads[i] for i in range(4)]), whole.new.grad)


@pytest.mark.parametrize("name", ["ppo", "grpo", "dr_grpo", "dapo", "gspo", "luspo"])
def test_a_clipped_token_has_no_gradient_and_only_such_a_token(name):
    rng = np.random.default_rng(1)
    rows = [([(*rng.normal(size=3), 1.0) for _ in range(4)], rng.normal(), 0.0) for _ in range(50)]
    t = make(rows)
    terms = LOSSES[name](t)
    terms.mean(terms.loss, t).backward()
    assert terms.clipped.any()
    assert not terms.clipped.all()
    assert torch.equal(t.new.grad == 0, terms.clipped)


def test_the_upper_clip_of_dapo_is_wider_than_the_lower():
    t = make([([(math.log(1.25), 0.0, 0.0, 1.0)], 1.0, 0.0), ([(math.log(0.75), 0.0, 0.0, 1.0)], -1.0, 0.0)])
    assert dapo(t).clipped.tolist() == [False, True]


def test_positive_advantages_pass_between_the_lower_and_the_upper_bound():
    t = make([([(math.log(1.21), 0.0, 0.0, 1.0)], 1.0, 0.0)])
    assert LOSSES["ppo"](t).clipped.all()
    assert not dapo(t).clipped.any()


@pytest.mark.parametrize("name", ["ppo", "dapo", "luspo", "cispo"])
def test_on_policy_losses_with_a_token_mean_are_reinforce(name):
    rows = [([(-1.0, -1.0, 0.0, 1.0), (-3.0, -3.0, 0.0, 1.0)], 0.5, 0.0), ([(-2.0, -2.0, 0.0, 1.0)], -2.0, 0.0)]
    grads = []
    for which in (name, "reinforce"):
        t = make(rows)
        value_of(which, t).backward()
        grads.append(t.new.grad)
    assert torch.allclose(*grads)
    assert torch.allclose(grads[1], -torch.tensor([0.5, 0.5, -2.0], dtype=torch.float64) / t.totals.tokens)


def test_the_mean_decides_what_a_long_rollout_weighs():
    def pull(loss, **options):
        """Of the long rollout's first token over the short one's."""
        entries = [(0.0, 0.0, 0.0, 1.0)]
        t = make([(entries * 8, 1.0, 0.0), (entries * 2, 1.0, 0.0)])
        terms = loss(t, **options)
        terms.mean(terms.loss, t).backward()
        return (t.new.grad[0] / t.new.grad[8]).item()

    assert pull(grpo) == pull(gspo) == 0.25
    assert pull(dapo) == pull(luspo) == pull(LOSSES["dr_grpo"]) == pull(reinforce) == 1.0


def test_copg_finds_the_optimum_from_any_sampler_and_plain_policy_gradients_do_not():
    """A bandit of four arms and a sampler that stays as it is: the fixed point is pi_ref exp(R / beta)."""
    rewards, mu = np.array([1.0, 0.5, 0.0, 0.2]), np.array([0.05, 0.05, 0.6, 0.3])
    reference = torch.tensor([-1.0, -2.0, -0.7, -1.5], dtype=torch.float64).log_softmax(0)
    wanted = (reference + torch.tensor(rewards) / 0.5).log_softmax(0)

    def trained(name, **options):
        logits = reference.clone().requires_grad_(True)
        rng = np.random.default_rng(0)
        optimizer = torch.optim.Adam([logits], lr=0.02)
        for _ in range(1500):
            arms = rng.choice(4, 16, p=mu)
            new = logits.log_softmax(0)[torch.tensor(arms)]
            t = Tokens(
                new=new,
                old=new.detach(),
                weight=torch.ones(16),
                advantage=torch.tensor(rewards[arms] - rewards[arms].mean()),
                rollout=torch.arange(16),
                lengths=torch.ones(16),
                rewards=torch.tensor(rewards[arms]),
                group=torch.zeros(16, dtype=torch.int64),
                reference=reference[torch.tensor(arms)],
                totals=Totals(16, 16, 1),
            )
            optimizer.zero_grad()
            terms = LOSSES[name](t, **options)
            terms.mean(terms.loss, t).backward()
            optimizer.step()
        policy = logits.detach().log_softmax(0)
        return (wanted.exp() * (wanted - policy)).sum().item()

    assert trained("copg", beta=0.5) < 0.01
    assert trained("reinforce") > 0.1


def test_copg_leaves_a_rollout_that_is_alone_in_its_group_alone():
    t = make([([(-1.0, 0.0, -2.0, 1.0)], 3.0, 1.0)])
    value_of("copg", t).backward()
    assert (t.new.grad == 0).all()


def test_the_warm_start_learns_what_is_right_whatever_its_group_was():
    t = make([([(-1.0, 0.0, 0.0, 1.0)], 0.0, 1.0), ([(-2.0, 0.0, 0.0, 1.0)], 1.0, 0.0)])
    assert sft(t).loss.tolist() == [1.0, 0.0]
    assert sft(t, above=1.0).loss.tolist() == [0.0, 0.0]


@pytest.mark.parametrize("name", sorted(LOSSES))
def test_extreme_ratios_leave_loss_and_gradient_finite(name):
    entries = [(300.0, 0.0, 0.0, 1.0), (-300.0, 0.0, 0.0, 1.0)]
    t = make([(entries, 1.0, 1.0), (entries[:1], -1.0, 0.0), (entries[1:], -1.0, 0.0)])
    t = replace(t, new=t.new.detach().float().requires_grad_(True))
    loss = value_of(name, t)
    loss.backward()
    assert loss.isfinite()
    assert t.new.grad.isfinite().all()


@pytest.mark.parametrize("name", sorted(LOSSES))
def test_losses_without_a_ratio_say_so(name):
    rng = np.random.default_rng(7)
    rows = [([tuple(rng.uniform(-1, 1, 4)) for _ in range(3)], rng.normal(), rng.normal()) for _ in range(4)]
    t = make(rows)
    other = replace(t, old=t.old + 0.3, weight=t.weight * 2, advantage=t.advantage + 1)
    assert (value_of(name, t).item() == value_of(name, other).item()) == (name in WITHOUT_RATIO)


def test_losses_that_compare_with_the_initial_policy_say_so():
    assert set(LOSSES) >= WITH_REFERENCE
    t = replace(make([([(-1.0, 0.0, 0.0, 1.0)], 1.0, 1.0)]), reference=None)
    for name in set(LOSSES) - WITH_REFERENCE:
        LOSSES[name](t)
    with pytest.raises(AssertionError):
        copg(t)


def test_reading_the_registries_imports_nothing_heavy():
    modules = "learners.losses, learners.advantages, learners.corrections, learners.penalties, learners.truncation"
    code = (
        f"import sys, {modules}; "
        "sys.exit(any(name in sys.modules for name in ('torch', 'transformers', 'deepspeed', 'vllm')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
