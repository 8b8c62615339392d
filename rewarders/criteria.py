"""Several yes/no questions about one response: a request each, a part each, and their weighted share as the value."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from rewarders.asking import ask_yes, block, fill, for_each, question_of, thresholded, together
from rewarders.chat import ChatModel
from rewarders.verdicts import printable, unscored
from swarm.types import Group, Rollout, Status, Verdict

Combine = Literal["mean", "all"]
LEAST_SHARE = 0.5
"""Of the weight that must have got an answer for a mean over the rest to stand for the whole."""


@dataclass(frozen=True, slots=True)
class Criterion:
    """One question: its text, which also names its part, and its weight in the mean."""

    text: str
    weight: float = 1.0


def read_criteria(given: Any, place: str) -> list[Criterion]:
    """A list of texts, or of tables with `text` and `weight`. Raises ValueError that names the place and the entry."""
    if not isinstance(given, Sequence) or isinstance(given, (str, bytes)) or not given:
        raise ValueError(f"{place} = {given!r:.60}: wanted a list of texts, or of tables with text and weight")
    found = []
    for i, entry in enumerate(given):
        table = {"text": entry} if isinstance(entry, str) else entry
        if not isinstance(table, Mapping) or not set(table) <= {"text", "weight"}:
            raise ValueError(f"{place}.{i} = {entry!r:.60}: wanted a text, or a table with text and weight")
        text, weight = table.get("text"), table.get("weight", 1.0)
        if not isinstance(text, str) or not text.strip():
            raise ValueError(f"{place}.{i}.text = {text!r:.60}: wanted a text")
        if isinstance(weight, bool) or not isinstance(weight, (int, float)) or not 0 < weight < float("inf"):
            raise ValueError(f"{place}.{i}.weight = {weight!r:.60}: wanted a number above 0")
        found.append(Criterion(text.strip(), float(weight)))
    if len({criterion.text for criterion in found}) < len(found):
        raise ValueError(f"{place}: a text stands there twice; each names a part of its own")
    return found


@dataclass(frozen=True, slots=True)
class Panel:
    """Asks one judge all criteria about each rollout.

    `combine = "mean"`: the weighted mean of the answered criteria, weights re-normalised over them; a rollout of which
    less than LEAST_SHARE of the weight was answered is abstained from. `"all"`: the least of the answers; any criterion
    without an answer abstains, unless another is a plain no (0), which settles it. A request that fails fails the
    rollout's verdict: half a rubric is not scored because of an outage.
    """

    name: str
    judge: ChatModel
    template: str
    """With `{question}`, `{criterion}` and `{response}`."""
    threshold: float | None
    combine: Combine = "mean"

    async def over(self, group: Group, criteria: Sequence[Criterion], show_question: bool) -> list[Verdict]:
        """One verdict per rollout, in order, its `parts` by criterion. Raises BudgetSpent."""
        question = question_of(group, show_question)

        async def one(rollout: Rollout) -> Verdict:
            began = time.monotonic()
            response = block("Response", rollout.text)
            shared = {"question": question, "response": response}
            messages = [fill(self.template, shared | {"criterion": block("Criterion", c.text)}) for c in criteria]
            answers = await together([ask_yes(self.judge, message) for message in messages])
            return self._verdict(criteria, answers, time.monotonic() - began)

        return await for_each(self.name, group.rollouts, one)

    def _verdict(
        self, criteria: Sequence[Criterion], answers: Sequence[tuple[float | None, str]], seconds: float
    ) -> Verdict:
        values = [None if prob is None else thresholded(prob, self.threshold) for prob, _ in answers]
        parts = {c.text: value for c, value in zip(criteria, values, strict=True) if value is not None}
        silent = [
            f"{c.text!r:.80}: {self.judge.name} answered {text!r}"
            for c, (prob, text) in zip(criteria, answers, strict=True)
            if prob is None
        ]
        cause = f"no answer to {len(silent)} of {len(criteria)} criteria: {'; '.join(silent)}" if silent else ""
        weights = {c.text: c.weight for c in criteria}
        answered = sum(weights[text] for text in parts)
        if self.combine == "all":
            enough, value = not silent or 0.0 in parts.values(), min(parts.values(), default=0.0)
        else:
            enough = answered >= LEAST_SHARE * sum(weights.values())
            value = sum(weights[text] * part for text, part in parts.items()) / answered if answered else 0.0
        if not enough:
            return unscored(self.name, Status.ABSTAINED, cause, seconds)
        return Verdict(self.name, Status.SCORED, value, printable(cause), seconds, parts=parts)
