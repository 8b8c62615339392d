"""Back to where a run was: the newest whole checkpoint, then the recorded batches after it, to the same weights.

Used by `swarm resume` and when a learner dies. The replayed weights are compared with the digest that was logged
when they were first made. Only where a batch is missing or the digest differs does the run go on from the checkpoint
itself with fresh data; that is a new lineage, with an event that says why.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

from swarm import checkpoints, saving, schema
from swarm.errors import DivergedError, SchemaError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from swarm.journal import RunFolder
    from swarm.loop import Node
    from swarm.types import Handle


async def resume(node: Node) -> None:
    """Bring a new process's node to the state of its run folder, ready for `swarm.loop.run`."""
    lineage = node.lineage = node.ledger.lineage()
    checkpoint, step = await replay(node, "resumed")
    kept = {}
    # Otherwise what was in the pool is older than it may be, or not of these weights.
    if checkpoint is not None and step == node.step and node.lineage == lineage:
        groups = await asyncio.to_thread(schema.read_groups, checkpoint / "pool.parquet")
        pooled = node.ledger.pooled_tickets()
        kept = {g.ticket: await node.crew.adopt(g) for g in groups if g.ticket in pooled}
    await _begin(node, kept, "its process ended")


async def restart(node: Node) -> None:
    """Begin a new lineage in a live run: every group that the old weights made is forfeited and asked again."""
    await _begin(node, {}, "its lineage ended")


async def _begin(node: Node, kept: Mapping[int, Handle], cause: str) -> None:
    """The actors get the learner's weights, the pool its tickets."""
    await node.crew.sync(await node.crew.publish())
    node.again = {ask.ticket: ask for ask in node.ledger.unfinished(kept, cause)}
    next_ticket, position = node.ledger.position()
    if position is not None:
        node.stream.restore(position)
    counts = node.ledger.counts()
    node.resampling.resume(counts["asked"], counts["skipped"])
    node.pool.reinstate(node.again, kept, next_ticket)


async def diverged(node: Node, step: int, error: DivergedError) -> DivergedError:
    """The learner's error with what its reader needs: the batch, and where there are good weights."""
    folder = node.journal.folder
    await saving.settled(node)
    checkpoint, _ = await asyncio.to_thread(checkpoints.newest_good, folder.checkpoints)
    good = f"the last good checkpoint is {checkpoint}" if checkpoint else "there is no checkpoint yet"
    node.journal.event("diverged", step=step, cause=str(error), checkpoint=checkpoint.name if checkpoint else "")
    return DivergedError(
        f"step {step}: {error}; the weights are those of the last good update, "
        f"the batch is {folder.batch(step)}, {good}"
    )


async def replay(node: Node, why: str) -> tuple[Path | None, int]:
    """Restore the learner and train it again on the recorded batches. Returns the checkpoint and its step."""
    folder = node.journal.folder
    await saving.settled(node)  # it may be the newest
    checkpoint, problems = await asyncio.to_thread(checkpoints.newest_good, folder.checkpoints)
    for broken in problems:
        node.journal.event("checkpoint_broken", problem=broken, used=checkpoint.name if checkpoint else "none")
    start = checkpoints.step_of(checkpoint) if checkpoint else 0
    target = max(start, node.ledger.last_step(node.lineage))
    node.journal.event("recovering", why=why, checkpoint=start, target=target, lineage=node.lineage)
    learner = checkpoint / "learner" if checkpoint else None
    await node.crew.restore(learner, node.lineage)
    problem = await _repeat(node, start, target)
    if problem:
        node.lineage += 1
        node.journal.event("lineage", lineage=node.lineage, step=start, cause=problem)
        await node.crew.restore(learner, node.lineage)
        target = start
    node.step = target
    return checkpoint, start


async def _repeat(node: Node, start: int, target: int) -> str | None:
    """Train steps `start + 1 .. target` again; what went wrong, or None.

    The newest digest that was logged on the way is compared. The last step may have none: a learner that died between
    step and log, whose weights nobody has seen.
    """
    steps = range(start + 1, target + 1)
    known = logged(node.journal.folder, dict.fromkeys(steps, node.lineage))
    for step in steps:
        path = node.journal.folder.batch(step)
        try:
            groups = await asyncio.to_thread(schema.read_groups, path)
        except SchemaError as error:
            return f"the batch of step {step} cannot be read: {error}"
        await node.crew.step(step, [await node.crew.adopt(group) for group in groups], None)
        if step == max(known, default=None):
            digest = (await node.crew.publish()).digest
            if digest != known[step]:
                return f"replayed weights of step {step} have digest {digest}, logged was {known[step]}"
    return None


def logged(folder: RunFolder, chain: Mapping[int, int]) -> dict[int, str]:
    """The digests that were logged of these steps of these lineages (`Ledger.chain`), by step."""
    lines = folder.read("metrics.jsonl")
    return {line["step"]: line["digest"] for line in lines if chain.get(line["step"]) == line["lineage"]}
