from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rewarders.alarm import LEAST, LIMIT, Alarm, advice, is_for_another
from rewarders.backlog import DISPLACED
from swarm.types import Status, Verdict


def verdicts(good: int, *bad: tuple[Status, int]) -> list[Verdict]:
    without = [Verdict("slow", status, None, f"{status} again") for status, num in bad for _ in range(num)]
    return [Verdict("slow", Status.SCORED, 0.0)] * good + without


def told(alarm: Alarm, groups: Sequence[Sequence[Verdict]]) -> list[dict[str, Any]]:
    for group in groups:
        alarm.saw(group)
    return alarm.notices("slow")


def test_it_goes_off_once_and_again_after_it_was_well() -> None:
    alarm, bad = Alarm(), verdicts(4, (Status.TIMEOUT, 5), (Status.ABSTAINED, 1))
    [event] = told(alarm, [bad] * 40)
    assert json.loads(json.dumps(event)) == {
        "event": "unscored",
        "rewarder": "slow",
        "without": 30,
        "of": 50,
        "statuses": {"timeout": 25, "abstained": 5},
        "cause": "timeout again; raise rewarders.timeout_s, or make it faster",
    }
    assert told(alarm, [verdicts(10)] * 14 + [bad] * 40) == [], "36 of 200 are not surely fewer than a fifth"
    assert told(alarm, [verdicts(10)] * 20) == []
    assert len(told(alarm, [bad] * 40)) == 1


@pytest.mark.parametrize("status", [Status.ABSTAINED, Status.TIMEOUT, Status.ERROR])
def test_every_kind_of_verdict_without_a_value_counts(status) -> None:
    [event] = told(Alarm(), [verdicts(4, (status, 4))] * 10)
    assert event["statuses"] == {str(status): event["without"]}


@given(st.lists(st.booleans(), max_size=LEAST - 1))
def test_few_verdicts_say_nothing(good: list[bool]) -> None:
    assert told(Alarm(), [verdicts(g, *([] if g else [(Status.ERROR, 1)])) for g in good]) == []


@given(st.integers(0, int(LIMIT * 10)), st.permutations(range(10)))
def test_a_share_within_the_limit_is_no_alarm(bad: int, order: list[int]) -> None:
    group = [verdicts(1)[0] if i >= bad else verdicts(0, (Status.ERROR, 1))[0] for i in order]
    assert told(Alarm(), [group] * 40) == []


OTHER = [[Verdict("other", Status.SCORED, 1.0)] * 2]
SPENT = "j: 990 of budget_tokens = 1000 are used up"
"""As `rewarders.endpoint` says it, which its tests hold."""


@pytest.mark.parametrize(
    ("verdicts", "others", "is_so"),
    [
        (verdicts(0, (Status.ABSTAINED, 2)), OTHER, True),
        (verdicts(0, (Status.ABSTAINED, 2)), [], False),
        (verdicts(0, (Status.ABSTAINED, 2)), [verdicts(0, (Status.ABSTAINED, 2))], False),
        (verdicts(1, (Status.ABSTAINED, 1)), OTHER, False),
        (verdicts(0, (Status.ABSTAINED, 1), (Status.TIMEOUT, 1)), OTHER, False),
        (verdicts(2), OTHER, False),
        ([Verdict("judge", Status.ABSTAINED, None, f"appeal: {DISPLACED} (64 newer groups wait)")] * 2, OTHER, False),
        ([Verdict("judge", Status.ABSTAINED, None, SPENT)] * 2, OTHER, False),
    ],
)
def test_a_prompt_is_for_another_rewarder_where_that_one_alone_has_values(verdicts, others, is_so) -> None:
    assert is_for_another(verdicts, others) is is_so


@pytest.mark.parametrize(
    ("status", "cause", "said"),
    [
        (Status.ABSTAINED, "no letter", "give its prompts what it needs"),
        (Status.ABSTAINED, SPENT, "budget_tokens, or"),
        (Status.ABSTAINED, f"{DISPLACED} (64 newer groups wait)", "backlog"),
        (Status.TIMEOUT, "late", "rewarders.timeout_s"),
    ],
)
def test_the_advice_is_for_the_cause(status: Status, cause: str, said: str) -> None:
    verdict = Verdict("judge", status, None, cause)
    assert said in advice(verdict)
    [event] = told(Alarm(), [[verdict] * 4] * 20)
    assert event["cause"] == f"{cause}; {advice(verdict)}"
