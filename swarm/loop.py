"""The loop: producers fill the pool, the learner is the clock.

    stream --prompt--> generate --group--> score --group--> POOL --batch--> step --> publish --> sync --+
      ^                (actors)           (rewarders)    ordered, bounded  (learner)            (actors)  |
      +--------------- ticket <---------------------------------------------------------- release ------+

    who waits        for what                                  until
    producer         a ticket (`pool.admit`)                   a batch trained earlier is released
    learner          a batch (`pool.take`)                     the next groups in ticket order are scored
    release          every actor holding the new weights       sync, and an evaluation where one is due

With `max_lag = 0` the learner waits for its own release, which is synchronous training: the same code. The bound on
lag is derived in `swarm.pool`. Only StageFailure is caught here: a failed group is counted and its prompt asked again,
with the same ticket, hence in its old place.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from pathlib import Path

from swarm import checkpoints, evaluation, recovery, schema
from swarm.errors import DeadActor, PromptRefused, StageFailure, StarvedError
from swarm.journal import Journal
from swarm.ledger import Ask, Ledger
from swarm.pool import Pool
from swarm.metrics import step_metrics
from swarm.roles import Crew, PromptStream
from swarm.shares import Shares
from swarm.types import Handle, Prompt, StepReport, Weights

MAX_ATTEMPTS = 3
"""Attempts of one prompt before its ticket goes to another prompt."""

DRAIN_S = 60.0
"""How long a stop waits for groups in the making."""


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
    step: int = 0
    lineage: int = 0
    again: dict[int, Ask] = field(default_factory=dict)
    """Tickets of an earlier process that must be asked again."""
    failures_in_a_row: int = 0
    shares: Shares = field(default_factory=Shares)


async def run(node: Node) -> None:
    """Train until `node.steps`, or until the pool is closed (a stop); ends with a checkpoint either way."""
    async with asyncio.TaskGroup() as tasks:
        producers = [tasks.create_task(produce(node)) for _ in range(node.pool.capacity)]
        await learn(node, tasks)
        if node.pool.closed:
            await asyncio.wait(producers, timeout=DRAIN_S)  # what is being generated is finished and kept
        for producer in producers:
            producer.cancel()
    await save(node)


async def produce(node: Node) -> None:
    """Turn tickets into scored groups, one at a time; the pool's capacity is the number of producers."""
    while (ticket := await node.pool.admit()) is not None:
        await node.pool.put(ticket, await obtain(node, ticket))


async def learn(node: Node, tasks: asyncio.TaskGroup) -> None:
    """Take a batch, step, publish; the weights are handed out and the tickets released while the next step begins."""
    handing_out: asyncio.Task[None] | None = None
    while node.step < node.steps:
        with node.shares.spend("wait"):
            batch = await node.pool.take(node.groups_per_step)
        if not batch:
            break
        with node.shares.spend("step"):
            report = await step(node, list(batch.values()))
        node.ledger.trained(node.lineage, node.step, batch)
        with node.shares.spend("sync"):
            if handing_out:
                await handing_out  # one set of weights travels at a time
            weights = await node.crew.publish()
        handing_out = tasks.create_task(hand_out(node, weights, list(batch)))
        node.journal.step(step_metrics(node.lineage, report, list(batch.values()), weights, node.shares))
        if node.step % node.checkpoint_every == 0 and node.step < node.steps:
            with node.shares.spend("save"):
                await save(node)
    if handing_out:
        with node.shares.spend("sync"):
            await handing_out


async def step(node: Node, handles: list[Handle]) -> StepReport:
    """One learner step. A learner that dies is brought back to where it was, and the step is taken then."""
    record = node.journal.folder.batch(node.step + 1)
    try:
        report = await node.crew.step(node.step + 1, handles, record)
    except DeadActor as death:
        await recovery.replay(node, f"the learner died: {death}")
        record = node.journal.folder.batch(node.step + 1)
        report = await node.crew.step(node.step + 1, handles, record)
    node.step += 1
    return report


async def obtain(node: Node, ticket: int) -> Handle:
    """Ask until the ticket has a scored group."""
    ask = node.again.pop(ticket, Ask(ticket, 0, None))
    attempt, prompt = ask.attempt, ask.prompt
    while True:
        prompt = prompt or node.stream.next()
        node.ledger.asked(ticket, attempt, prompt, node.stream.state())
        try:
            handle = await node.crew.score(await node.crew.generate(prompt, ticket, attempt))
        except StageFailure as failure:
            hopeless = isinstance(failure, PromptRefused) or attempt - ask.attempt + 1 >= MAX_ATTEMPTS
            (node.ledger.dropped if hopeless else node.ledger.failed)(ticket, attempt, str(failure))
            _count(node, ticket, prompt, failure, hopeless)
            prompt, attempt = None if hopeless else prompt, attempt + 1
        else:
            node.ledger.pooled(ticket, attempt, handle.facts.mean_length)
            node.failures_in_a_row = 0
            return handle


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
        score = evaluation.accuracy(await evaluation.evaluate(node.crew, node.live_prompts))
        node.journal.event("evaluated", step=step, accuracy=score, questions=len(node.live_prompts))
    await node.pool.release(tickets)


async def save(node: Node) -> None:
    """Checkpoint: learner, ledger and the pool's finished groups. A failure to write is an event; training goes on."""

    async def fill(folder: Path) -> None:
        (folder / "learner").mkdir()
        await node.crew.save(folder / "learner")
        ready = [await node.crew.fetch(handle) for handle in node.pool.ready]
        await asyncio.to_thread(schema.write_groups, folder / "pool.parquet", ready)
        node.ledger.copy(folder / "ledger.sqlite")

    try:
        path = await checkpoints.write(node.journal.folder.checkpoints, node.step, fill, node.keep_checkpoints)
    except OSError as error:
        node.journal.event("checkpoint_failed", step=node.step, cause=str(error))
    else:
        node.journal.event("checkpoint", step=node.step, folder=path.name)


def _count(node: Node, ticket: int, prompt: Prompt, failure: StageFailure, dropped: bool) -> None:
    cause = f"{type(failure).__name__}: {failure}"
    node.journal.event("dropped" if dropped else "failed", ticket=ticket, prompt=prompt.id, cause=cause)
    node.failures_in_a_row += 1
    if node.failures_in_a_row >= node.give_up_after:
        raise StarvedError(f"{node.failures_in_a_row} groups failed in a row; the last one: {cause}")
