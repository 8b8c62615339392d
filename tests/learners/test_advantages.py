"""Advantages against slow transcriptions, the figures of their papers, and what all of them promise."""

from __future__ import annotations

import math
from statistics import mean, pstdev, stdev

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import beta as beta_distribution

from learners.advantages import (
    ADVANTAGES,
    Scored,
    batch_std,
    bnpo,
    gdpo,
    group_norm,
    leave_one_out,
    mean_only,
    no_baseline,
    pure,
    receiver_baseline,
    running_std,
)
from swarm.types import Segment

rewards = st.lists(st.floats(-3, 3, allow_subnormal=False).map(lambda r: round(r, 3)), min_size=2, max_size=9)
unit = st.lists(st.sampled_from([0.0, 0.25, 0.5, 1.0]), min_size=2, max_size=6)
CENTRED = sorted(set(ADVANTAGES) - {"receiver_baseline", "pure", "no_baseline"})


def scored(values, components=None, weights=None, **rest):
    values = np.array(values, np.float64)
    components = values[:, None] if components is None else np.array(components, np.float64)
    weights = np.ones(components.shape[1]) if weights is None else np.array(weights)
    lengths = rest.pop("lengths", np.full(len(values), 4))
    return Scored(values, components, weights, np.asarray(lengths), **rest)


def slow_group_norm(values, eps):
    return [(v - mean(values)) / (stdev(values) + eps) for v in values]


@given(rewards, st.floats(1e-6, 1e-2))
def test_group_norm_is_its_equation(values, eps):
    assert group_norm([scored(values)], eps=eps)[0] == pytest.approx(slow_group_norm(values, eps), abs=1e-9)


@given(rewards)
def test_mean_only_is_its_equation(values):
    assert mean_only([scored(values)])[0] == pytest.approx([v - mean(values) for v in values], abs=1e-12)


@given(rewards)
def test_leave_one_out_is_its_equation(values):
    want = [v - sum(values[:i] + values[i + 1 :]) / (len(values) - 1) for i, v in enumerate(values)]
    assert leave_one_out([scored(values)])[0] == pytest.approx(want, abs=1e-12)


@given(st.lists(rewards, min_size=1, max_size=4))
def test_batch_std_is_its_equation(groups):
    gaps = [v - mean(values) for values in groups for v in values]
    scale = pstdev(gaps) + 1e-4
    found = np.concatenate(batch_std([scored(values) for values in groups]))
    assert found == pytest.approx([gap / scale for gap in gaps], abs=1e-9)


@given(st.lists(st.lists(st.tuples(st.sampled_from([0.0, 1.0]), st.floats(0, 1)), min_size=2, max_size=5), min_size=1))
def test_gdpo_is_its_equation(groups):
    weights, sums = (1.0, 0.5), []
    for rows in groups:
        columns = list(zip(*rows, strict=True))
        normed = [
            [0.0] * len(c) if max(c) == min(c) else [(v - mean(c)) / (stdev(c) + 1e-4) for v in c] for c in columns
        ]
        sums.append([sum(w * n for w, n in zip(weights, entry, strict=True)) for entry in zip(*normed, strict=True)])
    scale = pstdev([s for group in sums for s in group]) + 1e-4
    given_ = [scored([sum(r) for r in rows], components=rows, weights=weights) for rows in groups]
    for found, want in zip(gdpo(given_), sums, strict=True):
        assert found == pytest.approx([s / scale for s in want], abs=1e-6)


@given(st.lists(unit, min_size=1, max_size=5))
def test_bnpo_is_its_equation(groups):
    means = [mean(values) for values in groups]
    variance, m = pstdev(means) ** 2, mean(means)
    a = b = 0.0
    if variance > 1e-12 and (size := m * (1 - m) / variance - 1) > 0:
        a, b = m * size, (1 - m) * size
    for values, centre, found in zip(groups, means, bnpo([scored(v) for v in groups]), strict=True):
        density = beta_distribution.pdf(centre, 1 + a / 3, 1 + b / 3) if 0 < centre < 1 else 1.0
        assert found == pytest.approx([(v - centre) / max(density, 1e-6) for v in values], rel=1e-6, abs=1e-9)


@given(unit, st.floats(0, 1))
def test_the_receivers_baseline_is_its_equation(values, b):
    want = [min(max((v - b) / math.sqrt(b * (1 - b) + 0.05), -1.0), 3.0) for v in values]
    assert receiver_baseline([scored(values, baseline=b)])[0] == pytest.approx(want)


@given(st.lists(rewards, min_size=1, max_size=4), st.none() | st.floats(1e-3, 9))
def test_a_running_scale_is_that_of_earlier_steps_and_of_no_group(groups, variance):
    given_ = [scored(v, variance=variance) for v in groups]
    found_scale = mean(stdev(v) ** 2 for v in groups) if variance is None else variance
    scale = max(math.sqrt(found_scale), 1e-3)
    for values, centred, raw, scaled in zip(
        groups, running_std(given_), no_baseline(given_), no_baseline(given_, scaled=True), strict=True
    ):
        want = [v - sum(values[:i] + values[i + 1 :]) / (len(values) - 1) for i, v in enumerate(values)]
        assert centred == pytest.approx([w / scale for w in want], abs=1e-6)
        assert raw == pytest.approx(values)
        assert scaled == pytest.approx([v / scale for v in values])


@pytest.mark.parametrize("name", CENTRED)
@given(values=unit, other=unit)
def test_a_centred_advantage_sums_to_zero_in_every_group(name, values, other):
    for advantage in ADVANTAGES[name]([scored(values), scored(other)]):
        assert sum(advantage) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("name", sorted(set(CENTRED) - {"bnpo"}))
@given(values=rewards, shift=st.floats(-5, 5))
def test_a_centred_advantage_ignores_a_shift(name, values, shift):
    before, after = (ADVANTAGES[name]([scored(np.array(values) + by)])[0] for by in (0.0, shift))
    assert after == pytest.approx(before, abs=1e-6)


@pytest.mark.parametrize("name", [*CENTRED, "pure"])
@pytest.mark.parametrize("value", [0.0, 0.1, 1 / 3, 1.0])
def test_equal_rewards_give_exactly_zero(name, value):
    flat = scored(np.full(7, value))
    for groups in ([flat], [scored([0.0, 1.0, 0.5]), flat]):
        assert all(np.all(a == 0) for a in ADVANTAGES[name](groups)[-1])


def test_one_right_in_eight_is_worth_more_than_seven_in_eight():
    rare, common = scored([1.0] + [0.0] * 7), scored([1.0] * 7 + [0.0])
    both = [rare, common]
    assert group_norm(both)[0][0] > 2 * group_norm(both)[1][0]
    assert batch_std(both)[0][0] > batch_std(both)[1][0]


def test_decoupled_normalisation_tells_apart_what_a_sum_forgets():
    """GDPO, arXiv 2601.05242: (0, 1) and (1, 1) against (0, 0)."""
    one, both = [(0.0, 0.0), (0.0, 1.0)], [(0.0, 0.0), (1.0, 1.0)]
    merged = [group_norm([scored([sum(r) for r in rows])], eps=0.0)[0] for rows in (one, both)]
    assert merged[0] == pytest.approx([-0.7071, 0.7071], abs=1e-4)
    assert merged[1] == pytest.approx(merged[0])
    groups = [scored([sum(r) for r in rows], components=rows) for rows in (one, both)]
    first, second = gdpo(groups, eps=1e-12)
    assert second[1] / first[1] == pytest.approx(2.0)


def test_a_loud_component_does_not_drown_a_quiet_one():
    rng = np.random.default_rng(0)
    right = rng.integers(0, 2, (200, 8)).astype(float)
    loud = 100.0 * rng.standard_normal((200, 8))
    groups = [
        scored(r + x, components=np.stack([r, x], 1)) for r, x in zip(right, loud, strict=True) if 0 < r.mean() < 1
    ]
    kept = np.concatenate([g.components[:, 0] for g in groups])
    drowned, heard = (np.corrcoef(np.concatenate(f(groups)), kept)[0, 1] for f in (batch_std, gdpo))
    assert drowned < 0.2
    assert heard > 0.6


def test_a_component_that_does_not_apply_contributes_nothing():
    alone = scored([0.0, 1.0, 1.0])
    with_other = scored([0.0, 1.0, 1.0], components=[(0.0, np.nan), (1.0, np.nan), (1.0, np.nan)])
    assert gdpo([with_other])[0] == pytest.approx(gdpo([alone])[0])


def test_bnpos_density_minimises_the_variance():
    """E[m (1 - m) / f^2] for m ~ Beta(2, 5): 0.179 for f = 1, 0.154 for GRPO, 0.095 for BNPO."""
    means = beta_distribution.rvs(2, 5, size=20_000, random_state=0)
    gap = 1e-3
    found = bnpo([scored([m - gap, m + gap]) for m in means.clip(gap, 1 - gap)])
    inverse = np.array([advantage[1] for advantage in found]) / gap
    assert (means * (1 - means)).mean() == pytest.approx(0.179, abs=0.002)
    assert (means * (1 - means) * inverse**2).mean() == pytest.approx(0.095, abs=0.004)


def test_bnpo_without_spread_is_mean_only_and_refuses_other_rewards():
    bnpo([scored([0.0, np.nextafter(1.0, 2.0)])])  # a sum of weights
    assert bnpo([scored([0.0, 1.0, 1.0])])[0] == pytest.approx(mean_only([scored([0.0, 1.0, 1.0])])[0])
    with pytest.raises(ValueError, match=r"\[0, 1\], found -1 to 1"):
        bnpo([scored([-1.0, 1.0])])


def test_a_solved_family_teaches_who_fails_it():
    solved = [1.0] * 8
    assert not np.any(group_norm([scored(solved)])[0])
    assert min(receiver_baseline([scored(solved, baseline=0.05)])[0]) > 1.0
    assert not np.any(receiver_baseline([scored(solved, baseline=1.0)])[0])
    assert not np.any(receiver_baseline([scored(solved)])[0])  # the first group has its own mean


def steps(values, length=2):
    return tuple(Segment(i * length, (i + 1) * length, v) for i, v in enumerate(values))


def first_return(values, fillers=0.0, num=0):
    """The return at the first token, against a rollout without steps."""
    judged = steps([*values, *[fillers] * num])
    group = scored([0.0, 0.0], lengths=[2 * len(judged), 1], segments=(judged, ()))
    return pure([group])[0][0][0]


def test_min_form_credit_is_about_the_worst_step_however_many_there_are():
    """PURE, arXiv 2504.15275: fillers lift a sum, not a minimum."""
    assert first_return([0.6, 0.6, 0.6]) == pytest.approx(0.60, abs=0.01)
    assert first_return([0.6, 0.6, 0.6], 0.5, 10) == pytest.approx(0.51, abs=0.02)
    assert first_return([0.6, -0.8, 0.6], 0.5, 10) == pytest.approx(-0.8, abs=0.01)
    for num in (2, 50):
        assert first_return([0.9] * num + [-0.8]) == pytest.approx(-0.80, abs=0.01)


def test_past_the_worst_step_the_return_is_about_zero():
    judged = steps([0.6, -0.8, 0.6])
    tokens = pure([scored([0.0, 0.0], lengths=[6, 1], segments=(judged, ()))])[0][0]
    assert tokens[0] == pytest.approx(-0.8, abs=0.01)
    assert tokens[2] == tokens[3] == pytest.approx(-0.8, abs=0.01)
    assert abs(tokens[5]) < 1e-3


def test_a_token_between_steps_belongs_to_the_next_one_and_one_after_the_last_has_no_return():
    judged = (Segment(0, 2, 0.6), Segment(3, 6, -0.8))
    tokens = pure([scored([0.0, 0.0], lengths=[8, 1], segments=(judged, ()))])[0][0]
    assert tokens[2] == tokens[3] == tokens[5]
    assert tokens[6] == tokens[7] == 0.0


def test_the_baseline_is_per_token_so_merging_good_steps_into_a_long_bad_one_costs_the_others_nothing():
    """A mean over steps would count a step of one token as much as one of nine."""
    long = (Segment(0, 9, -0.5), Segment(9, 10, 0.5))
    other = steps([0.1], 4)
    found = pure([scored([0.0, 0.0], lengths=[10, 4], segments=(long, other))])[0]
    returns = [found_one + baseline for found_one, baseline in zip(found[0], [0.1] * 10, strict=True)]
    assert returns[0] == pytest.approx(-0.5, abs=0.01)
    assert found[1][0] == pytest.approx(0.1 - np.mean(returns), abs=1e-6)
    assert np.mean(returns) == pytest.approx(-0.45, abs=0.01)  # per step it would be about -0.25


def test_the_outcome_can_be_added_to_steps():
    group = scored([0.0, 1.0], lengths=[2, 2], segments=((), ()))
    assert [float(np.ravel(a)[0]) for a in pure([group], outcome=1.0)[0]] == [-1.0, 1.0]
