"""What runs in each process: the roles behind record batches. Both placements use these classes.

A worker takes and gives `(record batch, facts)`, so that references can move without anybody copying tokens. Nothing
here knows of Ray. Arguments are plain values, since they cross processes. Only the learner's process imports the
learner: torch takes seconds and a quarter of a GiB, which the driver and the reward workers can do without.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from actors.actor import RolloutActor
from actors.engines import ENGINES
from rewarders.backlog import DISPLACED
from rewarders.chat import ChatModel, Metered, read_meters
from rewarders.endpoint import Endpoint
from rewarders.registry import judges_truth
from rewarders.stand_in import STAND_IN
from rewarders.verdict_store import VerdictStore
from rewarders.worker import Evidence, RewardWorker
from swarm import schema, scores
from swarm.config import RunConfig, WeightedSpec
from swarm.errors import RewarderError
from swarm.roles import Saved, SyncReport, Usage
from swarm.types import CANARY_TOKENS, Group, GroupFacts, Labels, PolicyVersion, Prompt, StepReport, Weights

if TYPE_CHECKING:
    from learners.learner import PolicyLearner

Parcel = tuple[pa.RecordBatch, GroupFacts]

LEARNER = "learner"
"""Name of the node's learner in policy versions and usage."""

LEARNER_NICE = 10
"""On a CPU the learner's long passes give way to what is short and waited for: tokens, verdicts, and above all the
reload of weights, during which nothing is generated."""


def reward_weights(config: RunConfig) -> dict[str, float]:
    """Weight of each rewarder by its label."""
    return weights_of(config.rewarders.use)


def weights_of(specs: Sequence[WeightedSpec]) -> dict[str, float]:
    """Weight of each of these by its label."""
    return dict(zip(scores.labels([s.name for s in specs]), [s.weight for s in specs], strict=True))


def truth_of(specs: Sequence[WeightedSpec]) -> frozenset[str]:
    """The labels of those that judge whether answers are right."""
    named = zip(scores.labels([s.name for s in specs]), specs, strict=True)
    return frozenset(label for label, spec in named if judges_truth(spec))


def parcel(group: Group, weights: Mapping[str, float], truth: Collection[str] = (), backlog: int = 0) -> Parcel:
    """A group as a record batch with the facts that the driver may know; rewards only once there are verdicts.

    `truth` are the rewarders that decide what is correct; `backlog` groups wait for judges where it was scored."""
    batch = schema.to_batch(group)
    lengths = [len(r.tokens) for r in group.rollouts]
    steps = [span.step for r in group.rollouts for span in r.spans]
    verdicts = [r.verdicts for r in group.rollouts]
    scored = any(verdicts)
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
        rewards=scores.rewards(verdicts, weights) if scored else (),
        correct=scores.correct(verdicts, weights, truth) if scored else (),
        causes=tuple(c for r in group.rollouts if (c := scores.cause(r.verdicts))),
        labels=labels_of(group, backlog) if scored else None,
        bytes=batch.nbytes,
    )
    return batch, facts


def labels_of(group: Group, backlog: int) -> Labels:
    """How a scored group came by its verdicts."""
    rollouts = [rollout.verdicts for rollout in group.rollouts]
    ages = [v.waited_s + v.seconds for each in rollouts for v in each if v.value is not None and v.waited_s]
    return Labels(
        age_s=max(ages, default=None),
        backlog=backlog,
        displaced=sum(any(DISPLACED in v.cause for v in each) for each in rollouts),
        stood_in=sum(any(part.endswith(STAND_IN) for v in each for part in v.parts) for each in rollouts),
    )


class ActorWorker:
    """A rollout actor with its engine."""

    def __init__(self, config: RunConfig, model: str, lineage: int) -> None:
        a = config.actors
        engine = ENGINES[a.engine.name](
            model,
            dtype=config.model.dtype,
            max_context=max(CANARY_TOKENS, a.max_prompt_tokens + a.max_new_tokens),
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

    async def load(self, weights: Weights) -> SyncReport:
        """Load a published set, which is on this host."""
        return await self._actor.load(weights)

    async def usage(self) -> Usage:
        return self._actor.usage()

    async def close(self) -> None:
        self._actor.close()


class RewarderWorker:
    """A reward worker, with its judges and its connection to the verdict store; and the rewarders of evaluations where
    these have their own."""

    def __init__(self, config: RunConfig, served: Mapping[str, ChatModel] | None = None) -> None:
        """`served` are the judges without an endpoint, which run on this node."""
        r = config.rewarders
        self._weights, self._truth = reward_weights(config), truth_of(r.use)
        self._endpoints = {j.name: Endpoint(j) for j in r.judges if j.endpoint}
        self._judges = {name: Metered(judge) for name, judge in {**self._endpoints, **(served or {})}.items()}
        self._store = VerdictStore(r.store) if r.store else None
        make = partial(RewardWorker, timeout_s=r.timeout_s, retries=r.retries, judges=self._judges, store=self._store)
        self._worker = make(r.use, sentinels=r.sentinels, breaker=r.breaker, channels=r.channels, sections=r.judges)
        self._exam_weights, self._exam_truth = weights_of(config.eval.use), truth_of(config.eval.use)
        self._exam = make(config.eval.use) if config.eval.use else None

    async def ready(self) -> int:
        """The process id."""
        return os.getpid()

    async def score(self, batch: pa.RecordBatch, facts: GroupFacts) -> Parcel:
        """The group with its verdicts; `facts` are those of the batch."""
        if self._exam is not None and facts.ticket < 0:  # an evaluation's
            return parcel(await self._exam.score(schema.from_batch(batch)), self._exam_weights, self._exam_truth)
        try:
            judged = await self._worker.score(schema.from_batch(batch))
        except RewarderError as error:
            error.notices = tuple(self._worker.notices()) if facts.ticket >= 0 else ()
            raise
        scored, found = parcel(judged, self._weights, self._truth, self._worker.waiting)
        if found.ticket >= 0:
            found = replace(found, judged=read_meters(self._judges.values()))
        return scored, replace(found, notices=tuple(self._worker.notices())) if found.ticket >= 0 else found

    @property
    def longest_backlog(self) -> int:
        """Most groups that ever waited for one judge."""
        return self._worker.longest_backlog

    async def judge(self, group: Group) -> Group:
        """The group with new verdicts, however few of them have a value."""
        return await self._worker.judge(group)

    def counts(self) -> Mapping[str, Mapping[str, int]]:
        """As the reward worker's."""
        return self._worker.counts()

    def evidence(self) -> Evidence:
        """As the reward worker's, and what its judges' budgets were spent on; see `cluster.evidence`."""
        return {**self._worker.evidence(), "spent": {name: e.spent_tokens for name, e in self._endpoints.items()}}

    def hear(self, others: Evidence, before: Evidence | None) -> None:
        """As the reward worker's."""
        if before and not self._worker.has_heard:
            for name, endpoint in self._endpoints.items():
                endpoint.spent_tokens += before.get("spent", {}).get(name, 0)
        self._worker.hear(others, before)

    async def usage(self) -> Usage:
        return self._worker.usage()

    async def close(self) -> None:
        self._worker.close()
        if self._exam is not None:
            self._exam.close()
        for judge in self._judges.values():
            judge.close()
        if self._store:
            self._store.close()


class LearnerWorker:
    """The learner, or one rank of it. Rank 0 records each batch before all train on it, so that a replay never misses
    one."""

    def __init__(self, config: RunConfig, model: str, rank: int = 0, store: Any = None) -> None:
        """`store` is where several ranks meet (`learners.ranks`). On Linux the priority is that of the calling thread
        and of those that it starts."""
        self._config, self._model, self._rank, self._store = config, model, rank, store
        if config.cluster.placement == "ray" and not config.learners.gpus:
            os.nice(LEARNER_NICE)
        self._learner = self._make(0)

    def _make(self, lineage: int) -> PolicyLearner:
        from learners.learner import PolicyLearner

        config, s = self._config, self._config.learners
        return PolicyLearner(
            self._model,
            dtype=config.model.dtype,
            section=s,
            reward_weights=reward_weights(config),
            seed=config.seed,
            version=PolicyVersion(LEARNER, lineage, 0),
            max_tokens=config.actors.max_new_tokens,
            group_size=config.actors.group_size,
            rank=self._rank,
            store=self._store,
        )

    def step(self, step: int, record: Path | None, *batches: pa.RecordBatch) -> StepReport:
        groups = [schema.from_batch(batch) for batch in batches]
        if record is not None and self._rank == 0:
            schema.write_groups(record, groups)
        return self._learner.step(step, groups)

    def publish(self) -> Weights | None:
        return self._learner.publish()

    def save(self, folder: Path) -> Saved:
        return self._learner.save(folder)

    def saved(self) -> None:
        self._learner.saved()

    def restore(self, folder: Path | None, lineage: int) -> None:
        if folder is None:
            self._learner.close()
            self._learner = self._make(lineage)
        else:
            self._learner.restore(folder, lineage)

    def belong(self, lineage: int) -> None:
        """Versions from now on belong to `lineage`: in a replay, where a restore began it."""
        self._learner.version = replace(self._learner.version, lineage=lineage)

    def usage(self) -> Usage:
        return self._learner.usage()

    def close(self) -> None:
        self._learner.close()
