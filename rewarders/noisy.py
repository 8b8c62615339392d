"""Errors on purpose, at known rates, around any rewarder whose values are 0 and 1:

{ name = "noisy", of = { name = "exact" }, kind = "iid", false_accept = 0.1, false_reject = 0.2 }
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any, Literal

from pydantic import Field

from rewarders.draws import uniform
from rewarders.nested import Nested
from rewarders.route import key_of
from rewarders.verdicts import unscored
from swarm.config import NotNegative, Positive
from swarm.roles import Rewarder
from swarm.types import Group, Status, Verdict

Rate = Annotated[float, Field(ge=0, le=1)]
Pair = Annotated[list[Rate], Field(min_length=2, max_length=2)]
Kind = Literal["iid", "group", "stratum", "systematic"]
By = Literal["source", "family", "reference", "text"]


class Noisy(Nested):
    """The verdicts of `of`, some of them turned round. Parts: `clean` is the value before, `flipped` whether it was.

    kind        what is turned round
    iid         a wrong answer is accepted with probability `false_accept`, a right one rejected with `false_reject`
    group       the same, but one draw decides for the whole group: all of its right (wrong) answers, or none
    stratum     as `iid` with `rates`: stratum = [false_accept, false_reject]; those above are of all other strata. `by`
                says what strata are: sources, families or kinds of reference as in `rewarders.route`, or with `text`
                regular expressions, of which the first that is found in the answer counts
    systematic  answers in which the regular expression `pattern` is found are accepted; of the others as `iid`

    Beside it a verdict is withheld with probability `abstention`, and judging a group takes `latency_s` seconds longer.

    Draws are a function of seed, group, prompt and place in the group: judged again, a group gets the same errors.
    Source of `group`: what the code of arXiv 2505.22653 does.
    """

    def __init__(
        self,
        *,
        of: Rewarder,
        kind: Kind = "iid",
        false_accept: Rate = 0.0,
        false_reject: Rate = 0.0,
        by: By = "family",
        rates: Mapping[str, Pair] | None = None,
        pattern: str = "",
        abstention: Rate = 0.0,
        latency_s: NotNegative = 0.0,
        seed: int = 0,
        timeout_s: Positive = 10.0,
    ) -> None:
        given: dict[str, Any] = {"false_accept": false_accept, "false_reject": false_reject, "abstention": abstention}
        if latency_s < 0:
            raise ValueError(f"latency_s = {latency_s}: wanted seconds, 0 or more")
        if found := self.problems({**given, "kind": kind, "by": by, "rates": rates, "pattern": pattern}):
            raise ValueError("; ".join(found))
        super().__init__("noisy", (of,), timeout_s)
        self._of, self._kind, self._seed = of, kind, seed
        self._rates, self._abstention, self._latency_s = (false_accept, false_reject), abstention, latency_s
        self._by: By = by
        self._strata = {key: (pair[0], pair[1]) for key, pair in (rates or {}).items()}
        self._pattern = re.compile(pattern) if pattern else None

    @staticmethod
    def problems(options: Mapping[str, Any]) -> list[str]:
        """What is wrong with these options."""
        kind, rates, pattern = options.get("kind", "iid"), options.get("rates"), options.get("pattern")
        pairs = {f"rates.{key}": pair for key, pair in (rates or {}).items()}
        pairs |= {name: [options.get(name, 0.0)] for name in ("false_accept", "false_reject", "abstention")}
        found = [
            f"{name} = {pair}: wanted probabilities"
            for name, pair in pairs.items()
            if not all(0 <= p <= 1 for p in pair)
        ]
        if kind not in ("iid", "group", "stratum", "systematic"):
            found.append(f"kind = {kind!r}: wanted iid, group, stratum or systematic")
        if (kind == "stratum") != bool(rates):
            found.append(f"kind = {kind!r}: `rates` go with stratum, which needs them")
        if (kind == "systematic") != bool(pattern):
            found.append(f"kind = {kind!r}: `pattern` goes with systematic, which needs it")
        expressions = [("pattern", pattern or "")]
        if options.get("by") == "text":
            expressions += [("rates", key) for key in rates or {}]
        return found + [problem for name, text in expressions for problem in _not_regular(name, text)]

    async def judge(self, group: Group) -> list[Verdict]:
        """One verdict per rollout, in order."""
        await asyncio.sleep(self._latency_s)
        verdicts = await self._ask(self._of, group)
        return [self._verdict(verdict, group, i) for i, verdict in enumerate(verdicts)]

    def _verdict(self, verdict: Verdict, group: Group, index: int) -> Verdict:
        if verdict.value is None:
            return replace(verdict, rewarder=self.name)
        if verdict.value not in (0.0, 1.0):
            cause = f"of answered {verdict.value:g}; only 0 and 1 can be turned round"
            return unscored(self.name, Status.ERROR, cause, verdict.seconds)
        if uniform(self._seed, "abstains", group.id, group.prompt.id, index) < self._abstention:
            return unscored(self.name, Status.ABSTAINED, "withheld on purpose", verdict.seconds)
        text = group.rollouts[index].text
        flipped = self._draw(group, index) < self._rates_of(group, text)[int(verdict.value)]
        value = 1.0 - verdict.value if flipped else verdict.value
        if self._pattern is not None and self._pattern.search(text):
            value = 1.0
        clean = verdict.parts.get("clean", verdict.value)  # of the innermost, where several are nested
        parts = {**verdict.parts, "clean": clean, "flipped": float(value != clean)}
        return replace(verdict, rewarder=self.name, value=value, parts=parts)

    def _draw(self, group: Group, index: int) -> float:
        place = "all" if self._kind == "group" else index
        return uniform(self._seed, group.id, group.prompt.id, place)

    def _rates_of(self, group: Group, text: str) -> tuple[float, float]:
        """P(accepted | wrong), P(rejected | right): by the value of the verdict."""
        if not self._strata:
            return self._rates
        if self._by == "text":
            return next((pair for key, pair in self._strata.items() if re.search(key, text)), self._rates)
        return self._strata.get(key_of(group.prompt, self._by), self._rates)


def _not_regular(name: str, text: str) -> list[str]:
    try:
        re.compile(text)
    except re.error as error:
        return [f"{name} = {text!r}: not a regular expression: {error}"]
    return []
