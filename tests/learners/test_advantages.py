"""Advantages against slow transcriptions, and what all of them promise."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from learners.advantages import ADVANTAGES, group_norm, leave_one_out, mean_only

rewards = st.lists(st.floats(-3, 3, allow_subnormal=False).map(lambda r: round(r, 3)), min_size=2, max_size=9)


def slow_group_norm(values, eps):
    mean = sum(values) / len(values)
    variance = sum((v - mean) ** 2 for v in values) / (len(values) - 1)
    return [(v - mean) / (math.sqrt(variance) + eps) for v in values]


def slow_leave_one_out(values):
    return [v - sum(values[:i] + values[i + 1 :]) / (len(values) - 1) for i, v in enumerate(values)]


@given(rewards, st.floats(1e-6, 1e-2))
def test_group_norm_is_its_equation(values, eps):
    assert group_norm(np.array(values), eps=eps) == pytest.approx(slow_group_norm(values, eps), abs=1e-9)


@given(rewards)
def test_mean_only_is_its_equation(values):
    mean = sum(values) / len(values)
    assert mean_only(np.array(values)) == pytest.approx([v - mean for v in values], abs=1e-12)


@given(rewards)
def test_leave_one_out_is_its_equation(values):
    assert leave_one_out(np.array(values)) == pytest.approx(slow_leave_one_out(values), abs=1e-12)


@pytest.mark.parametrize("name", sorted(ADVANTAGES))
@given(values=rewards, shift=st.floats(-5, 5))
def test_an_advantage_sums_to_zero_and_ignores_a_shift(name, values, shift):
    advantage = ADVANTAGES[name](np.array(values))
    assert advantage.sum() == pytest.approx(0, abs=1e-6)
    assert ADVANTAGES[name](np.array(values) + shift) == pytest.approx(advantage, abs=1e-6)


@pytest.mark.parametrize("name", sorted(ADVANTAGES))
@pytest.mark.parametrize("value", [0.0, 0.1, 1 / 3, -7.3])
def test_equal_rewards_give_exactly_zero(name, value):
    assert (ADVANTAGES[name](np.full(7, value)) == 0).all()


def test_one_right_in_eight_is_worth_more_than_seven_in_eight():
    rare, common = np.array([1.0] + [0.0] * 7), np.array([1.0] * 7 + [0.0])
    assert group_norm(rare)[0] > 2 * group_norm(common)[0]
