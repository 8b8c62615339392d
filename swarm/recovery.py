"""Back to where a run was: the newest whole checkpoint, then the recorded batches after it, to the same weights.

Used by `swarm resume` and when a learner dies. The replayed weights are compared with the digest that was logged
when they were first made. Only where a batch is missing or the digest differs does the run go on from the checkpoint
itself with fresh data; that is a new lineage, with an event that says why.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

from swarm import checkpoints, schema
from swarm.errors import SchemaError

if TYPE_CHECKING:
    from swarm.loop import Node


async def resume(node: Node) -> None:
    """Bring a new process's node to the state of its run folder, ready for `swarm.loop.run`."""
    node.lineage = node.ledger.lineage()
    checkpoint, step = await replay(node, "resumed")
    kept = {}
    if checkpoint is not None and step == node.step:  # otherwise what was in the pool is older than it may be
        groups = await asyncio.to_thread(schema.read_groups, checkpoint / "pool.parquet")
        pooled = node.ledger.pooled_tickets()
        kept = {g.ticket: await node.crew.adopt(g) for g in groups if g.ticket in pooled}
    node.again = {ask.ticket: ask for ask in node.ledger.unfinished(kept)}
    next_ticket, position = node.ledger.position()
    if position is not None:
        node.stream.restore(position)
    node.pool.reinstate(node.again, kept, next_ticket)


async def replay(node: Node, why: str) -> tuple[Path | None, int]:
    """Restore the learner and train it again on the recorded batches. Returns the checkpoint and its step."""
    folder = node.journal.folder
    checkpoint, problems = await asyncio.to_thread(checkpoints.newest_good, folder.checkpoints)
    for problem in problems:
        node.journal.event("checkpoint_broken", problem=problem, used=checkpoint.name if checkpoint else "none")
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
    """Train steps `start + 1 .. target` again; what went wrong, or None."""
    for step in range(start + 1, target + 1):
        path = node.journal.folder.batch(step)
        try:
            groups = await asyncio.to_thread(schema.read_groups, path)
        except SchemaError as error:
            return f"the batch of step {step} cannot be read: {error}"
        await node.crew.step(step, [await node.crew.adopt(group) for group in groups], None)
    if target == start:
        return None
    logged = [m["digest"] for m in node.journal.folder.read("metrics.jsonl") if m["step"] == target]
    digest = (await node.crew.publish()).digest
    if not logged or digest != logged[-1]:
        return f"replayed weights of step {target} have digest {digest}, logged was {logged[-1] if logged else 'none'}"
    return None
