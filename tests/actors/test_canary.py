"""The canary's limits."""

from __future__ import annotations

import math

import numpy as np
import pytest

from actors.canary import Canary

PUBLISHED = (-1.0, -2.0, -3.0, -4.0)


def shifted(by: float) -> np.ndarray:
    return np.array(PUBLISHED) + by


@pytest.mark.parametrize(("by", "good"), [(9e-4, True), (1.1e-3, False), (math.nan, False), (math.inf, False)])
def test_float32_allows_a_thousandth_of_a_nat_at_each_token(by: float, good: bool) -> None:
    found = np.array(PUBLISHED)
    found[2] += by
    _, worst, problem = Canary("float32").judge(found, PUBLISHED)
    assert (problem == "") is good
    assert worst == pytest.approx(by, nan_ok=True)


def test_below_float32_the_first_comparison_sets_how_far_later_ones_may_go() -> None:
    close, far = Canary("bfloat16"), Canary("bfloat16")
    assert close.judge(shifted(0.01), PUBLISHED)[2] == ""
    assert close.judge(shifted(0.079), PUBLISHED)[2] == ""
    assert "limit 0.08" in close.judge(shifted(0.081), PUBLISHED)[2]
    assert far.judge(shifted(0.2), PUBLISHED)[2] == ""
    assert far.judge(shifted(0.29), PUBLISHED)[2] == ""
    assert "limit 0.3" in far.judge(shifted(0.31), PUBLISHED)[2]


def test_a_first_comparison_of_a_stale_layer_is_refused_and_does_not_calibrate() -> None:
    canary = Canary("bfloat16")
    assert "limit 0.3" in canary.judge(shifted(0.9), PUBLISHED)[2]
    assert canary.judge(shifted(0.05), PUBLISHED)[0] == pytest.approx(0.05)
    assert "limit 0.08" in canary.judge(shifted(0.2), PUBLISHED)[2]
