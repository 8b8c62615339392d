"""What a group says of its prompt."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from learners.prompt_stats import diversity, prompt_stats, surprise_norm

WEIGHTS = {"exact": 1.0}


def with_tokens(group, *tokens, logprobs=None):
    """The group with these completions."""
    rollouts = [
        replace(
            rollout,
            tokens=np.array(ids, np.int32),
            logprobs=np.full(len(ids), -1.0, np.float32) if logprobs is None else np.array(logprobs[i], np.float32),
            loss_mask=np.ones(len(ids), bool),
        )
        for i, (rollout, ids) in enumerate(zip(group.rollouts, tokens, strict=True))
    ]
    return replace(group, rollouts=tuple(rollouts))


def test_rewards_become_counts_mean_and_variance_and_masked_rollouts_are_left_out(make_group):
    found = prompt_stats(make_group((1.0, 0.0, None, 0.5), seed=3), WEIGHTS)
    assert (found.id, found.source) == ("p3", "")
    assert (found.num, found.mean) == (3, 0.5)
    assert found.variance == pytest.approx(np.var([1.0, 0.0, 0.5]))
    assert found.gradient is not None
    assert found.diversity is not None


def test_a_group_without_rewards_says_so(make_group):
    found = prompt_stats(make_group((None, None)), WEIGHTS)
    assert (found.num, found.variance) == (0, 0.0)
    assert math.isnan(found.mean)
    assert (found.gradient, found.diversity) == (None, None)


def test_the_norm_is_the_slow_sum_over_tokens_with_loss(make_group):
    group = make_group((1.0, 0.0, 0.0))
    masks = [np.arange(len(r.tokens)) % 2 == 0 for r in group.rollouts]
    rollouts = [replace(r, loss_mask=mask) for r, mask in zip(group.rollouts, masks, strict=True)]
    squares = []
    for rollout in rollouts:
        total = 0.0
        for logprob, kept in zip(rollout.logprobs, rollout.loss_mask, strict=True):
            total += (1 - math.exp(float(logprob))) ** 2 if kept else 0.0
        squares.append(total)
    assert surprise_norm(rollouts) == pytest.approx(math.sqrt(sum(squares) / 3))


def test_a_sure_policy_has_no_gradient(make_group):
    group = with_tokens(make_group((1.0, 1.0)), [1, 2], [1, 2], logprobs=[[0.0, 0.0]] * 2)
    assert surprise_norm(group.rollouts) == 0.0


@given(st.integers(0, 2**32 - 1), st.integers(2, 50), st.floats(0.1, 10))
def test_the_proxy_is_within_a_factor_root_2_of_the_norm_at_the_logits(seed, size, scale):
    rng = np.random.default_rng(seed)
    logits = scale * rng.standard_normal(size)
    policy = np.exp(logits - logits.max())
    policy /= policy.sum()
    sampled = rng.choice(size, p=policy)
    exact = np.linalg.norm(np.eye(size)[sampled] - policy)
    proxy = 1 - policy[sampled]
    assert proxy <= exact + 1e-12
    assert exact <= math.sqrt(2) * proxy + 1e-12


@pytest.mark.parametrize(
    ("tokens", "found"),
    [
        ([[1, 2, 3], [1, 2, 3], [1, 2, 3]], 0.0),
        ([[1, 2], [3, 4], [5, 6]], 1.0),
        ([[1], [1], [2]], 0.5),
        ([[1, 1, 1, 1], [2, 2]], 1.0),
        ([[], [], []], None),
        ([[], [1]], 1.0),
    ],
)
def test_diversity_is_0_for_equal_completions_and_1_for_unlike_ones(make_group, tokens, found):
    group = with_tokens(make_group((0.0,) * len(tokens), lengths=[1] * len(tokens)), *tokens)
    assert diversity(group.rollouts) == (None if found is None else pytest.approx(found))


@given(st.lists(st.lists(st.integers(0, 3), max_size=6), min_size=2, max_size=6))
def test_diversity_is_between_0_and_1(make_group, tokens):
    group = with_tokens(make_group((0.0,) * len(tokens), lengths=[1] * len(tokens)), *tokens)
    found = diversity(group.rollouts)
    assert found is None or -1e-12 <= found <= 1 + 1e-12


def test_a_learner_reports_every_prompt_of_its_batch_in_order(make_learner, make_group):
    groups = [make_group((1.0, 0.0), seed=1), make_group((1.0, 1.0), seed=2), make_group((None, None), seed=3)]
    report = make_learner().step(1, groups)
    assert [stats.id for stats in report.prompts] == ["p1", "p2", "p3"]
    assert [stats.num for stats in report.prompts] == [2, 2, 0]
