from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rewarders.alarm import LEAST, LIMIT, Alarm
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
