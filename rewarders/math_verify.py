"""Mathematical equality by math-verify 0.9 (https://github.com/huggingface/Math-Verify), in a killable process."""

from __future__ import annotations

from rewarders.killable import Killable
from rewarders.process import ChildFailure, ChildTimeout
from rewarders.verdicts import failed, for_all, number, scored, unscored
from swarm.types import Group, Status, Verdict


class MathVerify:
    """1 where the completion's answer equals the prompt's as mathematics, else 0; a hang is a timeout, never a 0.

    Abstains where the prompt has no answer, or none that reads as mathematics. Boxed answers come first; several boxed
    answers are read as a set, so listing candidates does not pay. Differs from math-verify: with `written_out` an
    answer that restates the question (12+30, 84/2, a sum sign) or chains equalities (999=42) is wrong; a full stop in
    the box and code ticks are forgiven; only the last 20,000 characters are read. Numbers as 1.2e+03 are not read.
    `timeout_s` is for one group.
    """

    def __init__(self, *, written_out: bool = True, timeout_s: float = 10.0, memory_mb: int = 4096) -> None:
        self.name = "math_verify"
        self._timeout_s = timeout_s
        options = {"written_out": written_out}
        self.child = Killable("rewarders.child_math_verify:Verifier", options, memory_mb=memory_mb)

    async def judge(self, group: Group) -> list[Verdict]:
        """One verdict per rollout, in order."""
        gold = group.prompt.answer
        if gold is None:
            return for_all(group, unscored(self.name, Status.ABSTAINED, "the prompt has no answer to compare with"))
        prepare = {"gold": gold}
        try:
            readable = await self.child.ask(prepare, self._timeout_s)
        except ChildFailure as failure:
            status = Status.TIMEOUT if isinstance(failure, ChildTimeout) else Status.ERROR
            return for_all(group, unscored(self.name, status, f"reading the prompt's answer: {failure}"))
        if readable is not True:
            cause = f"the prompt's answer {gold[:80]!r} does not read as mathematics"
            return for_all(group, unscored(self.name, Status.ABSTAINED, cause))
        jobs = [{"gold": gold, "text": rollout.text} for rollout in group.rollouts]
        verdicts = []
        for reply in await self.child.ask_each(jobs, self._timeout_s, prepare):
            if reply.failure:
                verdicts.append(failed(self.name, reply))
                continue
            match reply.value:
                case [0.0 | 1.0 as value, str(why)] if number(value) is not None:
                    verdicts.append(scored(self.name, value, reply.seconds, why))
                case _:
                    verdicts.append(unscored(self.name, Status.ERROR, "the verifier broke its protocol", reply.seconds))
        return verdicts

    def close(self) -> None:
        """Kill the child."""
        self.child.close()
