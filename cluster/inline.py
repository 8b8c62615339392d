"""Placement without Ray: all workers in this process. For tests, the simulator and very small nodes.

A handle's reference is the record batch itself, so the same schema is crossed as between processes. The learner runs
on a thread, so that generation goes on beside it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path

from cluster.evidence import Evidence
from cluster.workers import ActorWorker, LearnerWorker, Parcel, RewarderWorker, parcel
from swarm import schema
from swarm.roles import Saved, SyncReport, Usage
from swarm.types import Group, Handle, Prompt, StepReport, Weights


class InlineCrew:
    """`swarm.roles.Crew` over objects. Nothing dies here that does not take the process with it."""

    def __init__(
        self,
        actors: Sequence[ActorWorker],
        rewarders: Sequence[RewarderWorker],
        learner: LearnerWorker | None,
        weights: Mapping[str, float],
    ) -> None:
        self._actors, self._rewarders, self._learner = actors, rewarders, learner
        self._weights = weights
        self._turn = 0
        self._evidence = Evidence()

    async def generate(self, prompt: Prompt, ticket: int, attempt: int, greedy: bool = False, num: int = 0) -> Handle:
        self._turn += 1
        actor = self._actors[self._turn % len(self._actors)]
        return _handle(await actor.generate(prompt, ticket, attempt, greedy, num))

    async def score(self, handle: Handle) -> Handle:
        rewarder = self._rewarders[handle.facts.ticket % len(self._rewarders)]
        return _handle(await rewarder.score(handle.ref, handle.facts))

    async def step(self, step: int, batch: Sequence[Handle], record: Path | None) -> StepReport:
        return await asyncio.to_thread(self._the_learner.step, step, record, *[handle.ref for handle in batch])

    async def publish(self) -> Weights:
        weights = await asyncio.to_thread(self._the_learner.publish)
        assert weights is not None
        return weights

    async def sync(self, weights: Weights) -> list[SyncReport]:
        self._exchange()
        return list(await asyncio.gather(*(actor.load(weights) for actor in self._actors)))

    async def save(self, folder: Path) -> Saved:
        self._exchange()
        self._evidence.save(folder)
        return await asyncio.to_thread(self._the_learner.save, folder)

    async def saved(self) -> None:
        await asyncio.to_thread(self._the_learner.saved)

    async def restore(self, folder: Path | None, lineage: int) -> None:
        if folder is not None:
            self._evidence.recall(folder)
        await asyncio.to_thread(self._the_learner.restore, folder, lineage)

    async def fetch(self, handle: Handle) -> Group:
        return schema.from_batch(handle.ref)

    async def adopt(self, group: Group) -> Handle:
        return _handle(parcel(group, self._weights))

    async def usage(self) -> Mapping[str, Usage]:
        found = {f"actor-{i}": await actor.usage() for i, actor in enumerate(self._actors)}
        found |= {f"rewarder-{i}": await rewarder.usage() for i, rewarder in enumerate(self._rewarders)}
        return found | ({"learner": self._learner.usage()} if self._learner else {})

    async def close(self) -> None:
        for actor in self._actors:
            await actor.close()
        for rewarder in self._rewarders:
            await rewarder.close()
        if self._learner:
            self._learner.close()

    def _exchange(self) -> None:
        """Let each reward worker know what all found."""
        names = {f"rewarder-{i}": rewarder for i, rewarder in enumerate(self._rewarders)}
        for name, rewarder in names.items():
            self._evidence.saw(name, rewarder.evidence())
        for name, rewarder in names.items():
            rewarder.hear(self._evidence.others(name), self._evidence.before(name))

    @property
    def _the_learner(self) -> LearnerWorker:
        assert self._learner is not None, "this crew was built without a learner"
        return self._learner


def _handle(made: Parcel) -> Handle:
    return Handle(*made)
