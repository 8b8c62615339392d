"""How many rollouts each prompt gets."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.allocation import allocate


@settings(max_examples=200)
@given(
    prompts=st.lists(
        st.tuples(st.sampled_from([0.0, 0.001, 0.1, 0.5, 1.0]) | st.floats(0, 1), st.floats(0, 50)), min_size=1
    ),
    least=st.integers(2, 4),
    more=st.integers(0, 100),
)
def test_an_allocation_keeps_the_budget_exactly_and_the_floor(
    prompts: list[tuple[float, float]], least: int, more: int
) -> None:
    p, gradients = np.array(prompts).T
    budget = least * len(prompts) + more
    found = allocate(p, gradients, budget, least=least)
    assert sum(found) == budget
    assert min(found) >= least


def test_an_allocation_is_the_slow_transcription_where_the_floor_does_not_matter() -> None:
    rng = np.random.default_rng(1)
    p, gradients = rng.uniform(0.2, 0.9, 6), rng.uniform(0.5, 1.5, 6)
    wanted = [float(g / (q + 1e-3 / q ** (2.0 - 1)) ** 0.5) for q, g in zip(p, gradients, strict=True)]
    shares = [600 * w / sum(wanted) for w in wanted]
    found = allocate(p, gradients, 600)
    assert all(abs(n - share) < 1 for n, share in zip(found, shares, strict=True))


def variance(num: np.ndarray, p: np.ndarray, gradients: np.ndarray) -> float:
    return float((gradients**2 / (num * p)).sum())


def test_a_uniform_allocation_costs_1_6_to_1_9_times_the_variance_at_equal_budget() -> None:
    """With p uniform in [.05, 1] and log-normal gradients (sigma .6); the figure depends on how unlike prompts are."""
    rng, ratios = np.random.default_rng(0), []
    for _ in range(50):
        p, gradients = rng.uniform(0.05, 1, 256), rng.lognormal(0, 0.6, 256)
        even = np.full(256, 16)
        found = np.array(allocate(p, gradients, int(even.sum())))
        ratios.append(variance(even, p, gradients) / variance(found, p, gradients))
    assert 1.6 < np.mean(ratios) < 1.9


def test_hopeless_prompts_get_the_floor_and_a_round_of_nothing_else_is_even() -> None:
    assert allocate(np.array([0.0, 0.5, 0.5]), np.ones(3), 24, least=3) == [3, 11, 10]
    assert allocate(np.array([0.5, 0.5]), np.array([0.0, 1.0]), 16) == [2, 14]
    assert allocate(np.zeros(3), np.ones(3), 24) == [8, 8, 8]
    assert allocate(np.array([0.3]), np.ones(1), 9) == [9]


def test_a_budget_below_the_floor_is_refused() -> None:
    with pytest.raises(ValueError, match="a budget of 5 rollouts is less than 2 for each of 3 prompts"):
        allocate(np.ones(3), np.ones(3), 5)
