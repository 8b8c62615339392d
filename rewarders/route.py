"""Each prompt to the rewarder for its kind:

{ name = "route", by = "reference", to = { number = { name = "exact" }, text = { name = "math_verify" } } }
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Literal

from rewarders.extract import NUMBER
from rewarders.nested import Nested
from rewarders.verdicts import for_all, unscored
from swarm.config import Positive, nearest
from swarm.roles import Rewarder
from swarm.types import Group, Prompt, Status, Verdict

By = Literal["source", "family", "reference"]


class Route(Nested):
    """The verdicts of the rewarder under the prompt's key in `to`, else of `otherwise`; without one it abstains.

    `by`: `source` is the name of the task source, `family` that of reasoning-gym (else the source), `reference` the
    kind of the prompt's answer: `number`, `choice` (one letter), `text` or `none`. Verdicts keep all that they carry.
    """

    def __init__(
        self,
        *,
        by: By = "source",
        to: Mapping[str, Rewarder],
        otherwise: Rewarder | None = None,
        timeout_s: Positive = 10.0,
    ) -> None:
        if by == "reference" and (unknown := [key for key in to if key not in REFERENCES]):
            raise ValueError(f"to.{unknown[0]}: not a kind of reference{nearest(unknown[0], REFERENCES)}")
        super().__init__("route", [*to.values(), *([otherwise] if otherwise else [])], timeout_s)
        self._by: By = by
        self._to, self._otherwise = dict(to), otherwise

    async def judge(self, group: Group) -> list[Verdict]:
        """One verdict per rollout, in order."""
        key = key_of(group.prompt, self._by)
        rewarder = self._to.get(key, self._otherwise)
        if rewarder is None:
            cause = f"no rewarder for {self._by} {key!r}; there is one for {', '.join(sorted(self._to))}"
            return for_all(group, unscored(self.name, Status.ABSTAINED, cause))
        return [replace(verdict, rewarder=self.name) for verdict in await self._ask(rewarder, group)]


REFERENCES = ("number", "choice", "text", "none")


def key_of(prompt: Prompt, by: By) -> str:
    """The prompt's source, family or kind of reference."""
    if by == "source":
        return prompt.source
    if by == "family":
        return str(prompt.task.get("family") or prompt.source)
    answer = (prompt.answer or "").strip()
    if not answer:
        return "none"
    if NUMBER.fullmatch(answer):
        return "number"
    return "choice" if len(answer) == 1 and answer.isalpha() else "text"
