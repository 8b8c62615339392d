"""Running estimates of prompts."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.pass_rates import FORGET, HORIZON, PassRates
from swarm.types import Prompt, PromptStats


def prompt(name: str, source: str = "sums") -> Prompt:
    return Prompt(name, f"{name}?", source=source)


def stats(name: str, passed: int, num: int = 8, source: str = "sums", **figures: float) -> PromptStats:
    return PromptStats(name, source, num, passed / num, passed * (num - passed) / num**2, **figures)


told = st.lists(
    st.builds(
        lambda name, num, share, source, gradient: stats(
            name, round(share * num), num, source, gradient=gradient, diversity=share
        ),
        st.sampled_from("abcdefgh"),
        st.integers(1, 16),
        st.floats(0, 1),
        st.sampled_from(["sums", "words"]),
        st.floats(0, 9),
    ),
    max_size=40,
)


def test_without_any_group_the_prior_is_jeffreys() -> None:
    rates = PassRates(10)
    assert rates.rate(prompt("a")) == 0.5
    assert rates.variance(prompt("a")) == 0.125
    assert (rates.gradient(prompt("a")), rates.diversity(prompt("a"))) == (1.0, 0.5)


@given(told)
def test_no_rate_is_ever_0_or_1(groups: list[PromptStats]) -> None:
    rates = PassRates(4)
    rates.learned(groups)
    for name in "abcdefghi":
        assert 0 < rates.rate(prompt(name)) < 1
        assert 0 < rates.variance(prompt(name)) <= 0.25 + 1e-9


def test_a_rate_is_the_slow_sum_over_all_groups_with_older_ones_halved() -> None:
    rates, passes = PassRates(10), [3, 8, 0, 5]
    for k in passes:
        rates.learned([stats("a", k)])
    ages = list(range(len(passes)))[::-1]
    keep = 1 - 1 / HORIZON
    source = (sum(k * keep**age for k, age in zip(passes, ages, strict=True)) + 0.5) / (
        sum(8 * keep**age for age in ages) + 1
    )
    passed = sum(k * FORGET**age for k, age in zip(passes, ages, strict=True))
    num = sum(8 * FORGET**age for age in ages)
    assert rates.rate(prompt("a")) == pytest.approx((passed + source) / (num + 1), abs=1e-3)


def test_a_prompt_that_was_never_asked_is_what_its_source_is() -> None:
    rates = PassRates(10)
    for i in range(40):
        rates.learned([stats(f"e{i}", 8, source="easy"), stats(f"h{i}", 0, source="hard")])
        rates.learned([stats(f"m{i}", 4, source="middle")])
    found = {s: rates.rate(prompt("new", s)) for s in ("easy", "hard", "middle", "none")}
    assert found["easy"] > 0.98
    assert found["hard"] < 0.02
    assert found["middle"] == pytest.approx(0.5, abs=1e-4)
    assert found["none"] == 0.5
    assert rates.variance(prompt("new", "middle")) > 10 * rates.variance(prompt("new", "easy"))


def test_a_source_half_solved_and_half_hopeless_has_nothing_to_teach() -> None:
    rates = PassRates(0)
    for i in range(100):
        rates.learned([stats(f"{i}", 8 * (i % 2), source="split"), stats(f"{i}", 1 + i % 2, source="real")])
    assert rates.rate_of_source("split") == pytest.approx(0.5, abs=0.01)
    assert rates.variance(prompt("new", "split")) < 0.01
    assert rates.variance(prompt("new", "real")) > 0.1


def test_the_spread_within_groups_is_the_variance_of_a_pass() -> None:
    rng, rates = np.random.default_rng(0), PassRates(0)
    values = []
    for _ in range(600):
        p = rng.choice([0.05, 0.5])
        rates.learned([stats("x", int(rng.binomial(8, p)))])
        values.append(rates.variance(prompt("new")))
    assert np.mean(values[100:]) == pytest.approx((0.05 * 0.95 + 0.25) / 2, abs=0.02)


@pytest.mark.parametrize("k", range(9))
def test_the_variance_of_a_prompt_is_near_its_posterior_mean(k: int) -> None:
    """Under Beta(1/2, 1/2) and k of 8: (k + 1/2) (8 - k + 1/2) / (9 * 10)."""
    rates = PassRates(10)
    rates.learned([stats("a", k)])
    source = rates.variance(prompt("new"))
    expected = (k + 0.5) * (8.5 - k) / 90
    found = rates.variance(prompt("a")) + (0.125 - source) / 3  # as if nothing were known of the source
    assert found == pytest.approx(expected, rel=0.13)


def test_rewards_with_degrees_count_by_their_mean_and_their_own_variance() -> None:
    rates = PassRates(10)
    for _ in range(20):
        rates.learned([PromptStats("flat", "graded", 8, 0.5, 0.0), PromptStats("good", "graded", 8, 0.5, 0.1)])
    assert rates.rate(prompt("flat", "graded")) == pytest.approx(0.5, abs=0.01)
    assert rates.variance(prompt("good", "graded")) > 5 * rates.variance(prompt("flat", "graded"))
    rates.learned([PromptStats("far", "big", 8, 7.0, 30.0), PromptStats("low", "big", 8, -3.0, 0.0)])
    assert 0 < rates.rate(prompt("low", "big")) < rates.rate(prompt("far", "big")) < 1
    assert 0.2 < rates.variance(prompt("far", "big")) <= 0.25


def test_gradients_and_diversity_come_from_the_prompt_else_its_source_and_groups_without_them_keep_them() -> None:
    rates = PassRates(10)
    rates.learned([stats("a", 2, gradient=2.0, diversity=0.25)])
    rates.learned([stats("a", 2)])
    assert (rates.gradient(prompt("a")), rates.diversity(prompt("a"))) == (2.0, 0.25)
    rates.learned([stats("a", 2, gradient=4.0)])
    assert rates.gradient(prompt("a")) == 3.0
    assert 2.0 < rates.gradient(prompt("new")) < 2.1
    assert rates.gradient(prompt("new", "other")) == 1.0


def test_a_group_without_a_reward_says_nothing() -> None:
    rates = PassRates(10)
    rates.learned([PromptStats("a", "sums", 0, math.nan, 0.0)])
    assert rates.state() == {"prompts": [], "sources": []}


@given(told, told)
def test_a_restored_state_goes_on_equally_and_stays_small(before: list[PromptStats], after: list[PromptStats]) -> None:
    whole, resumed = PassRates(5), PassRates(5)
    whole.learned(before)
    state = json.loads(json.dumps(whole.state()))
    assert len(state["prompts"]) <= 5
    assert len(json.dumps(state)) < 7 * 120
    resumed.restore(state)
    whole.learned(after)
    resumed.learned(after)
    assert whole.state() == resumed.state()
    assert [whole.rate(prompt(n)) for n in "abcdefgh"] == [resumed.rate(prompt(n)) for n in "abcdefgh"]


def test_the_longest_forgotten_prompt_is_the_first_to_go() -> None:
    rates = PassRates(2)
    rates.learned([stats("a", 8), stats("b", 8), stats("a", 8), stats("c", 0)])
    assert [name for name, *_ in rates.state()["prompts"]] == ["a", "c"]
