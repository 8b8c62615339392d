"""Checkpoints while training goes on: taken at one moment, written in the background, one at a time.

    loop:        [step] take: the learner captures its state; pool and ledger of that moment -> [step] -> [step] ...
    background:  write: the learner's files are there -> pool, ledger -> hashes, sync, manifest, rename

The loop waits while `take` runs, so what it captures, the groups that wait and the ledger agree.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from swarm import checkpoints, schema
from swarm.errors import DeadActor

if TYPE_CHECKING:
    from swarm.loop import Node
    from swarm.roles import Saved
    from swarm.types import Group, Handle


T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Draft:
    """A checkpoint that was taken and is not whole yet."""

    step: int
    folder: Path
    ready: Sequence[Handle]
    ledger: bytes
    taken: Saved


async def take(node: Node) -> Draft:
    """The state of this moment. Raises DeadActor, OSError."""
    folder = await asyncio.to_thread(checkpoints.begin, node.journal.folder.checkpoints, node.step)
    try:
        (folder / "learner").mkdir()
        taken = await node.crew.save(folder / "learner")
        return Draft(node.step, folder, list(node.pool.ready), node.ledger.snapshot(), taken)
    except BaseException:
        checkpoints.abandon(folder)
        raise


async def write(node: Node, draft: Draft) -> None:
    """Make a draft the checkpoint of its step; nothing is left of it where that fails. Raises DeadActor, OSError."""
    try:
        await node.crew.saved()
        groups = [await node.crew.fetch(handle) for handle in draft.ready]
        path, size = await _to_its_end(asyncio.to_thread(_finish, node, draft, groups))
    except BaseException:
        checkpoints.abandon(draft.folder)
        raise
    node.saved = True
    node.journal.event(
        "checkpoint", step=draft.step, folder=path.name, bytes=size, capture_s=round(draft.taken.capture_s, 4)
    )


async def _to_its_end(work: Coroutine[Any, Any, T]) -> T:
    """The answer of a thread, which a cancellation does not stop: it would go on to list the files of a folder that is
    being removed, and call what is left of them a whole checkpoint."""
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        raise


async def write_behind(node: Node, draft: Draft) -> None:
    """`write`, with an event in the place of an error: training goes on."""
    try:
        await write(node, draft)
    except (OSError, DeadActor) as error:
        failed(node, draft.step, error)


async def whole(node: Node) -> None:
    """`take`, then `write`."""
    await write(node, await take(node))


async def settled(node: Node) -> None:
    """Until nothing is being written; how it ended is told where it was begun."""
    if node.writing is not None:
        await asyncio.wait([node.writing])


def _finish(node: Node, draft: Draft, groups: Sequence[Group]) -> tuple[Path, int]:
    schema.write_groups(draft.folder / "pool.parquet", list(groups))
    (draft.folder / "ledger.sqlite").write_bytes(draft.ledger)
    node.ledger.sync()
    return checkpoints.finish(draft.folder, node.keep_checkpoints)


def failed(node: Node, step: int, error: Exception) -> None:
    """Tell that the checkpoint of a step is not there."""
    node.saved = False
    node.journal.event("checkpoint_failed", step=step, cause=str(error))
