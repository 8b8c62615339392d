"""A rule and a soft score, mixed: `{ name = "hybrid", rule = { ... }, soft = { ... }, weight = 0.5 }`."""

from __future__ import annotations

import asyncio
from typing import Annotated

from pydantic import Field

from rewarders.nested import Nested, composed, failure
from rewarders.verdicts import unscored
from swarm.config import Positive
from swarm.roles import Rewarder
from swarm.types import Group, Status, Verdict


class Hybrid(Nested):
    """(1 - w) rule + w soft, with w = weight |2 soft - 1|: a judge that is sure has its full weight, one at 0.5 none.

    Both must be in [0, 1], so the value is. Where either gives no value there is none, except that a judge which
    abstains on the whole group (it is behind, or its budget is spent) has no weight: then the rule's values stand.
    Parts: `rule`, `soft`, `share` (w). Source: the mix of TinyV, arXiv 2505.14625. Differs: there w is fixed.
    """

    def __init__(
        self,
        *,
        rule: Rewarder,
        soft: Rewarder,
        weight: Annotated[float, Field(gt=0, le=1)] = 0.5,
        timeout_s: Positive = 10.0,
    ) -> None:
        if not 0 < weight <= 1:
            raise ValueError(f"weight = {weight}: wanted a share above 0, at most 1")
        super().__init__("hybrid", (rule, soft), timeout_s)
        self._rule, self._soft = rule, soft
        self._weight = weight

    async def judge(self, group: Group) -> list[Verdict]:
        """One verdict per rollout, in order."""
        rules, softs = await asyncio.gather(self._ask(self._rule, group), self._ask(self._soft, group))
        silent = all(soft.status is Status.ABSTAINED for soft in softs)
        return [self._verdict({"rule": r, "soft": s}, silent) for r, s in zip(rules, softs, strict=True)]

    def _verdict(self, both: dict[str, Verdict], silent: bool) -> Verdict:
        if bad := failure(self.name, {"rule": both["rule"]} if silent else both):
            return bad
        values = {place: verdict.value for place, verdict in both.items() if verdict.value is not None}
        for place, value in values.items():
            if not 0 <= value <= 1:
                return unscored(self.name, Status.ERROR, f"{place} answered {value:g}; a hybrid needs values in [0, 1]")
        soft = values.get("soft", 0.5)
        share = self._weight * abs(2 * soft - 1)
        mixed = (1 - share) * values["rule"] + share * soft
        return composed(self.name, mixed, both, {"share": share})
