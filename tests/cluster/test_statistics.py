"""Accuracy from verdicts that may be wrong."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.statistics import prediction_powered, rogan_gladen

SURE = {"wrong": 1e9, "accepted_wrong": 1e8, "right": 1e9, "rejected_right": 2e8}


@given(st.floats(0, 1))
def test_with_known_rates_the_expected_share_gives_the_truth(truth):
    found = rogan_gladen(1000 * (truth * 0.8 + (1 - truth) * 0.1), 1000, **SURE)
    assert found.value == pytest.approx(truth, abs=1e-6)
    assert found.low <= found.value <= found.high
    assert found.label == "Rogan-Gladen"


def test_uncertain_rates_widen_the_interval():
    sure = rogan_gladen(380, 1000, **SURE)
    unsure = rogan_gladen(380, 1000, wrong=100, accepted_wrong=10, right=100, rejected_right=20)
    assert unsure.high - unsure.low > 1.5 * (sure.high - sure.low)


def test_nothing_is_said_where_nothing_can_be():
    with pytest.raises(ValueError, match="wanted some of each"):
        rogan_gladen(3, 10, wrong=0, accepted_wrong=0, right=5, rejected_right=1)
    with pytest.raises(ValueError, match="the verifier tells nothing"):
        rogan_gladen(3, 10, wrong=10, accepted_wrong=6, right=10, rejected_right=5)


def test_prediction_powered_is_its_equation_and_leaves_warnings_alone():
    rng = np.random.default_rng(0)
    truth, judged, rest = (rng.integers(0, 2, n).astype(float) for n in (200, 200, 3000))
    before = list(warnings.filters)
    found = prediction_powered(truth, judged, rest)
    assert warnings.filters == before
    value = rest.mean() + (truth - judged).mean()
    half = 1.959964 * np.sqrt(rest.var() / 3000 + (truth - judged).var() / 200)
    assert (found.value, found.low, found.high) == pytest.approx((value, value - half, value + half), abs=1e-6)
