from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from rewarders.verpo import dense_reward

GROUPS = st.tuples(st.integers(1, 8), st.integers(1, 8)).flatmap(lambda shape: arrays(bool, shape))
WEIGHTS = st.floats(0.0, 1.0)


def slow(passed: list[list[bool]], c: float) -> list[float]:
    """A transcription, test by test."""
    num_programs, num_tests = len(passed), len(passed[0])
    difficulty = []
    for j in range(num_tests):
        passes = sum(1 for i in range(num_programs) if passed[i][j])
        difficulty.append(1 - (passes + 1) / (num_programs + 2))
    rewards = []
    for i in range(num_programs):
        dense = sum(difficulty[j] for j in range(num_tests) if passed[i][j]) / sum(difficulty)
        rewards.append((1 - c) * dense + c * (1.0 if all(passed[i]) else 0.0))
    return rewards


@given(GROUPS, WEIGHTS)
def test_it_is_what_its_equation_says(passed, c) -> None:
    assert dense_reward(passed, c) == pytest.approx(slow(passed.tolist(), c), abs=1e-12)


@given(GROUPS, st.floats(0.0, 0.99))
def test_it_lies_in_0_to_1_and_only_passing_all_gives_1(passed, c) -> None:
    found = dense_reward(passed, c)
    assert ((found >= 0) & (found <= 1)).all()
    assert (found[passed.all(axis=1)] == 1.0).all()
    assert (found[~passed.all(axis=1)] < 1.0).all()


@given(GROUPS, st.floats(0.0, 0.99))
def test_passing_more_is_worth_more(passed, c) -> None:
    found = dense_reward(passed, c)
    for i in range(len(passed)):
        for j in range(len(passed)):
            if (passed[i] <= passed[j]).all() and (passed[i] != passed[j]).any():
                assert found[i] < found[j]


@given(GROUPS, WEIGHTS, st.randoms())
def test_the_order_of_tests_and_programs_does_not_matter(passed, c, random) -> None:
    rows, columns = (random.sample(range(num), num) for num in passed.shape)
    assert dense_reward(passed[rows][:, columns], c) == pytest.approx(dense_reward(passed, c)[rows])


def test_a_group_in_which_none_passes_all_still_differs_and_a_rare_test_outranks_a_common_one() -> None:
    common, rare, nothing = [True, False, False], [False, True, False], [False, False, False]
    found = dense_reward(np.array([common, common, common, rare, nothing]))
    assert found[3] > found[0] > found[4] == 0.0


def test_no_tests_give_no_reward() -> None:
    with pytest.raises(ValueError, match="no tests"):
        dense_reward(np.zeros((2, 0), bool))
