"""The understudy of a judge: it answers only when the judge is down and it has proved itself, and says so."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from rewarders.stand_in import CAUSE, STAND_IN, StandIn, features
from rewarders.verdicts import for_all, scored, unscored
from swarm.types import Group, Status, Verdict


class Judge:
    """Accepts what ends with the reference; `down` is what it does instead."""

    def __init__(self) -> None:
        self.down: Exception | Status | None = None

    async def judge(self, group: Group) -> Sequence[Verdict]:
        if isinstance(self.down, Exception):
            raise self.down
        if self.down:
            return for_all(group, unscored("judge", self.down, "down"))
        return [scored("judge", self.value(group, r.text)) for r in group.rollouts]

    def value(self, group: Group, text: str) -> float:
        return 0.9 if text.endswith(f" {group.prompt.answer}") else 0.2


class Coin(Judge):
    """Decides by what nobody can see in the text."""

    def value(self, group: Group, text: str) -> float:
        return float(hash((text, 7)) % 2)


def stand_in(judge: Judge, **options: Any) -> StandIn:
    return StandIn("judge", judge.judge, **({"agreement": 0.85} | options))


def teach(pupil: StandIn, make_group, groups: int, start: int = 0) -> None:
    for i in range(start, start + groups):
        answer = 17 * i % 1000
        texts = [f"I think it is {answer}", f"so we get {answer + 1}", f"number {i} is {answer}", f"it is {answer - 3}"]
        asyncio.run(_judge(pupil, make_group(texts, str(answer))))


async def _judge(pupil: StandIn, group: Group) -> Sequence[Verdict]:
    return await pupil.judge(group)


UNSEEN = ("then the result is 5", "then the result is 6")


def test_a_judge_that_answers_is_passed_on_unchanged(make_group) -> None:
    group = make_group(["is 5", "is 6"], "5")
    verdicts = asyncio.run(stand_in(Judge()).judge(group))
    assert [(v.value, dict(v.parts), v.cause) for v in verdicts] == [(0.9, {}, ""), (0.2, {}, "")]


@pytest.mark.parametrize("down", [ConnectionError("gone"), Status.ERROR, Status.TIMEOUT])
def test_it_stands_in_once_it_agrees_on_unseen_answers_and_marks_what_it_says(make_group, down) -> None:
    judge = Judge()
    pupil = stand_in(judge)
    teach(pupil, make_group, 100)
    assert pupil.agreement > 0.85
    judge.down = down
    verdicts = asyncio.run(pupil.judge(make_group(UNSEEN, "5")))
    assert [v.value for v in verdicts] == [1.0, 0.0]
    for verdict in verdicts:
        assert verdict.parts[STAND_IN] == 1.0
        assert verdict.parts["agreement"] > 0.85
        assert verdict.version == "stand_in@100"
        assert verdict.cause.startswith(CAUSE)


def test_before_it_has_proved_itself_a_failure_stays_a_failure(make_group) -> None:
    judge = Judge()
    pupil = stand_in(judge)
    teach(pupil, make_group, 3)
    judge.down = ConnectionError("gone")
    with pytest.raises(ConnectionError, match="gone"):
        asyncio.run(pupil.judge(make_group(UNSEEN, "5")))
    judge.down = Status.ERROR
    assert [v.status for v in asyncio.run(pupil.judge(make_group(UNSEEN, "5")))] == [Status.ERROR] * 2


def test_a_judge_that_cannot_be_learned_is_never_stood_in_for(make_group) -> None:
    judge = Coin()
    pupil = stand_in(judge)
    teach(pupil, make_group, 100)
    assert pupil.agreement < 0.7
    judge.down = ConnectionError("gone")
    with pytest.raises(ConnectionError):
        asyncio.run(pupil.judge(make_group(UNSEEN, "5")))


def test_answers_that_were_seen_prove_nothing(make_group) -> None:
    pupil = stand_in(Judge())
    for _ in range(50):
        teach(pupil, make_group, 4)
    assert pupil.agreement < 0.85


def test_a_judge_that_always_rejects_proves_nothing(make_group) -> None:
    class Never(Judge):
        def value(self, group: Group, text: str) -> float:
            return 0.0

    pupil = stand_in(Never())
    teach(pupil, make_group, 60)
    assert pupil.agreement == 0.0


def test_one_verdict_of_the_judge_keeps_it_silent(make_group) -> None:
    class Half(Judge):
        async def judge(self, group: Group) -> Sequence[Verdict]:
            first, *rest = await super().judge(group)
            return [first, *(replace(v, status=Status.ERROR) if self.down else v for v in rest)]

    judge = Half()
    pupil = stand_in(judge)
    teach(pupil, make_group, 100)
    judge.down = Status.ABSTAINED
    verdicts = asyncio.run(pupil.judge(make_group(UNSEEN, "5")))
    assert not any(STAND_IN in v.parts for v in verdicts)


@pytest.mark.parametrize("agreement", [0.0, 0.5, 1.0])
def test_a_bound_that_says_nothing_or_too_much_is_refused(agreement) -> None:
    with pytest.raises(ValueError, match="stand_in"):
        stand_in(Judge(), agreement=agreement)


@pytest.mark.parametrize("pair", [("", ""), ("5", ""), ("\ud800", "\0" * 10), ("1e999", "9" * 5000), ("٣", "٣ 1.5.6")])
def test_features_of_any_text(pair) -> None:
    assert list(features(pair))
