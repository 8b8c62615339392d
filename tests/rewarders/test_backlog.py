"""The backlog of a judge: newest first, bounded, whole groups, and a failure stays a failure."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rewarders.backlog import DISPLACED, Backlog
from rewarders.verdicts import for_all, scored
from swarm.types import Group, Status, Verdict


class Gate:
    """A judge that answers when it is let; the order in which it was asked stays."""

    def __init__(self) -> None:
        self.asked: list[int] = []
        self._gates: dict[int, asyncio.Future[Any]] = {}

    async def judge(self, group: Group) -> Sequence[Verdict]:
        self.asked.append(group.ticket)
        gate = self._gates[group.ticket] = asyncio.get_running_loop().create_future()
        answer = await gate
        if isinstance(answer, Exception):
            raise answer
        return for_all(group, scored("gate", answer))

    def let(self, ticket: int, answer: float | Exception = 1.0) -> None:
        self._gates.pop(ticket).set_result(answer)


async def settled() -> None:
    """Everything that can happen without time passing has happened."""
    for _ in range(20):
        await asyncio.sleep(0)


def backlog(judge: Gate, **options: Any) -> Backlog:
    return Backlog("gate", judge.judge, **({"concurrent": 2, "groups": 3} | options))


@pytest.fixture
def group(make_group) -> Callable[[int], Group]:
    return lambda ticket: replace(make_group(["a", "b"]), ticket=ticket)


def test_the_newest_group_is_judged_first_and_the_oldest_of_too_many_is_displaced(group) -> None:
    async def go() -> None:
        judge = Gate()
        plane = backlog(judge)
        asked = {}
        for ticket in range(6):
            asked[ticket] = asyncio.create_task(plane.judge(group(ticket)))
            await settled()
            assert plane.waiting <= 3
        assert judge.asked == [0]
        assert plane.waiting == plane.largest == 3
        for ticket in (1, 2):
            for verdict in await asked[ticket]:
                assert verdict.status is Status.ABSTAINED
                assert verdict.cause == f"{DISPLACED} (3 newer groups wait)"
        for ticket in (0, 5, 4, 3):
            judge.let(ticket)
            await settled()
        assert judge.asked == [0, 5, 4, 3]
        assert [v.value for v in await asked[3]] == [1.0, 1.0]
        assert plane.waiting == 0

    asyncio.run(go())


def test_a_verdict_says_how_long_it_waited(group) -> None:
    async def go() -> None:
        judge = Gate()
        plane = backlog(judge)
        first, second = (asyncio.create_task(plane.judge(group(ticket))) for ticket in (0, 1))
        await settled()
        await asyncio.sleep(0.05)
        judge.let(0)
        await settled()
        judge.let(1)
        assert (await first)[0].waited_s < 0.05 <= (await second)[0].waited_s

    asyncio.run(go())


def test_held_out_questions_go_first_and_are_never_displaced(group) -> None:
    async def go() -> None:
        judge = Gate()
        plane = backlog(judge, groups=1, patience_s=0.05)
        waiting = [asyncio.create_task(plane.judge(group(ticket))) for ticket in (0, -1, -2, 1)]
        await settled()
        assert plane.waiting == 1
        await asyncio.sleep(0.1)
        for ticket in (0, -1, -2):
            judge.let(ticket)
            await settled()
        assert judge.asked == [0, -1, -2]  # group 1 has lost patience
        assert [(await asked)[0].status for asked in waiting] == ["abstained", "scored", "scored", "abstained"]

    asyncio.run(go())


def test_a_group_that_loses_patience_leaves_while_its_judgement_goes_on(group) -> None:
    async def go() -> None:
        judge = Gate()
        plane = backlog(judge, patience_s=0.01)
        [verdict, _] = await plane.judge(group(0))
        assert verdict.status is Status.ABSTAINED
        assert verdict.cause == f"{DISPLACED} (no verdict within 0.01 s)"
        assert verdict.waited_s >= 0.01
        late = asyncio.create_task(plane.judge(group(1)))
        await settled()
        assert judge.asked == [0]
        judge.let(0)
        await settled()
        assert judge.asked == [0, 1]
        plane.close()
        with pytest.raises(asyncio.CancelledError):
            await late

    asyncio.run(go())


def test_what_the_judge_raises_reaches_who_asked_and_makes_room(group) -> None:
    async def go() -> None:
        judge = Gate()
        plane = backlog(judge)
        first, second = (asyncio.create_task(plane.judge(group(ticket))) for ticket in (0, 1))
        await settled()
        judge.let(0, ConnectionError("gone"))
        with pytest.raises(ConnectionError, match="gone"):
            await first
        await settled()
        judge.let(1, 0.0)
        assert [v.value for v in await second] == [0.0, 0.0]

    asyncio.run(go())


def test_a_group_that_nobody_waits_for_is_not_judged(group) -> None:
    async def go() -> None:
        judge = Gate()
        plane = backlog(judge)
        tasks = [asyncio.create_task(plane.judge(group(ticket))) for ticket in (0, 1)]
        await settled()
        tasks[1].cancel()
        await settled()
        assert plane.waiting == 0
        judge.let(0)
        await settled()
        assert judge.asked == [0]

    asyncio.run(go())


@given(
    events=st.lists(st.one_of(st.just("come"), st.integers(0, 5)), max_size=40),
    concurrent=st.integers(1, 6),
    groups=st.integers(1, 4),
)
def test_every_group_gets_one_answer_and_the_bounds_hold(make_group, events, concurrent, groups) -> None:
    """Groups come, and the judge answers any of those that it has, in any order."""

    async def go() -> None:
        judge = Gate()
        plane = backlog(judge, concurrent=concurrent, groups=groups)
        asked: list[asyncio.Task[Sequence[Verdict]]] = []
        for event in [*events, *[0] * (len(events) + 1)]:
            if event == "come":
                asked.append(asyncio.create_task(plane.judge(replace(make_group(["a", "b"]), ticket=len(asked)))))
            elif judge._gates:
                judge.let(sorted(judge._gates)[event % len(judge._gates)])
            await settled()
            assert plane.waiting <= groups
            assert 2 * len(judge._gates) < concurrent + 2
            assert not plane.waiting or 2 * len(judge._gates) >= concurrent
        found = [await answer for answer in asked]
        assert all(len(verdicts) == 2 for verdicts in found)
        judged = [i for i, verdicts in enumerate(found) if verdicts[0].status is Status.SCORED]
        assert judged == sorted(judge.asked)
        assert len(set(judge.asked)) == len(judge.asked)

    asyncio.run(go())


@pytest.mark.parametrize("options", [{"concurrent": 0}, {"groups": 0}, {"patience_s": -1.0}])
def test_bad_bounds_are_refused(options) -> None:
    with pytest.raises(ValueError, match="backlog"):
        backlog(Gate(), **options)
