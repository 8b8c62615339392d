"""Rewarders with known answers: what compositions are tested on."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from swarm.types import Group, Status, Verdict


class Says:
    """Answers by text, from a table: a number, a Status, or what to do instead. Keeps what it was asked."""

    def __init__(self, table: dict[str, Any], name: str = "says") -> None:
        self.table, self.name = table, name
        self.asked: list[list[str]] = []
        self.closed = 0

    async def judge(self, group: Group) -> Sequence[Verdict]:
        assert not self.closed
        assert group.rollouts
        texts = [rollout.text for rollout in group.rollouts]
        self.asked.append(texts)
        answers = [self.table[text] for text in texts]
        if "hang" in answers:
            await asyncio.Event().wait()
        if error := next((a for a in answers if isinstance(a, Exception)), None):
            raise error
        return [self._verdict(answer) for answer in answers]

    def _verdict(self, answer: Any) -> Verdict:
        if isinstance(answer, Status):
            return Verdict(self.name, answer, None, f"{self.name} would not", seconds=0.5)
        return Verdict(self.name, Status.SCORED, answer, seconds=0.5, parts={"detail": answer / 2})

    def close(self) -> None:
        self.closed += 1


def judged(rewarder: Any, group: Group) -> list[Verdict]:
    return list(asyncio.run(rewarder.judge(group)))
