"""How this program calls processes of Ray: what an error becomes, and how long is waited."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import ray
from ray.exceptions import RayTaskError

from swarm.errors import SwarmError

BOOT_TRIES = 3
"""Processes of one worker that may fail to start in a row before the run gives up."""

CLOSE_S = 10.0
"""How long a process may take to close before it is killed."""

Notice = Callable[..., None]
"""`notice(kind, **facts)`: an event for the journal."""


async def own(ref: Awaitable[Any]) -> Any:
    """Await a Ray reference; an error of our own tree that a worker raised comes out as itself, and so does what the
    system refused."""
    try:
        return await ref
    except RayTaskError as error:
        if isinstance(error.cause, SwarmError | OSError):
            raise error.cause from None
        raise


def brief(error: Exception) -> str:
    """The first line of an error that says something, without Ray's page of advice."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


def host_of(_worker: Any) -> str:
    """The host (Ray's node id) of the worker in whose process this runs."""
    return str(ray.get_runtime_context().get_node_id())
