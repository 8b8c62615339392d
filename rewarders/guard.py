"""A guard before a judge: responses that say nothing are worth nothing, and no judge is asked about them.

    use = [{ name = "guard", of = { name = "yes_no", judge = "small" } }]

Judges of every size say YES to an opener or a punctuation mark (arXiv 2507.08794). A guarded response is scored 0, with
the cause, and does not abstain: that it is no answer is certain, and a mask would make saying nothing cheaper than
being wrong. Only where a prompt's own answer says nothing by this measure (`[]`, `+`) is nobody kept back.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from rewarders.bounds import above_zero
from rewarders.extract import Extract, check_extract, extract
from rewarders.keys import content_free
from rewarders.nested import Nested
from rewarders.verdicts import scored, unscored
from swarm.roles import Rewarder
from swarm.types import Group, Status, Verdict


def worthless(text: str, answer: str | None = None, how: Extract = "whole") -> str:
    """Why a response is worth nothing whatever the judge thinks, or "". `answer` is the prompt's; `how` is the form in
    which answers are wanted: a response without one is worthless too."""
    if answer is not None and content_free(answer):
        return ""
    found = extract(text, how)
    return "no answer found" if found is None else content_free(found)


class Guard(Nested):
    """The verdicts of another rewarder, and 0 for responses that say nothing.

    `extract` is the form in which an answer is wanted (`boxed`, `tag`, ...): what has none is guarded as well. The
    other rewarder gets the group without the guarded rollouts; `timeout_s` limits one that does not limit itself. Where
    it abstains on all of these (the prompt is not its business, or its judge is behind), the guard abstains on the
    whole group with it: zeros alone would teach nothing, and beside other rewarders they would mask the rest.
    """

    def __init__(self, *, of: Rewarder, extract: Extract = "whole", timeout_s: float = 10.0) -> None:
        check_extract(extract)
        super().__init__("guard", (of,), timeout_s)
        self._of = of
        self._extract: Extract = extract

    @staticmethod
    def problems(options: Mapping[str, Any]) -> list[str]:
        """What is wrong with these options of a recipe."""
        return above_zero("of", options["of"], "put the guard inside it, or bring its values into [0, 1] (par)")

    async def judge(self, group: Group) -> list[Verdict]:
        """One verdict per rollout, in order."""
        causes = [worthless(r.text, group.prompt.answer, self._extract) for r in group.rollouts]
        rest = [i for i, cause in enumerate(causes) if not cause]
        asked = await self._ask_some(self._of, group, rest)
        if asked and all(v.status is Status.ABSTAINED for v in asked.values()):
            verdict = unscored(self.name, Status.ABSTAINED, f"guarded, and {self._of.name} abstains on the others")
        else:
            verdict = scored(self.name, 0.0)
        return [self._guarded(verdict, c) if c else self._named(asked[i]) for i, c in enumerate(causes)]

    def _named(self, verdict: Verdict) -> Verdict:
        return replace(verdict, rewarder=self.name, version="")

    def _guarded(self, verdict: Verdict, cause: str) -> Verdict:
        return replace(verdict, cause=cause) if verdict.value is not None else verdict
