"""The loop: producers fill the pool, the learner is the clock.

    stream --prompt--> generate --group--> score --group--> POOL --batch--> step --> publish --> sync --+
      ^                (actors)           (rewarders)    ordered, bounded  (learner)            (actors)  |
      +--------------- ticket <---------------------------------------------------------- release ------+

    who waits        for what                                  until
    producer         a ticket (`pool.admit`)                   a batch trained earlier is released
    learner          a batch (`pool.take`)                     the next groups in ticket order are scored
    release          every actor holding the new weights       sync, and an evaluation where one is due

With `max_lag = 0` the learner waits for its own release, which is synchronous training: the same code. The bound on
lag is derived in `swarm.pool`. A scored group that has nothing to teach can be set aside for another prompt
(`swarm.resampling`), and the stream is told what became of each prompt, since it may choose by that.

Two errors are caught here. StageFailure: a failed group is counted and its prompt asked again, with the same ticket,
hence in its old place. DeadActor: the learner is brought back to where it was; where that cannot be done a new lineage
begins, and nothing that was made with the old one's weights is trained on.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TypeVar

from swarm import evaluation, recovery, saving
from swarm.errors import DeadActor, DivergedError, PromptRefused, StageFailure, StarvedError
from swarm.journal import Journal
from swarm.ledger import Ask, Ledger
from swarm.metrics import drained, step_metrics
from swarm.pool import Pool
from swarm.resampling import Resampling
from swarm.roles import Crew, PromptStream
from swarm.scores import stats_of
from swarm.shares import Shares
from swarm.types import Draw, Handle, Prompt, Weights

MAX_ATTEMPTS = 3
"""Attempts of one prompt before its ticket goes to another prompt."""

MAX_DEATHS = 3
"""Deaths of the learner in one call before the run ends with DeadActor."""

DRAIN_S = 60.0
"""How long a stop waits for groups in the making."""

T = TypeVar("T")


@dataclass(slots=True)
class Node:
    """The live parts of one node, and how far it is."""

    crew: Crew
    pool: Pool
    ledger: Ledger
    stream: PromptStream
    journal: Journal
    steps: int
    groups_per_step: int
    checkpoint_every: int
    keep_checkpoints: int
    give_up_after: int
    live_prompts: list[Prompt]
    live_every: int
    live_samples: int
    resampling: Resampling
    step: int = 0
    lineage: int = 0
    again: dict[int, Ask] = field(default_factory=dict)
    """Tickets of an earlier process that must be asked again."""
    failures_in_a_row: int = 0
    saved: bool = True
    """Whether the newest checkpoint that was due is there."""
    writing: asyncio.Task[None] | None = None
    """The checkpoint that is being written while training goes on."""
    shares: Shares = field(default_factory=Shares)
    judged: Counter[str] = field(default_factory=Counter)
    """What judges were asked since the last step, also about groups that were set aside."""


async def run(node: Node) -> None:
    """Train until `node.steps`, or until the pool is closed (a stop); ends with a checkpoint either way."""
    while not await train(node):
        await recovery.restart(node)


async def train(node: Node) -> bool:
    """Run producers and learner as long as the lineage lasts; whether that was to the end."""
    lineage, fatal = node.lineage, None
    try:
        async with asyncio.TaskGroup() as tasks:
            producers = [tasks.create_task(produce(node)) for _ in range(node.pool.capacity)]
            await learn(node, tasks)
            if node.pool.closed:
                await asyncio.wait(producers, timeout=DRAIN_S)  # what is being generated is finished and kept
            for producer in producers:
                producer.cancel()
    except BaseExceptionGroup as group:
        fatal = first_error(group)
    if fatal:
        raise fatal
    if node.lineage == lineage:
        await save(node)
    return node.lineage == lineage


async def produce(node: Node) -> None:
    """Turn tickets into scored groups, one at a time; the pool's capacity is the number of producers."""
    while (ticket := await node.pool.admit()) is not None:
        await node.pool.put(ticket, await obtain(node, ticket))
    node.resampling.go_on()


async def learn(node: Node, tasks: asyncio.TaskGroup) -> None:
    """Take a batch, step, publish; the weights are handed out and the tickets released while the next step begins."""
    handing_out: asyncio.Task[None] | None = None
    while node.step < node.steps:
        with node.shares.spend("wait"):
            batch = await node.pool.take(node.groups_per_step)
        if not batch:
            break
        handles, number = list(batch.values()), node.step + 1
        record = node.journal.folder.batch(number)
        with node.shares.spend("step"):
            try:
                report = await revived(node, lambda: node.crew.step(number, handles, record))  # noqa: B023 - awaited here
            except DivergedError as error:
                raise await recovery.diverged(node, number, error) from error
        if report is None:
            break
        node.step = number
        node.journal.notices(report.notices)
        node.stream.learned(report.prompts)
        node.ledger.trained(node.lineage, node.step, batch, node.stream.state())
        with node.shares.spend("sync"):
            if handing_out:
                await handing_out  # one set of weights travels at a time
            weights = await revived(node, node.crew.publish)
        if weights is None:
            break
        handing_out = tasks.create_task(hand_out(node, weights, list(batch)))
        node.journal.published(weights)
        line = step_metrics(node.lineage, report, handles, weights, node.shares)
        node.journal.step(line | node.resampling.read() | drained(node.judged))
        if node.step % node.checkpoint_every == 0 and node.step < node.steps:
            lineage = node.lineage
            with node.shares.spend("save"):
                await save(node, tasks)
            if node.lineage != lineage:
                break
    if handing_out:
        with node.shares.spend("sync"):
            await handing_out


async def revived(node: Node, ask: Callable[[], Awaitable[T]]) -> T | None:
    """What the learner answers. One that dies is brought back to where it was and asked again.

    None where that took a new lineage, in which the question has no sense.
    """
    lineage = node.lineage
    death: DeadActor | None = None
    for _ in range(MAX_DEATHS):
        try:
            if death:
                await recovery.replay(node, f"the learner died: {death}")
            return await ask() if node.lineage == lineage else None
        except DeadActor as error:
            death = error
    assert death is not None
    raise death


async def obtain(node: Node, ticket: int) -> Handle:
    """Ask until the ticket has a scored group that is worth training on, or the budget for better ones is spent."""
    ask = node.again.pop(ticket, Ask(ticket, 0, None))
    attempt, tries = ask.attempt, 0
    draw = Draw(ask.prompt, ask.num) if ask.prompt else None
    with node.resampling.making(ticket, first=attempt == 0):
        while True:
            tries += 1
            draw = draw or node.stream.next()
            node.ledger.asked(ticket, attempt, draw.prompt, node.stream.state(), draw.num)
            try:
                handle = await node.crew.score(await node.crew.generate(draw.prompt, ticket, attempt, num=draw.num))
            except StageFailure as failure:
                node.journal.notices(failure.notices)
                hopeless = isinstance(failure, PromptRefused) or tries >= MAX_ATTEMPTS
                (node.ledger.dropped if hopeless else node.ledger.failed)(ticket, attempt, str(failure))
                _count(node, ticket, draw.prompt, failure, hopeless)
                if hopeless:
                    draw, tries = None, 0
            else:
                facts, node.failures_in_a_row = handle.facts, 0
                node.judged.update(facts.judged)
                node.journal.notices(facts.notices)
                if not await node.resampling.sets_aside(facts, attempt):
                    node.ledger.pooled(ticket, attempt, facts.mean_length)
                    return handle
                node.stream.learned([stats_of(facts.prompt_id, facts.source, facts.rewards)])
                node.ledger.skipped(ticket, attempt, facts.mean_length, node.stream.state())
                draw, tries = None, 0
            attempt += 1


async def hand_out(node: Node, weights: Weights, tickets: list[int]) -> None:
    """Bring the actors to these weights, evaluate them where that is due, and give the tickets back."""
    step = weights.version.step
    for report in await node.crew.sync(weights):
        node.journal.event(
            "synced",
            step=step,
            pause_s=report.pause_s,
            stage_s=report.stage_s,
            canary_mean=report.canary_mean,
            canary_max=report.canary_max,
            in_flight=report.in_flight,
        )
    if node.live_prompts and step % node.live_every == 0 and step < node.steps:
        num = node.live_samples
        score = evaluation.accuracy(await evaluation.evaluate(node.crew, node.live_prompts, num, greedy=num == 1))
        node.journal.event("evaluated", step=step, accuracy=score, questions=len(node.live_prompts))
    await node.pool.release(tickets)


async def save(node: Node, tasks: asyncio.TaskGroup | None = None) -> None:
    """Checkpoint what is now; with `tasks` it is written while training goes on. A failure to write is an event."""
    await saving.settled(node)
    try:
        if tasks is None:
            await revived(node, lambda: saving.whole(node))
        elif draft := await revived(node, lambda: saving.take(node)):
            node.writing = tasks.create_task(saving.write_behind(node, draft))
    except OSError as error:
        saving.failed(node, node.step, error)


def first_error(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The error that ended a task group, out of its wrapping: what the command's exit code is taken from."""
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def _count(node: Node, ticket: int, prompt: Prompt, failure: StageFailure, dropped: bool) -> None:
    cause = f"{type(failure).__name__}: {failure}"
    node.journal.event("dropped" if dropped else "failed", ticket=ticket, prompt=prompt.id, cause=cause)
    node.failures_in_a_row += 1
    if node.failures_in_a_row >= node.give_up_after:
        raise StarvedError(f"{node.failures_in_a_row} groups failed in a row; the last one: {cause}")
