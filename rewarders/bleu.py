"""Likeness to reference answers: sentence BLEU by sacrebleu (https://github.com/mjpost/sacrebleu), in [0, 1].

Source: BLEUBERI, arXiv 2505.11080. Differs: sacrebleu instead of the hub's metric; its effective n-gram order, so
that a short text equal to a reference has the highest value too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from rewarders.killable import Killable
from rewarders.verdicts import answered, for_all, unscored
from swarm.types import Group, Status, Verdict


class Bleu:
    """BLEU / 100 against all references at once: 1 for a text equal to one of them, 0 without a common word.

    References are what the prompt's task data has under `column` (a text or a list of them), or else the prompt's
    answer; without either all abstain. `tokenize` is sacrebleu's: `char` or `zh` where words are not separated by
    spaces. `timeout_s` is for one group.
    """

    about_truth = False

    def __init__(
        self,
        *,
        column: str = "references",
        tokenize: Literal["13a", "intl", "char", "zh"] = "13a",
        timeout_s: float = 10.0,
    ) -> None:
        self.name = "bleu"
        self._column = column
        self._timeout_s = timeout_s
        self.child = Killable("rewarders.child_rules:Bleu", {"tokenize": tokenize}, memory_mb=4096)

    async def judge(self, group: Group) -> list[Verdict]:
        """One verdict per rollout, in order."""
        references = _texts(group.prompt.task.get(self._column)) or _texts(group.prompt.answer)
        if not references:
            cause = f"the prompt has no references under {self._column!r}, and no answer"
            return for_all(group, unscored(self.name, Status.ABSTAINED, cause))
        jobs = [{"text": rollout.text, "references": references} for rollout in group.rollouts]
        return [answered(self.name, reply) for reply in await self.child.ask_each(jobs, self._timeout_s)]

    def close(self) -> None:
        """Kill the child."""
        self.child.close()


def _texts(found: Any) -> list[str]:
    """The references that are not blank."""
    if hasattr(found, "tolist"):  # tables have arrays
        found = found.tolist()
    several = [found] if isinstance(found, str) else found if isinstance(found, Sequence) else []
    return [text for text in several if isinstance(text, str) and text.strip()]
