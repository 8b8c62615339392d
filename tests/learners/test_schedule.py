"""Learning-rate schedules as functions of the step."""

from __future__ import annotations

import typing

import pytest

from learners.schedule import SCHEDULES, lr_factor
from swarm.config import LearnersSection


@pytest.mark.parametrize("name", sorted(SCHEDULES))
def test_every_step_learns_and_none_above_the_peak(name):
    factors = [lr_factor(name, step, 20, 5) for step in range(1, 26)]
    assert all(0 < factor <= 1 for factor in factors)
    assert factors[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert factors[5] == 1.0  # the peak, then down
    assert factors[5:] == sorted(factors[5:], reverse=True)
    assert factors[19] == factors[24]  # an extended run keeps the last factor


def test_the_shapes_are_their_formulas():
    assert [lr_factor("linear", step, 4, 0) for step in (1, 2, 3, 4)] == pytest.approx([1, 0.75, 0.5, 0.25])
    assert lr_factor("cosine", 6, 10, 0) == pytest.approx(0.5)
    assert lr_factor("constant", 9, 10, 0) == 1


def test_the_recipe_knows_exactly_these_schedules():
    assert set(typing.get_args(LearnersSection.model_fields["schedule"].annotation)) == set(SCHEDULES)
