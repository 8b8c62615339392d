"""A validating fake of a node's processes, and the node around it, for tests of the loop.

Nothing here sleeps: a token, a sync and a step each take a number of passes of the event loop, drawn from the seed, so
every schedule repeats. Whatever the loop hands over is checked; a broken promise is an AssertionError in the test.

`die` and `kill_at` make the faults: the learner's process dies in the n-th call of a method (DeadActor), or the whole
process ends at the n-th point at which it could (`Killed`, which nothing may catch).
"""

from __future__ import annotations

import asyncio
import itertools
import json
import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from swarm import schema
from swarm.errors import ActorError, DeadActor, PromptRefused, RewarderError, StageFailure
from swarm.journal import Journal, RunFolder
from swarm.ledger import Ledger
from swarm.loop import Node
from swarm.pool import Pool, capacity, window
from swarm.resampling import Resampling
from swarm.roles import Saved, SyncReport, Usage
from swarm.scores import CORRECT, stats_of
from swarm.types import (
    Draw,
    Finish,
    Group,
    GroupFacts,
    Handle,
    PolicyVersion,
    Prompt,
    PromptStats,
    Rollout,
    Span,
    Status,
    StepReport,
    Verdict,
    Weights,
)

Failing = Callable[[Prompt, int, int], StageFailure | None]
"""`failing(prompt, ticket, attempt)`: the error that this attempt ends with."""

Rewarding = Callable[[Prompt, int, int], Sequence[float]]
"""`rewarding(prompt, ticket, num)`: the rewards of the rollouts."""


class Killed(BaseException):
    """The process is gone. From then on every call of every fake raises it."""


class FakeStream:
    """Prompts p0, p1, ... without end."""

    def __init__(self) -> None:
        self.at = 0
        self.told: Counter[str] = Counter()
        """How often it was told of each prompt."""

    def next(self) -> Draw:
        self.at += 1
        return Draw(Prompt(f"p{self.at - 1}", f"question {self.at - 1}?", answer="1", source="fake"))

    def learned(self, prompts: Sequence[PromptStats]) -> None:
        for stats in prompts:
            assert int(stats.id[1:]) < self.at, f"{stats.id} was never drawn"
            assert stats.num >= 0
            self.told[stats.id] += 1

    def held_out(self, num: int) -> list[Prompt]:
        return [Prompt(f"h{i}", f"held out {i}?", answer="1", source="fake") for i in range(num)]

    def state(self) -> Mapping[str, Any]:
        return {"at": self.at, "told": dict(self.told)}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.at, self.told = state["at"], Counter(state["told"])


class FakeCrew:
    """`swarm.roles.Crew`. Its learner's weights are the list of batches that it was trained on, in order."""

    def __init__(
        self,
        *,
        max_lag: int = 1,
        groups_per_step: int = 4,
        seed: int = 0,
        num_actors: int = 2,
        failing: Failing | None = None,
        die: Mapping[str, Sequence[int]] | None = None,
        kill_at: int | None = None,
        mean_length: float = 4.0,
        spread: float = 0.5,
        record: bool = True,
        rewarding: Rewarding | None = None,
    ) -> None:
        self.max_lag, self.groups_per_step, self.seed = max_lag, groups_per_step, seed
        self.failing, self.die, self.kill_at, self.record = failing, die or {}, kill_at, record
        self.mean_length, self.spread = mean_length, spread
        self.rewarding = rewarding
        self.points, self.killed = 0, False
        self.calls: Counter[str] = Counter()
        self.lineage, self.step_now, self.alive = 0, 0, True
        self.life, self.died_aside = 0, False
        self.saving: tuple[Path, str, int] | None = None
        """Folder, content, and the life in which it was captured."""
        self.writing_passes = 9
        """Of the event loop, until a saving is in its files: about two steps."""
        self.weights: list[list[tuple[int, str]]] = []
        """Per step, the (ticket, prompt id) of its batch."""
        self.trained_at: dict[int, int] = {}
        """Ticket to step, of all that was ever trained on, also before a death."""
        self.published: Weights | None = None
        self.actors = [PolicyVersion("learner", 0, 0)] * num_actors
        self.making: set[int] = set()
        self.asked: list[tuple[int, int, str]] = []
        """(ticket, attempt, prompt id) of every request for training, in order."""
        self.lags: list[int] = []

    def point(self) -> None:
        """A point at which the process may be killed."""
        self.points += 1
        if self.killed or self.points == self.kill_at:
            self.killed = True
            raise Killed(f"at point {self.points}")

    # -- actors and rewarders -----------------------------------------------------------------------------------------

    async def generate(self, prompt: Prompt, ticket: int, attempt: int, greedy: bool = False, num: int = 0) -> Handle:
        self.point()
        if ticket >= 0:
            assert ticket not in self.making, f"ticket {ticket} is made twice at once"
            assert (ticket, attempt) not in {(t, a) for t, a, _ in self.asked}, f"{ticket}.{attempt} was asked before"
            self.asked.append((ticket, attempt, prompt.id))
            self.making.add(ticket)
        rng = random.Random(f"{self.seed}/{prompt.id}/{ticket}/{attempt}")
        seat = rng.randrange(len(self.actors))
        begun = self.actors[seat]
        try:
            lengths = [self._length(rng) for _ in range(num or 2)]
            steps: list[int] = []
            for _ in range(max(lengths)):  # one pass of the event loop is one token of every sequence
                steps.append(self.actors[seat].step)
                await asyncio.sleep(0)
                self.point()
                if self.actors[seat].lineage != begun.lineage:
                    raise ActorError("weights of another lineage")
            if self.failing and (failure := self.failing(prompt, ticket, attempt)):
                raise failure
        finally:
            self.making.discard(ticket)
        rollouts = tuple(_rollout(np.asarray(steps[:length], np.int64)) for length in lengths)
        group = Group(
            id=f"{ticket}.{attempt}",
            ticket=ticket,
            attempt=attempt,
            prompt=prompt,
            prompt_tokens=np.arange(3, dtype=np.int32),
            rollouts=rollouts,
            learner="learner",
            lineage=begun.lineage,
            temperature=0.0 if greedy else 1.0,
            cache_kept=True,
        )
        return Handle(group, facts_of(group))

    async def score(self, handle: Handle) -> Handle:
        self.point()
        await asyncio.sleep(0)
        self.point()
        group: Group = handle.ref
        assert all(not rollout.verdicts for rollout in group.rollouts), "scored twice"
        rewards = [float(len(r.tokens) % 2) for r in group.rollouts]
        if self.rewarding:
            rewards = [float(r) for r in self.rewarding(group.prompt, group.ticket, len(group.rollouts))]
        verdicts = [(Verdict("fake", Status.SCORED, reward),) for reward in rewards]
        scored = group.with_verdicts(verdicts)
        return Handle(scored, facts_of(scored))

    async def sync(self, weights: Weights) -> list[SyncReport]:
        self.point()
        assert weights == self.published, "weights that are not the newest published ones"
        reports = []
        for seat in range(len(self.actors)):  # one after the other, so that they differ for a while
            for _ in range(3):
                await asyncio.sleep(0)
                self.point()
            lag = self.actors[seat].lag_behind(weights.version)
            assert lag is None or lag >= 0, "an actor went back in time"
            self.actors[seat] = weights.version
            reports.append(SyncReport(weights.version.step, 0.0, 0.0, 0.0, 0.0, len(self.making)))
        return reports

    # -- learner ------------------------------------------------------------------------------------------------------

    async def step(self, step: int, batch: Sequence[Handle], record: Path | None) -> StepReport:
        await self._learner("step")
        groups: list[Group] = [handle.ref for handle in batch]
        assert step == self.step_now + 1, f"step {step} after step {self.step_now}"
        assert len(groups) == self.groups_per_step
        before = {ticket for tickets in self.weights for ticket, _ in tickets}
        for group in groups:
            assert group.ticket not in before, f"ticket {group.ticket} is trained twice in these weights"
            assert group.lineage == self.lineage, "a group of another lineage"
            self._check_versions(group)
        if record is not None and self.record:
            schema.write_groups(record, groups)
        for _ in range(5):
            await asyncio.sleep(0)
            self.point()
        self.step_now = step
        self.weights.append([(g.ticket, g.prompt.id) for g in groups])
        self.trained_at |= {g.ticket: step for g in groups}
        tokens = sum(handle.facts.num_tokens for handle in batch)
        known = tuple(stats_of(h.facts.prompt_id, h.facts.source, h.facts.rewards) for h in batch)
        return StepReport(step, sum(len(g.rollouts) for g in groups), tokens, tokens, 0.0, prompts=known)

    async def publish(self) -> Weights:
        await self._learner("publish")
        version = PolicyVersion("learner", self.lineage, self.step_now)
        self.published = Weights(version, "/nowhere", digest(self.weights), 1)
        return self.published

    async def save(self, folder: Path) -> Saved:
        await self._learner("save")
        assert self.saving is None, "a second saving before the first was written"
        assert not any(folder.iterdir()), "saved into a folder that is not empty"  # noqa: ASYNC240 - a fake
        self.saving = (folder, json.dumps(self.weights), self.life)
        return Saved(0.0, 1)

    async def saved(self) -> None:
        assert self.saving is not None, "nothing is being saved"
        folder, text, life = self.saving
        for _ in range(self.writing_passes):
            await asyncio.sleep(0)
            self.point()
            if not self.alive or self.life != life:
                self.saving = None
                raise DeadActor("died while it wrote")
        self.calls["saved"] += 1
        self.saving = None
        if self.calls["saved"] in self.die.get("saved", ()):
            self.alive, self.died_aside = False, True
            raise DeadActor(f"killed in saved {self.calls['saved']}")
        (folder / "weights.json").write_text(text)

    async def restore(self, folder: Path | None, lineage: int) -> None:
        self.point()
        assert self.saving is None or not self.alive, "restored while it is saving"
        self.alive, self.died_aside = True, False
        self.life += 1
        await self._learner("restore")
        saved = json.loads((folder / "weights.json").read_text()) if folder else []
        self.weights = [[(ticket, prompt) for ticket, prompt in tickets] for tickets in saved]
        self.step_now, self.lineage = len(self.weights), lineage

    # -- the rest -----------------------------------------------------------------------------------------------------

    async def fetch(self, handle: Handle) -> Group:
        self.point()
        return handle.ref

    async def adopt(self, group: Group) -> Handle:
        self.point()
        return Handle(group, facts_of(group))

    async def usage(self) -> Mapping[str, Usage]:
        return {"learner": Usage(0.0, 0.0)}

    async def close(self) -> None:
        self.alive = False

    async def _learner(self, call: str) -> None:
        self.point()
        if self.died_aside:
            raise DeadActor("it died while nobody but the writer of a checkpoint looked")
        assert self.alive, f"{call} of a learner that was not restored"
        await asyncio.sleep(0)
        self.point()
        self.calls[call] += 1
        if self.calls[call] in self.die.get(call, ()):
            self.alive = False
            raise DeadActor(f"killed in {call} {self.calls[call]}")

    def _length(self, rng: random.Random) -> int:
        return min(int(self.mean_length * rng.lognormvariate(-(self.spread**2) / 2, self.spread)), 400)

    def _check_versions(self, group: Group) -> None:
        for rollout in group.rollouts:
            edges = [0, *(span.end for span in rollout.spans)]
            assert [span.start for span in rollout.spans] == edges[:-1], "spans are not contiguous"
            assert edges[-1] == len(rollout.tokens) == len(rollout.logprobs), "spans do not cover the tokens"
            for span in rollout.spans:
                lag = self.step_now - span.step
                assert lag >= 0, f"a token of step {span.step} before that step, at {self.step_now}"
                assert lag <= self.max_lag, f"a token {lag} steps old with max_lag = {self.max_lag}"
                self.lags.append(lag)


class CheckedPool(Pool):
    """A pool that checks what is released: only groups whose weights every actor holds."""

    crew: FakeCrew

    async def release(self, tickets: Sequence[int]) -> None:  # type: ignore[override]
        self.crew.point()
        oldest = min(version.step for version in self.crew.actors)
        held = {ticket for ticket, step in self.crew.trained_at.items() if step <= oldest}
        assert set(tickets) <= held, "released before every actor holds the weights"
        await super().release(tickets)


class FragileLedger(Ledger):
    """The real ledger, with points before and after every write at which the process may be killed."""

    crew: FakeCrew

    def asked(self, *args: Any) -> None:
        self._around(super().asked, *args)

    def pooled(self, *args: Any) -> None:
        self._around(super().pooled, *args)

    def failed(self, *args: Any) -> None:
        self._around(super().failed, *args)

    def dropped(self, *args: Any) -> None:
        self._around(super().dropped, *args)

    def skipped(self, *args: Any) -> None:
        self._around(super().skipped, *args)

    def trained(self, *args: Any) -> None:
        self._around(super().trained, *args)

    def _around(self, write: Callable[..., None], *args: Any) -> None:
        self.crew.point()
        write(*args)
        self.crew.point()


def node_for(
    root: Path,
    crew: FakeCrew,
    *,
    steps: int,
    checkpoint_every: int = 3,
    give_up_after: int = 24,
    live_questions: int = 0,
    resample: float = 0.0,
    pool: type[CheckedPool] = CheckedPool,
) -> Node:
    """A node on a run folder (made if need be), as one process has it. Close it with `shut`."""
    size, lag = crew.groups_per_step, crew.max_lag
    folder = RunFolder(root) if (root / "config.toml").exists() else RunFolder.create_at(root)
    folder.config.touch()
    checked = pool(capacity(lag, size), window(lag, size))
    ledger = FragileLedger(folder.ledger)
    checked.crew = ledger.crew = crew
    stream = FakeStream()
    return Node(
        crew=crew,
        pool=checked,
        ledger=ledger,
        stream=stream,
        journal=Journal(folder, [lambda *_: crew.point()]),
        steps=steps,
        groups_per_step=size,
        checkpoint_every=checkpoint_every,
        keep_checkpoints=2,
        give_up_after=give_up_after,
        live_prompts=stream.held_out(live_questions),
        live_every=2,
        live_samples=1,
        resampling=Resampling(checked, resample, ordered=lag == 0),
    )


def shut(node: Node) -> None:
    """What the end of a process does to open files."""
    node.ledger.close()
    node.journal.close()


def events(node: Node, kind: str) -> list[dict[str, Any]]:
    """The run folder's events of one kind."""
    return [e for e in node.journal.folder.read("events.jsonl") if e["event"] == kind]


def digest(weights: Sequence[Sequence[tuple[int, str]]]) -> str:
    """Of the fake learner's weights."""
    return xxhash.xxh3_128(json.dumps(weights).encode()).hexdigest()


def refusing(*prompt_ids: str) -> Failing:
    """These prompts are too long."""
    return lambda prompt, *_: PromptRefused(f"{prompt.id} is too long") if prompt.id in prompt_ids else None


def failing_at_random(seed: int, share: float) -> Failing:
    """This share of all attempts fails, in generation or scoring."""

    def failing(prompt: Prompt, ticket: int, attempt: int) -> StageFailure | None:
        rng = random.Random(f"{seed}/{prompt.id}/{ticket}/{attempt}")
        if rng.random() >= share:
            return None
        return ActorError("the engine broke") if rng.random() < 0.5 else RewarderError("nothing was scored")

    return failing


def facts_of(group: Group) -> GroupFacts:
    """The facts that a placement derives from a group."""
    lengths = [len(r.tokens) for r in group.rollouts]
    steps = [span.step for r in group.rollouts for span in r.spans]
    rewards = tuple(r.verdicts[0].value for r in group.rollouts if r.verdicts)
    return GroupFacts(
        id=group.id,
        ticket=group.ticket,
        prompt_id=group.prompt.id,
        source=group.prompt.source,
        num_rollouts=len(group.rollouts),
        num_tokens=sum(lengths),
        mean_length=float(np.mean(lengths)),
        oldest_step=min(steps, default=0),
        newest_step=max(steps, default=0),
        rewards=rewards,
        correct=tuple(None if reward is None else reward >= CORRECT for reward in rewards),
    )


def _rollout(steps: np.ndarray) -> Rollout:
    cuts = [0, *(np.flatnonzero(np.diff(steps)) + 1).tolist(), len(steps)] if len(steps) else [0]
    spans = tuple(Span(int(steps[a]), a, b) for a, b in itertools.pairwise(cuts))
    num = len(steps)
    return Rollout(
        tokens=np.arange(num, dtype=np.int32),
        logprobs=np.full(num, -1.0, np.float32),
        spans=spans,
        text="x" * num,
        finish=Finish.STOP,
        loss_mask=np.ones(num, bool),
    )
