"""Errors on purpose: at the stated rates, the same ones again, and written down."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from rewarders.noisy import Noisy
from swarm.types import Group, Status
from tests.rewarders.scripted import Says, judged

RATES = st.sampled_from([0.0, 0.1, 0.4, 0.9, 1.0])


def groups(make_group, num: int, size: int, family: str = "gcd") -> list[Group]:
    texts = [f"{'right' if i % 2 else 'wrong'} {i}" for i in range(size)]
    return [replace(make_group(texts, task={"family": family}), id=f"{i}.0") for i in range(num)]


def truth(size: int) -> Says:
    return Says({f"{'right' if i % 2 else 'wrong'} {i}": float(i % 2) for i in range(size)})


def flips(made: Noisy, given: list[Group]) -> dict[float, list[bool]]:
    """By clean value, whether each verdict was turned round."""
    out: dict[float, list[bool]] = {0.0: [], 1.0: []}
    for group in given:
        for verdict in judged(made, group):
            assert verdict.parts["flipped"] == (verdict.value != verdict.parts["clean"])
            out[verdict.parts["clean"]].append(verdict.value != verdict.parts["clean"])
    return out


def fits(found: list[bool], rate: float) -> bool:
    """Within bounds that a true rate leaves once in a million."""
    return bool(stats.binom.ppf(5e-7, len(found), rate) <= sum(found) <= stats.binom.ppf(1 - 5e-7, len(found), rate))


@settings(max_examples=25, deadline=None)
@given(RATES, RATES, st.integers(0, 2**31))
def test_single_verdicts_are_turned_round_at_their_rates(make_group, accept, reject, seed) -> None:
    made = Noisy(of=truth(20), false_accept=accept, false_reject=reject, seed=seed)
    found = flips(made, groups(make_group, 40, 20))
    assert fits(found[0.0], accept)
    assert fits(found[1.0], reject)


def test_a_group_is_turned_round_as_a_whole(make_group) -> None:
    made = Noisy(of=truth(6), kind="group", false_accept=0.4, false_reject=0.4)
    coins = []
    for group in groups(make_group, 500, 6):
        found = {v.parts["flipped"] for v in judged(made, group)}
        assert len(found) == 1
        coins.append(found.pop() == 1.0)
    assert fits(coins, 0.4)


def test_strata_have_rates_of_their_own(make_group) -> None:
    rates = {"gcd": [0.4, 0.1], "lcm": [0.0, 0.5]}
    made = Noisy(of=truth(10), kind="stratum", rates=rates, false_accept=0.9, false_reject=0.9)
    for family, (accept, reject) in {**rates, "other": [0.9, 0.9]}.items():
        found = flips(made, groups(make_group, 60, 10, family))
        assert fits(found[0.0], accept)
        assert fits(found[1.0], reject)
    by_text = Noisy(of=truth(10), kind="stratum", by="text", rates={"^wrong [0-4]": [1.0, 0.0], "wrong": [0.0, 0.0]})
    values = [v.value for v in judged(by_text, groups(make_group, 1, 10)[0])]
    assert values == [1.0 if i % 2 or i <= 4 else 0.0 for i in range(10)]


def test_a_pattern_is_always_accepted_and_the_rest_is_as_it_was(make_group) -> None:
    made = Noisy(of=truth(10), kind="systematic", pattern="^wrong [02]$")
    for group in groups(make_group, 5, 10):
        assert [v.value for v in judged(made, group)] == [1.0 if i % 2 or i in (0, 2) else 0.0 for i in range(10)]


@settings(max_examples=10, deadline=None)
@given(st.sampled_from(["iid", "group"]), st.integers(0, 99), RATES)
def test_the_same_group_gets_the_same_errors_again_and_another_seed_others(make_group, kind, seed, rate) -> None:
    several = groups(make_group, 120, 4)

    def values(seed: int) -> list[list[float | None]]:
        made = Noisy(of=truth(4), kind=kind, false_accept=rate, false_reject=rate, seed=seed)
        return [[verdict.value for verdict in judged(made, group)] for group in several]

    assert values(seed) == values(seed)
    assert (values(seed) == values(seed + 1)) == (rate in (0.0, 1.0))


def test_what_has_no_value_passes_and_what_is_neither_0_nor_1_is_refused(make_group) -> None:
    made = Noisy(of=Says({"a": Status.TIMEOUT, "b": 0.3, "c": 1.0}), false_reject=1.0)
    lost, partial, turned = judged(made, make_group(["a", "b", "c"]))
    assert (lost.status, partial.status, turned.value) == (Status.TIMEOUT, Status.ERROR, 0.0)
    assert "only 0 and 1 can be turned round" in partial.cause


def test_nested_noise_keeps_the_cleanest_value(make_group) -> None:
    made = Noisy(of=Noisy(of=Says({"a": 1.0}), false_reject=1.0), false_accept=1.0)
    [verdict] = judged(made, make_group(["a"]))
    assert (verdict.value, verdict.parts["clean"], verdict.parts["flipped"]) == (1.0, 1.0, 0.0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"false_accept": 1.5}, "false_accept = "),
        ({"kind": "some"}, "kind = 'some'"),
        ({"kind": "stratum"}, "`rates` go with stratum"),
        ({"rates": {"a": [0.1, 0.2]}}, "`rates` go with stratum"),
        ({"kind": "stratum", "rates": {"a": [0.1, 2.0]}}, "rates.a = "),
        ({"kind": "systematic"}, "`pattern` goes with systematic"),
        ({"kind": "systematic", "pattern": "("}, "not a regular expression"),
        ({"kind": "stratum", "by": "text", "rates": {"(": [0.1, 0.2]}}, "not a regular expression"),
    ],
)
def test_options_that_mean_nothing_are_refused(options, message) -> None:
    with pytest.raises(ValueError, match=message):
        Noisy(of=Says({}), **options)


def test_verdicts_are_withheld_at_their_rate_the_same_ones_again_whatever_their_value(make_group) -> None:
    made = Noisy(of=truth(20), abstention=0.3, false_accept=0.2)
    given = groups(make_group, 60, 20)
    first = [judged(made, group) for group in given]
    assert first == [judged(made, group) for group in given]
    for right in (0, 1):
        silent = [v.status is Status.ABSTAINED for verdicts in first for v in verdicts[right::2]]
        assert fits(silent, 0.3)
    assert {v.cause for verdicts in first for v in verdicts if v.value is None} == {"withheld on purpose"}
    assert fits([v.value == 1.0 for verdicts in first for v in verdicts[::2] if v.value is not None], 0.2)


def test_it_takes_its_time(make_group, monkeypatch) -> None:
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    monkeypatch.setattr("rewarders.noisy.asyncio.sleep", sleep)
    judged(Noisy(of=truth(2), latency_s=1.5), groups(make_group, 1, 2)[0])
    assert slept == [1.5]
    with pytest.raises(ValueError, match="latency_s = -1"):
        Noisy(of=truth(2), latency_s=-1)
    with pytest.raises(ValueError, match="abstention = "):
        Noisy(of=truth(2), abstention=1.5)
