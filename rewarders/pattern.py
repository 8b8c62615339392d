"""A regular expression over the completion: format rewards."""

from __future__ import annotations

import re
from typing import Literal

from rewarders.killable import Killable
from rewarders.verdicts import answered
from swarm.types import Group, Verdict

HOW = {"full": "fullmatch", "search": "search"}


class Pattern:
    """1 where the whole completion (`how = "full"`) or a part of it (`search`) matches, else 0.

    Python's syntax, with flags inside the pattern: `(?s)<think>.*</think>.*`. Matching runs in a killable process,
    because a pattern such as `(a+)+b` takes for ever on some texts: such a text is a timeout, not a 0. `timeout_s` is
    for one group.
    """

    about_truth = False

    def __init__(self, *, pattern: str, how: Literal["full", "search"] = "full", timeout_s: float = 10.0) -> None:
        if how not in HOW:
            raise ValueError(f"how = {how!r}: wanted one of {', '.join(HOW)}")
        try:
            re.compile(pattern)
        except (re.error, RecursionError, OverflowError) as error:
            raise ValueError(f"pattern = {pattern!r}: not a regular expression: {error}") from error
        self.name = "pattern"
        self._timeout_s = timeout_s
        self.child = Killable("rewarders.child_rules:Matcher", {"pattern": pattern, "how": HOW[how]})

    async def judge(self, group: Group) -> list[Verdict]:
        """One verdict per rollout, in order."""
        replies = await self.child.ask_each([rollout.text for rollout in group.rollouts], self._timeout_s)
        return [answered(self.name, reply) for reply in replies]

    def close(self) -> None:
        """Kill the child."""
        self.child.close()
