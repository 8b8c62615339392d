"""Between reward worker and judge: a bounded backlog in which the newest group is judged first.

    judge(group) --> waiting (newest on top, at most `groups`) --> under judgement (`concurrent` rollouts) --> verdicts
                        |  the oldest, when one too many waits          |  after `patience_s` the group leaves,
                        v                                               v  the judgement goes on
                     abstained: displaced                            abstained: displaced

ONI's queue (arXiv 2410.23022, and the authors' code): actors never wait for the judge, newest first, so that under
overload the labels that come are fresh; in order, all of them would be late. Differs: what is not judged is an
abstention with its cause, where ONI gives a fallback label, and whole groups wait, since a group of which some members
are judged cannot be centred. Held-out questions are judged before all others and never displaced.

Inside a composition the judge's part alone waits and is displaced. Without it the composition goes on where its rules
say how:

    weighted        with weights: the sum of the others; without: the first one's value, where that is another
    cascade         the rule's value; with `replaces` no value for those that were drawn
    hybrid          the rule's value
    guard, gate     abstain on the whole group, and so are left out beside other rewarders
    route           abstains where the judge was the prompt's
    ensemble, par, lsc, noisy    no value: fewer members, or none, would be another scale

Waiting holds a ticket of the pool. The latency of a judge that keeps up is hidden where

    (max_lag + 1) * groups_per_step tickets >= groups per second * (seconds to generate + judge + wait for the step)

and otherwise it slows the run down, unless `patience_s` bounds it.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace

from rewarders.stand_in import Ask, StandIn
from rewarders.verdicts import for_all, unscored
from swarm.config import JudgeSection
from swarm.types import Group, Status, Verdict

DISPLACED = "displaced: the judge is behind"
"""How the cause of such an abstention begins."""


def plane(name: str, ask: Ask, section: JudgeSection) -> Backlog:
    """The way to a judging rewarder of this name, with what its judge's section says of a backlog and a stand-in. The
    backlog is outside: what did not get to the judge is not learned from, and what was given up on is."""
    if section.stand_in:
        ask = StandIn(name, ask, agreement=section.stand_in).judge
    return Backlog(name, ask, concurrent=section.concurrent, groups=section.backlog, patience_s=section.patience_s)


@dataclass(slots=True, eq=False)
class _Job:
    group: Group
    since: float
    """On the monotonic clock."""
    answer: asyncio.Future[list[Verdict]]

    @property
    def held_out(self) -> bool:
        return self.group.ticket < 0

    @property
    def waited_s(self) -> float:
        return time.monotonic() - self.since


class Backlog:
    """What stands before a judging rewarder."""

    def __init__(self, name: str, ask: Ask, *, concurrent: int, groups: int, patience_s: float = 0.0) -> None:
        """`name` is the rewarder's, `ask` asks it and limits its own time: `concurrent` rollouts are under judgement at
        once (a group is begun while there are fewer), and `groups` may wait. A group leaves unjudged after `patience_s`
        (0: it stays)."""
        if concurrent < 1 or groups < 1 or patience_s < 0:
            raise ValueError(f"a backlog of {groups} groups, {concurrent} rollouts at once, patience {patience_s} s")
        self.largest = 0
        """Most groups that ever waited."""
        self._name, self._ask, self._concurrent, self._groups = name, ask, concurrent, groups
        self._patience_s = patience_s
        self._held_out: deque[_Job] = deque()
        self._waiting: list[_Job] = []
        self._under_way: dict[asyncio.Task[None], int] = {}

    @property
    def waiting(self) -> int:
        """Groups that wait now; held-out questions are not counted."""
        return len(self._waiting)

    async def judge(self, group: Group) -> Sequence[Verdict]:
        """The judge's verdicts with the seconds that the group waited, or abstentions where it was displaced. Raises
        what the judge raises."""
        job = _Job(group, time.monotonic(), asyncio.get_running_loop().create_future())
        (self._held_out if job.held_out else self._waiting).append(job)
        self._begin()
        if self.waiting > self._groups:
            oldest = self._waiting.pop(0)
            oldest.answer.set_result(self._displaced(oldest, f"{self._groups} newer groups wait"))
        self.largest = max(self.largest, self.waiting)
        patience = self._patience_s if self._patience_s and not job.held_out else None
        try:
            async with asyncio.timeout(patience) as clock:
                return await job.answer
        except TimeoutError:
            if not clock.expired():
                raise
            return self._displaced(job, f"no verdict within {patience:g} s")
        finally:
            if job in self._waiting:
                self._waiting.remove(job)
            elif job in self._held_out:
                self._held_out.remove(job)

    def close(self) -> None:
        """Give up what is under way."""
        for task in self._under_way:
            task.cancel()

    def _begin(self) -> None:
        """Judge what there is room for."""
        while (self._held_out or self._waiting) and sum(self._under_way.values()) < self._concurrent:
            job = self._held_out.popleft() if self._held_out else self._waiting.pop()
            task = asyncio.get_running_loop().create_task(self._judge(job))
            self._under_way[task] = len(job.group.rollouts)
            task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._under_way.pop(task)
        if not task.cancelled():
            self._begin()

    async def _judge(self, job: _Job) -> None:
        waited_s = job.waited_s
        try:
            verdicts = await self._ask(job.group)
        except asyncio.CancelledError:
            job.answer.cancel()
            raise
        except Exception as error:  # noqa: BLE001 - whoever asked is told
            if not job.answer.done():
                job.answer.set_exception(error)
        else:
            if not job.answer.done():
                job.answer.set_result([replace(v, waited_s=waited_s + v.waited_s) for v in verdicts])

    def _displaced(self, job: _Job, why: str) -> list[Verdict]:
        verdict = unscored(self._name, Status.ABSTAINED, f"{DISPLACED} ({why})")
        return for_all(job.group, replace(verdict, waited_s=job.waited_s))
