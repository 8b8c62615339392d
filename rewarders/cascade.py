"""A cheap rule, and an appeal for some of those it rejects:

{ name = "cascade", rule = { name = "exact" }, appeal = { ... }, share = 0.1 }
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from rewarders.draws import uniform
from rewarders.nested import Nested, composed, failure
from swarm.config import Positive
from swarm.roles import Rewarder
from swarm.scores import CORRECT
from swarm.types import Group, Verdict


class Cascade(Nested):
    """The rule's verdict; of the answers that it rejects (below 1) a `share` is drawn and judged by `appeal` as well.

    The draw is a function of seed, prompt and text: the same answer is drawn again, or never. Parts: `rule`,
    `appeal_prob` (the share), `appeal` (where one was drawn and gave a value) and `appeal_decides`, which is what a
    Horvitz-Thompson estimate of the rule's false rejects needs. With `replaces` the appeal's value is that of the
    verdict, and where a drawn appeal gives none there is none; otherwise it feeds that estimate only.
    Source: appeals of arXiv 2510.00915; with `replaces` and `share` 1, TinyV's add-on mode, arXiv 2505.14625.
    """

    def __init__(
        self,
        *,
        rule: Rewarder,
        appeal: Rewarder,
        share: Annotated[float, Field(gt=0, le=1)] = 0.1,
        replaces: bool = False,
        seed: int = 0,
        timeout_s: Positive = 10.0,
    ) -> None:
        if not 0 < share <= 1:
            raise ValueError(f"share = {share}: wanted a probability above 0")
        super().__init__("cascade", (rule, appeal), timeout_s)
        self._rule, self._appeal = rule, appeal
        self._share, self._replaces, self._seed = share, replaces, seed

    async def judge(self, group: Group) -> list[Verdict]:
        """One verdict per rollout, in order."""
        rules = await self._ask(self._rule, group)
        rejected = [i for i, v in enumerate(rules) if v.value is not None and v.value < CORRECT]
        texts = [rollout.text for rollout in group.rollouts]
        drawn = [i for i in rejected if uniform(self._seed, group.prompt.id, texts[i]) < self._share]
        appeals = await self._ask_some(self._appeal, group, drawn)
        return [self._verdict(rule, appeals.get(i)) for i, rule in enumerate(rules)]

    def _verdict(self, rule: Verdict, appeal: Verdict | None) -> Verdict:
        made_of = {"rule": rule} | ({"appeal": appeal} if appeal else {})
        decides = appeal if appeal and self._replaces else rule
        if decides.value is None:
            bad = failure(self.name, made_of)
            assert bad is not None
            return bad
        parts = {"appeal_prob": self._share, "appeal_decides": float(self._replaces)}
        return composed(self.name, decides.value, made_of, parts, decides.cause, decides.segments)
