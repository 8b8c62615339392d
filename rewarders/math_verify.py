"""Mathematical equality by math-verify 0.9 (https://github.com/huggingface/Math-Verify), in a killable process."""

from __future__ import annotations

import math

from rewarders.killable import Killable
from rewarders.numeral import NOT_ASKED, is_about_percent, is_percentage, last
from rewarders.process import ChildFailure
from rewarders.verdicts import answered, for_all, status_of, unscored
from swarm.types import Group, Status, Verdict


class MathVerify:
    """1 where the completion's answer equals the prompt's as mathematics, else 0; a hang is a timeout, never a 0.

    Abstains where the prompt has no answer, or none that reads as mathematics. Boxed answers come first; several boxed
    answers are read as a set, so listing candidates does not pay. Differs from math-verify: with `written_out` an
    answer that restates the question (12+30, 84/2, a sum sign) or chains equalities (999=42) is wrong, as is a number
    in another base; a full stop in the box, code ticks, 10\\,000, 1.2e+03 and 0.\\overline{3} are read; small numbers
    are compared relative to their size; 713% is 7.13, also 713 where answer or question speak of percent, and elsewhere
    abstained from if 713 is right; only the last 20,000 characters are read. Powers and the like that are too large to
    compute, and whatever takes more than `cpu_s` seconds of processor time, are abstained from. `timeout_s` is for one
    group.
    """

    def __init__(
        self, *, written_out: bool = True, cpu_s: float = 1.0, timeout_s: float = 10.0, memory_mb: int = 4096
    ) -> None:
        if not 0 < cpu_s < math.inf:
            raise ValueError(f"cpu_s = {cpu_s}: wanted seconds of processor time, more than 0")
        self.name = "math_verify"
        self._timeout_s = timeout_s
        options = {"written_out": written_out}
        self.child = Killable("rewarders.child_math_verify:Verifier", options, memory_mb=memory_mb, cpu_s=cpu_s)

    async def judge(self, group: Group) -> list[Verdict]:
        """One verdict per rollout, in order."""
        gold = group.prompt.answer
        if gold is None:
            return for_all(group, unscored(self.name, Status.ABSTAINED, "the prompt has no answer to compare with"))
        prepare = {"gold": gold}
        try:
            readable = await self.child.ask(prepare, self._timeout_s)
        except ChildFailure as failure:
            return for_all(group, unscored(self.name, status_of(failure), f"reading the prompt's answer: {failure}"))
        if readable is not True:
            cause = f"the prompt's answer {gold[:80]!r} does not read as mathematics that can be computed"
            return for_all(group, unscored(self.name, Status.ABSTAINED, cause))
        percent = is_about_percent(group.prompt)
        jobs = [{"gold": gold, "text": rollout.text, "percent": percent} for rollout in group.rollouts]
        verdicts = [answered(self.name, reply) for reply in await self.child.ask_each(jobs, self._timeout_s, prepare)]
        if percent or not (bare := last(gold)):  # 0% is 0
            return verdicts
        for i, (verdict, rollout) in enumerate(zip(verdicts, group.rollouts, strict=True)):
            # percent signs outside the box, and others that math-verify passes over
            if verdict.value and is_percentage(rollout.text) and last(rollout.text) == bare:
                verdicts[i] = unscored(self.name, Status.ABSTAINED, NOT_ASKED, verdict.seconds)
        return verdicts

    def close(self) -> None:
        """Kill the child."""
        self.child.close()
