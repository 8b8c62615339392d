"""reasoning-gym's own scorers (https://github.com/open-thought/reasoning-gym, 0.1.25), in a killable process.

The entry is regenerated from `prompt.task` (`family`, `seed`, `size`, `index`, `config`), so that nothing a sender says
about the answer is trusted. Where the prompt's text or answer is not that of the regenerated entry, all verdicts are
errors: isomorphic_strings, knight_swap, polynomial_multiplication, ransom_note and word_ladder iterate over sets, so
their entries depend on PYTHONHASHSEED (0 here unless the parent has it set; set it where prompts are made too).

The values are the scorers', partial credit included, but for those that `rewarders.child_gym_holes` mends.
"""

from __future__ import annotations

import time
from typing import Any

from rewarders.extract import Extract, check_extract, extract
from rewarders.killable import Killable
from rewarders.numeral import NOT_ASKED, is_about_percent, is_percentage
from rewarders.process import ChildFailure
from rewarders.verdicts import failed as failed_verdict
from rewarders.verdicts import for_all, number, scored, status_of, unscored
from swarm.scores import CORRECT
from swarm.types import Group, Status, Verdict

KEYS = ("family", "seed", "size", "index", "config")


class ReasoningGym:
    """The family's own value in [0, 1]; abstains where the prompt is not from reasoning-gym.

    `extract` says how the answer is taken from the completion; a completion without one scores 0. With "number" a
    percentage that would be paid as a bare number is abstained from, unless the prompt speaks of percent. `full_only`
    turns partial credit (below 1) into 0. `timeout_s` is for one group, `memory_mb` the child's address space (0:
    unlimited).
    """

    accept = CORRECT - 1e-6
    """Partial credit is no acceptance."""

    def __init__(
        self, *, extract: Extract = "whole", full_only: bool = False, timeout_s: float = 10.0, memory_mb: int = 4096
    ) -> None:
        check_extract(extract)
        self.name = "reasoning_gym"
        self._extract: Extract = extract
        self._full_only = full_only
        self._timeout_s = timeout_s
        self.child = Killable("rewarders.child_reasoning_gym:Scorer", memory_mb=memory_mb)

    async def judge(self, group: Group) -> list[Verdict]:
        """One verdict per rollout, in order."""
        task = {key: group.prompt.task[key] for key in KEYS if key in group.prompt.task}
        task.setdefault("config", {})
        missing = [key for key in KEYS if key not in task]
        if missing:
            cause = f"not a reasoning-gym prompt: its task data lacks {', '.join(missing)}"
            return for_all(group, unscored(self.name, Status.ABSTAINED, cause))
        task["config"] = dict(task["config"])
        prepare = {"task": task, "prepare": True}
        began = time.monotonic()
        try:
            entry = await self.child.ask(prepare, self._timeout_s)
        except ChildFailure as failure:
            cause = f"the entry of {task['family']} could not be regenerated: {failure}"
            return for_all(group, unscored(self.name, status_of(failure), cause, time.monotonic() - began))
        if problem := _differs(group, entry):
            return for_all(group, unscored(self.name, Status.ERROR, problem))
        bare = self._extract == "number" and not is_about_percent(group.prompt)
        answers = [extract(rollout.text, self._extract) for rollout in group.rollouts]
        jobs = [{"task": task, "answer": answer} for answer in answers if answer is not None]
        replies = iter(await self.child.ask_each(jobs, self._timeout_s, prepare))
        verdicts = []
        for rollout, answer in zip(group.rollouts, answers, strict=True):
            if answer is None:
                verdicts.append(scored(self.name, 0.0, cause="no answer found"))
                continue
            reply = next(replies)
            verdict = failed_verdict(self.name, reply) if reply.failure else self._verdict(reply.value, reply.seconds)
            if verdict.value and bare and is_percentage(rollout.text):
                verdict = unscored(self.name, Status.ABSTAINED, NOT_ASKED, reply.seconds)
            verdicts.append(verdict)
        return verdicts

    def close(self) -> None:
        """Kill the child."""
        self.child.close()

    def _verdict(self, value: Any, seconds: float) -> Verdict:
        value_or_none = number(value)
        if value_or_none is None or not 0 <= value_or_none <= 1:
            cause = f"the scorer answered {str(value)[:50]}; wanted a number in [0, 1]"
            return unscored(self.name, Status.ERROR, cause, seconds)
        if self._full_only and value_or_none < 1:
            return scored(self.name, 0.0, seconds)
        return scored(self.name, value_or_none, seconds)


def _differs(group: Group, entry: Any) -> str | None:
    prompt = group.prompt
    same_answer = prompt.answer is None or entry["answer"] is None or prompt.answer == entry["answer"]
    same_question = " ".join(entry["question"].split()) in " ".join(prompt.text.split())
    if same_answer and same_question:
        return None
    what = "question" if same_answer else "answer"
    return (
        f"the entry regenerated from the task data has another {what} than the prompt; was the prompt made with another"
        " reasoning-gym version, other config or another PYTHONHASHSEED?"
    )
