"""Between what values verdicts lie, told from a recipe; and that recipes in which silence pays are refused."""

from __future__ import annotations

import asyncio
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.registries import problems_of
from rewarders.bounds import bounds, total
from rewarders.registry import REWARDERS, build
from swarm.config import Spec
from tests.rewarders.conftest import _group

TRUTH = {"name": "truth", "rule": "exact"}
MODEL = {"name": "reward_model", "path": "somewhere"}


@pytest.mark.parametrize(
    ("table", "wanted"),
    [
        ("exact", (0, 1)),
        (TRUTH, (-1, 1)),
        ({"name": "lsc", "of": MODEL, "column": "answer"}, (-math.inf, 0)),
        (MODEL, (-math.inf, math.inf)),
        (MODEL | {"probability": True}, (0, 1)),
        ({"name": "par", "of": MODEL, "column": "answer"}, (0, 1)),
        ({"name": "weighted", "of": ["exact", TRUTH], "weights": [1.0, 0.5]}, (-0.5, 1.5)),
        ({"name": "weighted", "of": ["exact", "bleu"], "weights": [1.0, -0.5]}, (-0.5, 1)),
        ({"name": "weighted", "of": ["exact", MODEL]}, (0, 1)),
        ({"name": "route", "to": {"a": "exact"}, "otherwise": TRUTH}, (-1, 1)),
        ({"name": "cascade", "rule": "exact", "appeal": TRUTH}, (0, 1)),
        ({"name": "cascade", "rule": "exact", "appeal": TRUTH, "replaces": True}, (-1, 1)),
        ({"name": "ensemble", "of": ["exact", "numeric"], "how": "uncertain", "penalty": 2.0}, (-0.5, 1)),
        ({"name": "ensemble", "of": ["exact", TRUTH]}, (-1, 1)),
        ({"name": "gate", "when": "exact", "then": {"name": "lsc", "of": MODEL}}, (-math.inf, 0)),
        ({"name": "gate", "when": "exact"}, (0, 1)),  # not well-formed: told elsewhere
    ],
)
def test_bounds_are_told_from_the_recipe(table, wanted) -> None:
    assert bounds(Spec.model_validate(table)) == wanted


def test_a_sum_may_leave_any_of_its_rewarders_out() -> None:
    assert total([(Spec.model_validate(TRUTH), 0.5), (Spec(name="exact"), 2.0)]) == (-0.5, 2.5)


HOWS = ("mean", "median", "min", "uncertain")
LEAVES = st.sampled_from(["exact", "numeric", {"name": "length", "most": 2}, TRUTH])
TABLES = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.builds(lambda a, b: {"name": "gate", "when": a, "then": b}, inner, inner),
        st.builds(lambda a: {"name": "guard", "of": a}, inner),
        st.builds(
            lambda a, b, w: {"name": "weighted", "of": [a, b], "weights": [1.0, w]}, inner, inner, st.floats(-2, 2)
        ),
        st.builds(lambda a, b, h: {"name": "ensemble", "of": [a, b], "how": h}, inner, inner, st.sampled_from(HOWS)),
        st.builds(lambda a, b: {"name": "route", "to": {"x": a}, "otherwise": b}, inner, inner),
        st.builds(
            lambda a, b: {"name": "cascade", "rule": a, "appeal": b, "replaces": True, "share": 1.0}, inner, inner
        ),
    ),
    max_leaves=6,
)


@given(TABLES)
def test_no_verdict_is_outside_its_bounds(table) -> None:
    spec = Spec.model_validate(table)
    low, high = bounds(spec)
    [rewarder] = build([spec], 60.0)
    verdicts = asyncio.run(rewarder.judge(_group(["4", "5", "", "4 or 5", "I don't know"], "4")))
    rewarder.close()
    assert all(low - 1e-9 <= v.value <= high + 1e-9 for v in verdicts if v.value is not None)


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ({"name": "gate", "when": "exact", "then": TRUTH}, "then: truth gives -1 to 1"),
        ({"name": "gate", "when": "exact", "then": {"name": "guard", "of": TRUTH}}, "of: truth gives -1 to 1"),
        ({"name": "guard", "of": {"name": "lsc", "of": "bleu", "column": "x"}}, "of: lsc gives -inf to 0"),
    ],
)
def test_a_recipe_in_which_saying_nothing_beats_being_wrong_is_refused(table, said) -> None:
    problems = problems_of("rewarders.use.0", Spec.model_validate(table), REWARDERS)
    assert any(said in problem and "would be paid above its worst" in problem for problem in problems), problems


def test_the_mend_is_taken() -> None:
    inside = {"name": "gate", "when": {"name": "pattern", "pattern": ".*"}, "then": "exact"}
    assert problems_of("rewarders.use.0", Spec.model_validate({"name": "truth", "rule": inside}), REWARDERS) == []
