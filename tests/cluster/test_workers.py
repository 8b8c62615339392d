"""The worker classes behind record batches."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import numpy as np

from cluster.workers import RewarderWorker, parcel
from rewarders.shaping import as_rollout
from swarm.config import parse
from swarm.types import Group, Prompt


def test_evaluations_are_judged_by_rewarders_of_their_own() -> None:
    wrong = {"name": "noisy", "of": "exact", "false_accept": 1.0, "false_reject": 1.0, "weight": 2.0}
    config = parse(
        {
            "model": {"path": "tiny"},
            "actors": {"tasks": ["reasoning_gym"]},
            "rewarders": {"use": [wrong], "sentinels": 0.0},
            "learners": {"steps": 1},
            "eval": {"use": [{"name": "exact", "weight": 0.5}]},
        },
        "test",
    )
    worker = RewarderWorker(config)
    rollouts = tuple(map(as_rollout, ("4", "5")))
    group = Group("g", 0, 0, Prompt("p", "?", "4"), np.zeros(1, np.int32), rollouts, "learner", 0, 1.0, False)

    async def rewards(ticket: int) -> tuple[float | None, ...]:
        batch, facts = parcel(replace(group, ticket=ticket), {})
        return (await worker.score(batch, facts))[1].rewards

    assert asyncio.run(rewards(0)) == (0.0, 2.0)
    assert asyncio.run(rewards(-1)) == (0.5, 0.0)
    asyncio.run(worker.close())
