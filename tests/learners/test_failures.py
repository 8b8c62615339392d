"""Rollouts that no rewarder could judge, as missing data."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from learners.failures import LARGEST, STAYS, counted, length_bin, weight


def test_where_nothing_fails_nothing_changes():
    counts = counted({}, [(n, True) for n in range(200)])
    assert {weight(counts, n) for n in range(200)} == {1.0}
    assert weight({}, 7) == 1.0


def test_those_that_were_judged_stand_for_those_of_their_length():
    counts = counted({}, [(100, True), (100, False), (101, False), (8, True)])
    assert weight(counts, 100) == 3.0
    assert weight(counts, 8) == 1.0
    assert weight(counted({}, [(9, False)] * 99 + [(9, True)]), 9) == LARGEST
    assert weight(counted({}, [(9, False)]), 9) == 1.0


def test_counts_fade():
    counts = counted(counted({}, [(8, True)]), [])
    assert counts == {length_bin(8): [STAYS, STAYS]}


@given(st.integers(1, 10**6), st.integers(1, 10**6))
def test_longer_is_never_in_an_earlier_bin(a, b):
    assert int(length_bin(min(a, b))) <= int(length_bin(max(a, b)))


def test_timeouts_that_follow_length_are_made_up_for():
    rng = np.random.default_rng(0)
    z = rng.standard_normal(40_000)
    lengths = np.exp(5 + 0.6 * z).astype(int) + 1
    right = rng.random(len(z)) < 1 / (1 + np.exp(0.5 - z))
    judged = rng.random(len(z)) >= 0.5 / (1 + np.exp(1 - 2 * z))
    counts = counted({}, zip(lengths.tolist(), judged.tolist(), strict=True))
    weights = [weight(counts, n) for n in lengths[judged].tolist()]
    assert abs(right[judged].mean() - right.mean()) > 0.03
    assert abs(np.average(right[judged], weights=weights) - right.mean()) < 0.01
