"""What rollouts at the token limit are worth."""

from __future__ import annotations

import numpy as np
import pytest

from learners.truncation import TRUNCATIONS

REWARDS, LENGTHS, CUT = np.array([1.0, 0.5, 0.0]), np.array([10, 4, 10]), np.array([True, False, False])


def change(name, **options):
    return TRUNCATIONS[name](REWARDS, LENGTHS, CUT, 10, **options).tolist()


def test_each_changes_what_it_says():
    assert change("keep") == [0.0, 0.0, 0.0]
    assert np.isnan(change("mask")).tolist() == [True, False, False]
    assert change("zero") == [-1.0, 0.0, 0.0]


def test_soft_overlong_is_dapos_equation():
    """arXiv 2503.14476, eq. 13, with L_max = 10 and L_cache = 4."""

    def slow(length):
        if length <= 10 - 4:
            return 0.0
        return ((10 - 4) - length) / 4 if length <= 10 else -1.0

    lengths = np.arange(1, 11)
    found = TRUNCATIONS["soft_overlong"](np.zeros(10), lengths, np.zeros(10, bool), 10, share=0.4)
    assert found.tolist() == pytest.approx([slow(n) for n in lengths])
    assert TRUNCATIONS["soft_overlong"](REWARDS, LENGTHS, CUT, 10)[0] == -1.0
