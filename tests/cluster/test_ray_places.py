"""A reward worker's place: what its processes hear of one another, with processes that Ray does not know of."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest

from cluster.ray_crew import RayCrew, Seat
from cluster.workers import RewarderWorker
from rewarders.registry import REWARDERS
from swarm.config import RunConfig, parse
from tests.cluster.test_notices import group_of, parcel
from tests.rewarders.weak import Weak, key_of, sums


def recipe() -> RunConfig:
    return parse(
        {
            "model": {"path": "tiny"},
            "actors": {"tasks": ["none"]},
            "rewarders": {"use": ["weak"], "num": 2, "breaker": 0.3},
            "learners": {"steps": 1},
        },
        "test",
    )


class Process:
    """A reward worker behind `method.remote(...)`; what crosses is as after a journey through JSON."""

    def __init__(self, config: RunConfig) -> None:
        self.worker = RewarderWorker(config)
        self.order: list[str] = []

    def __getattr__(self, name: str) -> Any:
        def remote(*args: Any) -> Awaitable[Any]:
            self.order.append(name)

            async def answer() -> Any:
                if name == "ready":
                    return await self.worker.ready()
                if name == "__ray_call__":
                    return "host"
                return json.loads(json.dumps(getattr(self.worker, name)(*json.loads(json.dumps(args)))))

            return answer()

        return SimpleNamespace(remote=remote)


@pytest.fixture
def crew(monkeypatch: pytest.MonkeyPatch) -> RayCrew:
    monkeypatch.setitem(REWARDERS, "weak", lambda: Weak(key_of("Thought process:")))
    monkeypatch.setattr("cluster.ray_crew.ray.kill", lambda process: None)
    config = recipe()
    made = RayCrew(config, "tiny", {}, {"weak": 1.0}, lambda kind, **facts: None)
    make = partial(Process, config)
    made.rewarders = [Seat(f"rewarder-{i}", make, process=make()) for i in range(2)]
    return made


async def score(process: Process, num: int) -> tuple[float | None, ...]:
    """Rewards of the last group."""
    rewards: tuple[float | None, ...] = ()
    for ticket, prompt in enumerate(sums(20) * (num // 20 + 1)):
        group = group_of(prompt, ticket)
        batch, facts = parcel(group, {})
        try:
            rewards = (await process.worker.score(batch, facts))[1].rewards
        except RuntimeError:  # the breaker is open
            continue
        await asyncio.sleep(0)
    return rewards


def quarantine(process: Process) -> list[str]:
    return [q["template"] for q in process.worker.evidence()["watches"]["weak"]["quarantine"]]


def test_a_new_process_knows_before_it_serves_what_the_dead_one_knew(crew: RayCrew) -> None:
    async def go() -> None:
        first, second = crew.rewarders
        await crew._exchange()
        await score(first.process, 100)
        assert quarantine(first.process) == ["thought process"]
        assert quarantine(second.process) == []
        await crew._exchange()
        assert quarantine(second.process) == ["thought process"]
        known, dead = first.process.worker.evidence(), first.process
        await crew._replace(first, "killed")
        assert first.process is not dead
        assert first.process.order[-1] == "hear"
        assert first.process.worker.evidence() == known
        await crew._exchange()
        assert first.process.worker.evidence() == known

    asyncio.run(go())
