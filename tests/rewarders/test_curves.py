"""Merging and shaping scores: bounds, monotonicity, and slow transcriptions of the formulas."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from rewarders.curves import error_correlations, lsc, merged, par, surely_above

SCORES = st.floats(-20, 20)
TABLES = st.integers(1, 6).flatmap(lambda n: st.lists(st.lists(SCORES, min_size=n, max_size=n), min_size=1, max_size=5))


@given(TABLES, st.floats(0, 3))
def test_conservative_merging_is_never_above_the_mean_and_within_its_members(table, penalty) -> None:
    mean, median, least, careful = (merged(table, how, penalty) for how in ("mean", "median", "min", "uncertain"))
    low, high = np.min(table, axis=0), np.max(table, axis=0)
    for values in (mean, median):
        assert (low - 1e-9 <= values).all()
        assert (values <= high + 1e-9).all()
    assert (least == low).all()
    assert (careful <= mean + 1e-9).all()
    for column, value in zip(zip(*table, strict=True), careful, strict=True):
        middle = sum(column) / len(column)
        variance = sum((x - middle) ** 2 for x in column) / len(column)
        assert value == pytest.approx(middle - penalty * variance, abs=1e-6)


@given(TABLES, st.randoms())
def test_merging_does_not_depend_on_the_order_of_members(table, random) -> None:
    other = list(table)
    random.shuffle(other)
    for how in ("mean", "median", "min", "uncertain"):
        assert merged(other, how) == pytest.approx(merged(table, how))


@given(st.lists(SCORES, min_size=2, max_size=8), st.lists(SCORES, min_size=1, max_size=10), st.floats(0.1, 3))
def test_shapes_are_monotone_bounded_and_blind_to_an_added_constant(scores, references, slope) -> None:
    ordered = sorted(scores)
    for shaped, moved in (
        (par(ordered, references, slope), par(np.add(ordered, 5), np.add(references, 5), slope)),
        (lsc(ordered, references), lsc(np.add(ordered, 5), np.add(references, 5))),
    ):
        assert (np.diff(shaped) >= 0).all()
        assert shaped == pytest.approx(moved, abs=1e-6)
    assert ((par(scores, references, slope) >= 0) & (par(scores, references, slope) <= 1)).all()
    assert (lsc(scores, references) <= 0).all()


@given(SCORES, st.lists(SCORES, min_size=1, max_size=10), st.floats(0.1, 3), st.floats(0.01, 0.99))
def test_shapes_are_their_formulas(score, references, slope, quantile) -> None:
    slow = sum(1 / (1 + math.exp(-slope * (score - r))) for r in references) / len(references)
    assert par([score], references, slope)[0] == pytest.approx(slow)
    mean = sum(references) / len(references)
    deviation = math.sqrt(sum((r - mean) ** 2 for r in references) / len(references))
    point = mean + deviation * stats.norm.ppf(quantile)
    assert lsc([score], references, quantile)[0] == pytest.approx(-math.log1p(math.exp(point - score)))


def test_par_is_half_at_its_reference_and_saturates() -> None:
    slopes = [(par([x + 1e-4], [0.0])[0] - par([x - 1e-4], [0.0])[0]) / 2e-4 for x in (0.0, 4.0, 8.0)]
    assert par([0.0], [0.0])[0] == 0.5
    assert slopes == pytest.approx([0.25, 0.01766, 0.000335], rel=1e-3)


def test_lsc_asks_for_both_where_a_sum_cannot_tell() -> None:
    both, one = [sum(lsc([s], [0.0])[0] for s in pair) for pair in ((2.0, 2.0), (6.0, -2.0))]
    assert (both, one) == pytest.approx((-0.2539, -2.1294), abs=1e-3)


def test_errors_that_are_shared_correlate_and_others_do_not() -> None:
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 2, 4000).astype(float)
    own, shared = rng.normal(size=(3, 4000)), rng.normal(size=4000)
    apart = error_correlations(truth + own, truth)
    together = error_correlations(
        [2 * truth + own[0] + 2 * shared, 5 - truth - own[1] - 2 * shared, truth + own[2]], truth
    )
    assert np.abs(apart - np.eye(3)).max() < 0.06
    assert together[0, 1] == pytest.approx(-0.8, abs=0.05)
    assert abs(together[0, 2]) < 0.06
    assert (
        error_correlations([truth, truth, own[0]], truth) == error_correlations([truth, truth, own[0]], truth).T
    ).all()
    assert error_correlations([3 * truth, own[0]], truth)[0, 1] == 0.0  # one that is never wrong


@given(st.floats(-0.99, 0.99), st.integers(4, 500))
def test_what_is_sure_of_a_correlation_grows_with_the_number(correlation, num) -> None:
    assert -1 <= surely_above(correlation, num) < correlation
    assert surely_above(correlation, num) <= surely_above(correlation, num + 100)
    assert surely_above(0.99, 3) == -1.0
