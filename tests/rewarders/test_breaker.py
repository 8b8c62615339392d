"""It opens for the worst family while the mean is fine, and there is a way back."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rewarders.breaker import Breaker, State
from rewarders.tallies import interval


def test_it_opens_on_the_worst_family_while_the_mean_is_fine() -> None:
    breaker = Breaker(limit=0.2)
    accepted = total = 0
    for _ in range(3):
        for family in ("a", "b", "c", "d", "e", "f", "g", "key"):
            total += 1
            accepted += family == "key"
            breaker.saw(family, family == "key")
    assert accepted / total == pytest.approx(1 / 8)
    assert breaker.state is State.OPEN
    assert breaker.bad == {"key"}
    assert "3 of 3 wrong responses of the family key were accepted" in breaker.cause


@given(st.lists(st.booleans(), max_size=60))
def test_it_opens_exactly_when_the_lower_bound_passes_the_limit(outcomes) -> None:
    breaker = Breaker(limit=0.2)
    for i, accepted in enumerate(outcomes, 1):
        newest = [outcomes[i - k : i] for k in (10, 20) if k < i]
        surely = interval(sum(outcomes[:i]), i)[0] > 0.2
        surely = surely or any(interval(sum(part), len(part), 0.9998)[0] > 0.2 for part in newest)
        assert breaker.saw("family", accepted) == surely
        if surely:
            return
    assert breaker.state is State.CLOSED


def opened(rest: int = 4) -> Breaker:
    breaker = Breaker(limit=0.2, rest=rest)
    for _ in range(3):
        breaker.saw("key", True)
    return breaker


def test_after_a_rest_probes_may_close_it_again() -> None:
    breaker = opened()
    assert not breaker.saw("key", False)
    assert breaker.state is State.OPEN
    for _ in range(4):
        breaker.passed()
    assert breaker.state is State.HALF_OPEN
    assert breaker.suspects() == ["key"]
    needed = next(n for n in range(1, 100) if interval(0, n)[1] <= 0.2)
    for _ in range(needed):
        assert breaker.state is State.HALF_OPEN
        breaker.saw("key", False)
    assert breaker.state is State.CLOSED
    assert breaker.cause == ""


def test_one_accepted_probe_opens_it_again() -> None:
    breaker = opened()
    for _ in range(4):
        breaker.passed()
    for _ in range(5):
        breaker.saw("key", False)
    breaker.saw("key", True)
    assert breaker.state is State.OPEN
    assert breaker.opened == 1


def test_a_first_acceptance_is_suspicious_and_forgotten_after_some_rejections() -> None:
    breaker = Breaker(limit=0.2)
    breaker.saw("a", False)
    breaker.saw("b", True)
    assert breaker.suspects() == ["b"]
    for _ in range(30):
        breaker.saw("b", False)
    assert breaker.suspects() == []


def test_what_is_long_past_does_not_count() -> None:
    breaker = Breaker(limit=0.2, window=20)
    for _ in range(1000):
        breaker.saw("late", False)
    assert any(breaker.saw("late", True) for _ in range(20))


def test_a_rewarder_that_goes_bad_late_is_probed_and_found_at_once() -> None:
    breaker = Breaker(limit=0.2)
    for _ in range(500):
        breaker.saw("key", False)
    for _ in range(7):
        assert not breaker.saw("key", True)
        assert breaker.suspects() == ["key"]
    assert breaker.saw("key", True)
    assert "8 of the newest 10 wrong responses of the family key were accepted" in breaker.cause


@pytest.mark.parametrize("rate", [0.05, 0.1, 0.15])
def test_a_rate_below_the_limit_hardly_ever_opens_it_late(rate) -> None:
    late = 0
    for seed in range(40):
        breaker, dice = Breaker(limit=0.2), random.Random(seed)
        late += sum(breaker.saw("family", dice.random() < rate) for _ in range(1000)) > 0
    assert late <= 3  # of which some by their very first items


def test_accidents_are_not_followed_up_for_ever() -> None:
    breaker, dice, suspected = Breaker(limit=0.2), random.Random(0), 0
    for _ in range(2000):
        breaker.saw("family", dice.random() < 0.05)
        suspected += bool(breaker.suspects())
    assert suspected < 100


@pytest.mark.parametrize("limit", [0.0, 1.0, -1.0, 2.0])
def test_a_limit_outside_is_refused(limit) -> None:
    with pytest.raises(ValueError, match="wanted a rate between 0 and 1"):
        Breaker(limit=limit)
