"""What runs in each process: the roles behind record batches. Both placements use these classes.

A worker takes and gives `(record batch, facts)`, so that references can move without anybody copying tokens. Nothing
here knows of Ray. Arguments are plain values, since they cross processes.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from actors.actor import RolloutActor
from actors.engines import ENGINES
from learners.learner import PolicyLearner
from rewarders.worker import RewardWorker
from swarm import schema, scores
from swarm.config import RunConfig
from swarm.roles import SyncReport, Usage
from swarm.types import Group, GroupFacts, PolicyVersion, Prompt, StepReport, Weights

Parcel = tuple[pa.RecordBatch, GroupFacts]

LEARNER = "learner"
"""Name of the node's learner in policy versions and usage."""


def reward_weights(config: RunConfig) -> dict[str, float]:
    """Weight of each rewarder by its label."""
    specs = config.rewarders.use
    return dict(zip(scores.labels([s.name for s in specs]), [s.weight for s in specs], strict=True))


def parcel(group: Group, weights: Mapping[str, float]) -> Parcel:
    """A group as a record batch with the facts that the driver may know; rewards only once there are verdicts."""
    batch = schema.to_batch(group)
    lengths = [len(r.tokens) for r in group.rollouts]
    steps = [span.step for r in group.rollouts for span in r.spans]
    scored = any(r.verdicts for r in group.rollouts)
    facts = GroupFacts(
        id=group.id,
        ticket=group.ticket,
        prompt_id=group.prompt.id,
        source=group.prompt.source,
        num_rollouts=len(group.rollouts),
        num_tokens=sum(lengths),
        mean_length=float(np.mean(lengths)),
        oldest_step=min(steps, default=0),
        newest_step=max(steps, default=0),
        rewards=tuple(scores.reward(r.verdicts, weights) for r in group.rollouts) if scored else (),
        causes=tuple(c for r in group.rollouts if (c := scores.cause(r.verdicts))),
        bytes=batch.nbytes,
    )
    return batch, facts


class ActorWorker:
    """A rollout actor with its engine."""

    def __init__(self, config: RunConfig, model: str, lineage: int) -> None:
        a = config.actors
        self._host_folder = ""
        engine = ENGINES[a.engine.name](
            model,
            dtype=config.model.dtype,
            max_context=a.max_prompt_tokens + a.max_new_tokens,
            seed=config.seed,
            version=PolicyVersion(LEARNER, lineage, 0),
            **a.engine.options,
        )
        self._actor = RolloutActor(
            engine,
            model,
            learner=LEARNER,
            lineage=lineage,
            seed=config.seed,
            group_size=a.group_size,
            temperature=a.temperature,
            max_new_tokens=a.max_new_tokens,
            max_prompt_tokens=a.max_prompt_tokens,
        )

    async def ready(self) -> int:
        """The process id, once the engine has booted."""
        return os.getpid()

    async def generate(self, prompt: Prompt, ticket: int, attempt: int, greedy: bool, num: int) -> Parcel:
        return parcel(await self._actor.generate(prompt, ticket, attempt, greedy, num), {})

    async def load(self, weights: Weights, copied: np.ndarray | None = None) -> SyncReport:
        """Load a published set; `copied` are its bytes where it was published on another host."""
        if copied is not None:
            local = Path("/dev/shm") / f"swarm-{os.getpid()}-copy.safetensors"
            await asyncio.to_thread(local.write_bytes, copied.tobytes())
            weights = _moved(weights, str(local))
        return await self._actor.load(weights)

    async def usage(self) -> Usage:
        return self._actor.usage()

    async def close(self) -> None:
        self._actor.close()


class RewarderWorker:
    """A reward worker."""

    def __init__(self, config: RunConfig) -> None:
        r = config.rewarders
        self._weights = reward_weights(config)
        self._worker = RewardWorker(
            [(label, spec) for label, spec in zip(self._weights, r.use, strict=True)],
            timeout_s=r.timeout_s,
            retries=r.retries,
        )
        self._began, self._busy, self._running, self._since = time.monotonic(), 0.0, 0, 0.0

    async def ready(self) -> int:
        return os.getpid()

    async def score(self, parcel_in: Parcel) -> Parcel:
        if self._running == 0:
            self._since = time.monotonic()
        self._running += 1
        try:
            return parcel(await self._worker.score(schema.from_batch(parcel_in[0])), self._weights)
        finally:
            self._running -= 1
            if self._running == 0:
                self._busy += time.monotonic() - self._since

    async def usage(self) -> Usage:
        now = time.monotonic()
        busy = self._busy + (now - self._since if self._running else 0.0)
        return Usage(busy_s=busy, idle_s=now - self._began - busy, cpu_s=time.process_time() + self._worker.child_cpu_s())

    async def close(self) -> None:
        self._worker.close()


class LearnerWorker:
    """The learner. Records each batch before it trains on it, so that a replay never misses one."""

    def __init__(self, config: RunConfig, model: str) -> None:
        self._config, self._model = config, model
        self._learner = self._make(0)

    def _make(self, lineage: int) -> PolicyLearner:
        config, s = self._config, self._config.learners
        return PolicyLearner(
            self._model,
            dtype=config.model.dtype,
            section=s,
            reward_weights=reward_weights(config),
            seed=config.seed,
            version=PolicyVersion(LEARNER, lineage, 0),
        )

    def ready(self) -> int:
        return os.getpid()

    def step(self, step: int, batches: Sequence[pa.RecordBatch], record: Path | None) -> StepReport:
        groups = [schema.from_batch(batch) for batch in batches]
        if record is not None:
            schema.write_groups(record, groups)
        return self._learner.step(step, groups)

    def publish(self) -> Weights:
        return self._learner.publish()

    def read_published(self, path: str) -> np.ndarray:
        """The bytes of a published set, for an actor on another host."""
        return np.fromfile(path, np.uint8)

    def save(self, folder: Path) -> None:
        self._learner.save(folder)

    def restore(self, folder: Path | None, lineage: int) -> None:
        if folder is None:
            self._learner.close()
            self._learner = self._make(lineage)
        else:
            self._learner.restore(folder, lineage)

    def usage(self) -> Usage:
        return self._learner.usage()

    def close(self) -> None:
        self._learner.close()


def _moved(weights: Weights, path: str) -> Weights:
    from dataclasses import replace

    return replace(weights, path=path)
