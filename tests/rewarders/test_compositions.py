"""Gates, vectors, routes, cascades and hybrids: what they make of their rewarders' verdicts, and never of a failure."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rewarders.cascade import Cascade
from rewarders.draws import uniform
from rewarders.exact import Exact
from rewarders.gate import Gate
from rewarders.hybrid import Hybrid
from rewarders.nested import processes
from rewarders.route import Route, key_of
from rewarders.weighted import Weighted
from swarm.types import Status
from tests.rewarders.scripted import Says, judged

FAILED = [Status.ABSTAINED, Status.TIMEOUT, Status.ERROR]
ANSWERS = st.one_of(st.sampled_from(FAILED), st.sampled_from([0.0, 0.25, 0.5, 1.0]))
PAIRS = st.lists(st.tuples(ANSWERS, ANSWERS), min_size=1, max_size=6)


def two(pairs: list[tuple[Any, Any]]) -> tuple[Says, Says, list[str]]:
    texts = [str(i) for i in range(len(pairs))]
    first, second = zip(*pairs, strict=True)
    return Says(dict(zip(texts, first, strict=True)), "a"), Says(dict(zip(texts, second, strict=True)), "b"), texts


def worst(*answers: Any) -> Status | None:
    return next((s for s in (Status.ERROR, Status.TIMEOUT, Status.ABSTAINED) if s in answers), None)


@given(PAIRS)
def test_a_gate_is_zero_only_where_its_condition_says_so(make_group, pairs) -> None:
    when, then, texts = two(pairs)
    verdicts = judged(Gate(when=when, then=then, at_least=0.5), make_group(texts))
    passed = [i for i, (w, _) in enumerate(pairs) if isinstance(w, float) and not isinstance(w, Status) and w >= 0.5]
    assert then.asked == ([[texts[i] for i in passed]] if passed else [])
    silent = bool(passed) and all(pairs[i][1] is Status.ABSTAINED for i in passed)
    for i, (verdict, (w, t)) in enumerate(zip(verdicts, pairs, strict=True)):
        if w in FAILED:
            assert (verdict.status, verdict.value) == (w, None)
        elif i not in passed:
            assert verdict.status is (Status.ABSTAINED if silent else Status.SCORED)
            assert verdict.value == (None if silent else 0.0)
        elif t in FAILED:
            assert (verdict.status, verdict.value) == (t, None)
            assert "b would not" in verdict.cause
        else:
            assert verdict.value == t
            assert verdict.parts == {"when": w, "when.detail": w / 2, "then": t, "then.detail": t / 2}


@given(PAIRS, st.booleans(), st.sampled_from([0.3, 1.0]), st.integers(0, 3))
def test_a_cascade_appeals_the_same_share_of_rejections_again_and_hides_no_failure(
    make_group, pairs, replaces, share, seed
) -> None:
    rule, appeal, texts = two(pairs)
    group = make_group(texts)
    made = Cascade(rule=rule, appeal=appeal, share=share, replaces=replaces, seed=seed)
    verdicts = judged(made, group)
    drawn = [i for i, t in enumerate(texts) if uniform(seed, group.prompt.id, t) < share]
    asked = [i for i in drawn if pairs[i][0] not in FAILED and pairs[i][0] < 1]
    assert appeal.asked == ([[texts[i] for i in asked]] if asked else [])
    for i, (verdict, (r, a)) in enumerate(zip(verdicts, pairs, strict=True)):
        if r in FAILED:
            assert (verdict.status, verdict.value) == (r, None)
            continue
        assert verdict.parts["rule"] == r
        assert verdict.parts.get("appeal") == (a if i in asked and a not in FAILED else None)
        if i in asked and replaces and a in FAILED:
            assert (verdict.status, verdict.value) == (a, None)
        else:
            assert verdict.value == (a if i in asked and replaces else r)
            assert verdict.parts["appeal_prob"] == share
            assert verdict.parts["appeal_decides"] == replaces
    assert judged(made, group) == verdicts


def test_the_draws_of_a_cascade_are_its_share() -> None:
    num = 20_000
    drawn = sum(uniform(0, "prompt", i) < 0.1 for i in range(num))
    assert abs(drawn - 0.1 * num) < 5 * (0.09 * num) ** 0.5
    assert uniform(0, "a", "bc") != uniform(0, "ab", "c")


@given(PAIRS, st.sampled_from([0.2, 0.5, 1.0]))
def test_a_hybrid_is_between_its_two_and_nearer_to_a_sure_judge(make_group, pairs, weight) -> None:
    rule, soft, texts = two(pairs)
    silent = all(s is Status.ABSTAINED for _, s in pairs)
    for verdict, (r, s) in zip(
        judged(Hybrid(rule=rule, soft=soft, weight=weight), make_group(texts)), pairs, strict=True
    ):
        if silent and r not in FAILED:
            assert (verdict.value, verdict.parts["share"]) == (r, 0.0)
            assert "soft: abstained: b would not" in verdict.cause
            continue
        if bad := worst(r) if silent else worst(r, s):
            assert (verdict.status, verdict.value) == (bad, None)
            continue
        w = weight * abs(2 * s - 1)
        assert verdict.value == pytest.approx((1 - w) * r + w * s)
        assert min(r, s) <= verdict.value <= max(r, s)
        assert verdict.parts["share"] == w


def test_a_hybrid_needs_shares(make_group) -> None:
    [verdict] = judged(Hybrid(rule=Says({"x": 1.0}), soft=Says({"x": -3.5})), make_group(["x"]))
    assert verdict.status is Status.ERROR
    assert "soft answered -3.5" in verdict.cause


@given(PAIRS)
def test_a_weighted_sum_has_the_rules_of_the_recipes_own(make_group, pairs) -> None:
    first, second, texts = two(pairs)
    verdicts = judged(Weighted(of=[first, second], weights=[1.0, 0.5]), make_group(texts))
    idle = [all(side is Status.ABSTAINED for side in column) for column in zip(*pairs, strict=True)]
    for verdict, pair in zip(verdicts, pairs, strict=True):
        applying = [(w, v) for w, v, out in zip((1.0, 0.5), pair, idle, strict=True) if not out]
        if not applying or worst(*(v for _, v in applying)):
            assert (verdict.status, verdict.value) == (worst(*pair), None)
        else:
            assert verdict.value == pytest.approx(sum(w * v for w, v in applying))


@given(PAIRS)
def test_without_weights_a_vector_stays_one(make_group, pairs) -> None:
    first, second, texts = two(pairs)
    for verdict, (a, b) in zip(judged(Weighted(of=[first, second]), make_group(texts)), pairs, strict=True):
        assert verdict.value == (None if a in FAILED else a)
        if a not in FAILED:
            assert {k: v for k, v in verdict.parts.items() if k in "ab"} == {"a": a} | ({} if b in FAILED else {"b": b})


def test_equal_rewarders_of_a_vector_have_parts_of_their_own(make_group) -> None:
    [verdict] = judged(Weighted(of=[Says({"x": 0.25}), Says({"x": 0.75})], weights=[2.0, 1.0]), make_group(["x"]))
    assert verdict.value == 1.25
    assert (verdict.parts["says"], verdict.parts["says-2"]) == (0.25, 0.75)


def test_a_route_goes_by_source_family_or_reference(make_group) -> None:
    group = make_group(["7"], "7", task={"family": "gcd"})
    one, other = Says({"7": 1.0}, "one"), Says({"7": 0.5}, "other")
    for by, key in (("source", "test"), ("family", "gcd"), ("reference", "number")):
        assert judged(Route(by=by, to={key: one}, otherwise=other), group)[0].value == 1.0
        if by != "reference":
            assert judged(Route(by=by, to={"else": one}, otherwise=other), group)[0].value == 0.5
            [lost] = judged(Route(by=by, to={"else": one}), group)
            assert lost.status is Status.ABSTAINED
            assert f"no rewarder for {by} {key!r}" in lost.cause


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        ("7", "number"),
        ("-1,000.5", "number"),
        ("B", "choice"),
        ("two", "text"),
        ("1/2", "text"),
        (None, "none"),
        (" ", "none"),
    ],
)
def test_kinds_of_reference(make_group, answer, kind) -> None:
    assert key_of(make_group(["x"], answer).prompt, "reference") == kind


@pytest.mark.parametrize(("does", "status"), [("hang", Status.TIMEOUT), (OSError("disk"), Status.ERROR)])
def test_what_an_inner_rewarder_does_instead_of_answering_is_its_failure(make_group, does, status) -> None:
    group, bad, good = make_group(["x"]), Says({"x": does}), Says({"x": 1.0})
    for made in (
        Gate(when=good, then=bad, timeout_s=0.05),
        Gate(when=bad, then=good, timeout_s=0.05),
        Cascade(rule=bad, appeal=good, timeout_s=0.05),
        Hybrid(rule=good, soft=bad, timeout_s=0.05),
        Weighted(of=[good, bad], weights=[1.0, 1.0], timeout_s=0.05),
        Route(to={"test": bad}, timeout_s=0.05),
    ):
        [verdict] = judged(made, group)
        assert (verdict.status, verdict.value) == (status, None), made.name


def test_compositions_nest_and_close_all_that_is_inside(make_group) -> None:
    deepest = Says({"4": 1.0, "5": 0.0})
    made = Route(to={"test": Weighted(of=[Gate(when=Exact(), then=deepest), Exact()], weights=[1.0, 1.0])})
    four, five = judged(made, make_group(["4", "5"], "4"))
    assert (four.value, five.value) == (2.0, 0.0)
    assert four.parts["gate.then"] == 1.0
    assert deepest.asked == [["4"]]
    made.close()
    assert deepest.closed == 1


def test_the_parts_and_times_of_inner_verdicts_are_kept(make_group) -> None:
    [verdict] = judged(Hybrid(rule=Says({"x": 1.0}, "r"), soft=Says({"x": 0.5}, "s")), make_group(["x"]))
    assert verdict.seconds == 1.0
    assert verdict.parts == {"rule": 1.0, "rule.detail": 0.5, "soft": 0.5, "soft.detail": 0.25, "share": 0.0}
    assert replace(verdict, parts={}).rewarder == "hybrid"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda r: Cascade(rule=r, appeal=r, share=0.0), "share = 0"),
        (lambda r: Hybrid(rule=r, soft=r, weight=1.5), "weight = 1.5"),
        (lambda r: Weighted(of=[]), "at least one"),
        (lambda r: Weighted(of=[r], weights=[1.0, 2.0]), "wanted 1, one per rewarder"),
        (lambda r: Route(by="reference", to={"numbr": r}), 'did you mean "number"'),
    ],
)
def test_options_that_mean_nothing_are_refused(make, message) -> None:
    with pytest.raises(ValueError, match=message):
        make(Says({}))


def test_child_processes_are_found_at_any_depth() -> None:
    class WithChild(Says):
        child = object()

    made = Gate(when=Exact(), then=Weighted(of=[WithChild({}), Route(to={"a": WithChild({})})]))
    assert list(processes(made)) == [WithChild.child] * 2
