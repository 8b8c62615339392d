"""Making verdicts: from a value, from a child's reply, or one cause for a whole group."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from rewarders.killable import Reply
from rewarders.process import ChildFailure, ChildOverspent, ChildTimeout
from swarm.types import Group, Status, Verdict

LONGEST_CAUSE = 1000
STEERING = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
"""Control characters but tab and line feed, and those that turn the direction of text round."""


def scored(
    name: str, value: float, seconds: float = 0.0, cause: str = "", parts: Mapping[str, float] | None = None
) -> Verdict:
    """A value; `cause` may say how it came about, `parts` what it is made of."""
    return Verdict(name, Status.SCORED, float(value), printable(cause), seconds, parts=parts or {})


def unscored(name: str, status: Status, cause: str, seconds: float = 0.0) -> Verdict:
    """An abstention or a failure."""
    return Verdict(name, status, None, printable(cause), seconds)


def failed(name: str, reply: Reply) -> Verdict:
    """The verdict for a job of which the child gave no answer."""
    assert reply.failure
    return unscored(name, status_of(reply.failure), str(reply.failure), reply.seconds)


def status_of(failure: ChildFailure) -> Status:
    """What a failure is as a verdict. Too costly to judge is an abstention: asking again would cost as much again."""
    if isinstance(failure, ChildOverspent):
        return Status.ABSTAINED
    return Status.TIMEOUT if isinstance(failure, ChildTimeout) else Status.ERROR


def answered(name: str, reply: Reply) -> Verdict:
    """The verdict for a child's reply `[value, why]`, where a value of None abstains."""
    if reply.failure:
        return failed(name, reply)
    match reply.value:
        case [None, str(why)]:
            return unscored(name, Status.ABSTAINED, why, reply.seconds)
        case [value, str(why)] if number(value) is not None:
            return scored(name, value, reply.seconds, why)
        case _:
            return unscored(name, Status.ERROR, "the child broke its protocol", reply.seconds)


def for_all(group: Group, verdict: Verdict) -> list[Verdict]:
    """The same verdict for each rollout."""
    return [verdict] * len(group.rollouts)


def number(value: Any) -> float | None:
    """A finite number that came from a child, or None where it is anything else."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        return None
    return float(value)


def printable(cause: str) -> str:
    """Encodable (causes quote hostile text, and go into Arrow columns), without what steers a terminal, and not too
    long."""
    safe = STEERING.sub(lambda found: found[0].encode("unicode_escape").decode(), cause[:LONGEST_CAUSE])
    return safe.encode("utf-8", "backslashreplace").decode()[:LONGEST_CAUSE]
