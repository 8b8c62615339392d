"""Nothing unless a condition holds: `{ name = "gate", when = { ... }, then = { ... } }`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rewarders.bounds import above_zero
from rewarders.nested import Nested, composed, failure
from rewarders.verdicts import unscored
from swarm.config import Positive
from swarm.roles import Rewarder
from swarm.scores import CORRECT
from swarm.types import Group, Status, Verdict


class Gate(Nested):
    """The value of `then` where that of `when` is at least `at_least`, and 0 where it is less; so `then` must not go
    below 0, where a recipe tells.

    `then` is asked of the rollouts that pass only, so that a costly or gullible rewarder never sees the others. Where
    either gives no value there is none; where `then` abstains on all that pass (it has nothing to say of the prompt, or
    its judge is behind) the gate abstains on all. Parts: `when`, `then`.
    """

    def __init__(
        self, *, when: Rewarder, then: Rewarder, at_least: float = CORRECT, timeout_s: Positive = 10.0
    ) -> None:
        super().__init__("gate", (when, then), timeout_s)
        self._when, self._then = when, then
        self._at_least = at_least

    @staticmethod
    def problems(options: Mapping[str, Any]) -> list[str]:
        """What is wrong with these options of a recipe."""
        return above_zero("then", options["then"], "put the gate inside it, or bring its values into [0, 1] (par)")

    async def judge(self, group: Group) -> list[Verdict]:
        """One verdict per rollout, in order."""
        gates = await self._ask(self._when, group)
        passed = [i for i, v in enumerate(gates) if v.value is not None and v.value >= self._at_least]
        found = await self._ask_some(self._then, group, passed)
        silent = bool(found) and all(then.status is Status.ABSTAINED for then in found.values())
        return [self._verdict(gate, found.get(i), silent) for i, gate in enumerate(gates)]

    def _verdict(self, when: Verdict, then: Verdict | None, silent: bool) -> Verdict:
        if then is None:
            if bad := failure(self.name, {"when": when}):
                return bad
            if silent:
                return unscored(self.name, Status.ABSTAINED, "gate closed, and then: abstains on the others")
            return composed(self.name, 0.0, {"when": when}, cause="gate closed")
        both = {"when": when, "then": then}
        if bad := failure(self.name, both):
            return bad
        assert then.value is not None
        return composed(self.name, then.value, both, cause=then.cause, segments=then.segments)
