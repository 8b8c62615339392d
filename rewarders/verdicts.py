"""Making verdicts: from a value, from a child's reply, or one cause for a whole group."""

from __future__ import annotations

import math
from typing import Any

from rewarders.killable import Reply
from rewarders.process import ChildTimeout
from swarm.types import Group, Status, Verdict

LONGEST_CAUSE = 1000


def scored(name: str, value: float, seconds: float = 0.0, cause: str = "") -> Verdict:
    """A value; `cause` may say how it came about."""
    return Verdict(name, Status.SCORED, float(value), printable(cause), seconds)


def unscored(name: str, status: Status, cause: str, seconds: float = 0.0) -> Verdict:
    """An abstention or a failure."""
    return Verdict(name, status, None, printable(cause), seconds)


def failed(name: str, reply: Reply) -> Verdict:
    """The verdict for a job of which the child gave no answer."""
    status = Status.TIMEOUT if isinstance(reply.failure, ChildTimeout) else Status.ERROR
    return unscored(name, status, str(reply.failure), reply.seconds)


def for_all(group: Group, verdict: Verdict) -> list[Verdict]:
    """The same verdict for each rollout."""
    return [verdict] * len(group.rollouts)


def number(value: Any) -> float | None:
    """A finite number that came from a child, or None where it is anything else."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        return None
    return float(value)


def printable(cause: str) -> str:
    """Encodable (causes quote hostile text, and go into Arrow columns) and not too long."""
    return cause.encode("utf-8", "backslashreplace").decode()[:LONGEST_CAUSE]
