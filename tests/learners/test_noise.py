"""Corrections against slow transcriptions, their expectation, and where they do nothing."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from learners.advantages import ADVANTAGES, Scored, group_norm, leave_one_out
from learners.noise import NOISES, Audit, backward, corrected, forward
from swarm.types import Rates, Status, Verdict

below = st.floats(0, 0.44)
bits = st.lists(st.sampled_from([0.0, 1.0]), min_size=2, max_size=9)


def one(correction, value, p0, p1, **options):
    return float(correction(np.array([value]), np.array([p0]), np.array([p1]), **options)[0])


def scored(rewards):
    rewards = np.asarray(rewards, np.float64)
    return Scored(rewards, rewards[:, None], np.ones(1), np.ones(len(rewards), np.int64))


@given(below, below, st.floats(0, 1))
def test_they_are_their_equations(p0, p1, value):
    c = 1 - p0 - p1
    assert one(backward, value, p0, p1) == pytest.approx((value - p0) / c)
    assert one(forward, value, p0, p1) == pytest.approx((value - (1 - p1)) / c)
    assert one(forward, value, p0, p1, scaled=False) == pytest.approx(value - (1 - p1))
    assert one(NOISES["none"], value, p0, p1) == value


@given(below, below, st.booleans())
def test_backward_is_unbiased_over_the_channel(p0, p1, right):
    accepted = 1 - p1 if right else p0
    assert accepted * one(backward, 1.0, p0, p1) + (1 - accepted) * one(backward, 0.0, p0, p1) == pytest.approx(
        float(right), abs=1e-9
    )


@given(below, below, st.booleans())
def test_forward_gives_right_answers_nothing_and_wrong_ones_minus_j(p0, p1, right):
    accepted = 1 - p1 if right else p0
    mean = sum(p * one(forward, r, p0, p1, scaled=False) for p, r in ((accepted, 1.0), (1 - accepted, 0.0)))
    assert mean == pytest.approx(0.0 if right else -(1 - p0 - p1), abs=1e-9)


def test_a_channel_without_signal_is_limited():
    assert one(backward, 1.0, 0.5, 0.5) == pytest.approx(5.0)
    assert one(backward, 1.0, 0.6, 0.6, least_j=0.5) == pytest.approx(0.8)


@given(bits, below, below, st.sampled_from([backward, forward]))
def test_a_z_score_with_one_rate_pair_takes_every_correction_off_again(values, p0, p1, correction):
    raw, n = np.array(values), len(values)
    changed = correction(raw, np.full(n, p0), np.full(n, p1))
    before, after = (group_norm([scored(v)], eps=1e-6)[0] for v in (raw, changed))
    assert np.abs(before - after).max() < 1e-5


@given(bits, below, below)
def test_with_one_rate_pair_leave_one_out_changes_by_a_factor_only(values, p0, p1):
    raw, n = np.array(values), len(values)
    changed = backward(raw, np.full(n, p0), np.full(n, p1))
    want = leave_one_out([scored(raw)])[0] / (1 - p0 - p1)
    assert leave_one_out([scored(changed)])[0] == pytest.approx(want, abs=1e-12)


def test_each_verdict_is_corrected_by_its_own_rates_and_the_rest_stays(make_group):
    group = make_group((1.0, 0.0))
    said = [
        (
            Verdict("a", Status.SCORED, 1.0, rates=Rates(0.1, 0.3), stratum="x"),
            Verdict("b", Status.SCORED, 1.0, rates=Rates(0.0, 0.5)),
        ),
        (Verdict("a", Status.SCORED, 0.0), Verdict("b", Status.TIMEOUT, rates=Rates(0.0, 0.5))),
    ]
    found = corrected(group.with_verdicts(said), backward).rollouts
    assert [v.value for v in found[0].verdicts] == pytest.approx([1.5, 2.0])
    assert found[0].verdicts[0].stratum == "x"
    assert found[1].verdicts == said[1]
    assert replace(found[0], verdicts=()) == replace(group.rollouts[0], verdicts=())


@given(st.floats(0, 1), below, st.floats(0, 1), st.sampled_from([backward, forward]))
def test_no_rates_multiply_a_value_by_more_than_ten(value, p0, p1, correction):
    assert abs(one(correction, value, p0, p1)) <= 10.0 + 1e-9


@pytest.mark.parametrize("rates", [(0.5, 0.5), (0.7, 0.6)])
def test_a_verdict_whose_rates_leave_nothing_is_left_out(make_group, rates):
    """Limited to `least_j` it would be multiplied by 10, below 0 the wrong way round."""
    said = [(Verdict("a", Status.SCORED, x, rates=Rates(*r)),) for x, r in ((1.0, rates), (1.0, (0.1, 0.3)))]
    first, second = (r.verdicts[0] for r in corrected(make_group((1.0, 0.0)).with_verdicts(said), backward).rollouts)
    assert (first.value, first.status) == (None, Status.ABSTAINED)
    assert second.value == pytest.approx(1.5)


def test_the_audit_sees_a_change_a_rescaling_and_nothing():
    before = [np.array([1.0, 1.0]), np.array([-1.0])]
    other = Audit.of(before, [np.array([2.0, 2.0]), np.array([1.0])])
    assert (other.change_mean, other.change_max, other.is_noop) == (1.5, 2.0, False)
    assert other.cosine == pytest.approx(1 / np.sqrt(10))
    longer = Audit.of(before, [2 * a for a in before])
    assert (longer.cosine, longer.is_noop) == (pytest.approx(1.0), False)
    assert Audit.of(before, before).is_noop
    flat = [np.zeros(2), np.zeros(0)]
    assert (Audit.of(flat, flat).is_noop, Audit.of(flat, flat).cosine) == (False, 1.0)


def test_every_correction_is_in_the_registry_with_keyword_options():
    assert set(NOISES) == {"none", "backward", "forward"}
    assert {"running_std", "no_baseline"} <= set(ADVANTAGES)
