"""A score seen against those of reference answers, so that more than enough earns little:

{ name = "par", of = { name = "reward_model", path = "..." }, column = "references" }
"""

from __future__ import annotations

from abc import abstractmethod
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any

import numpy as np
from pydantic import Field

from rewarders.curves import Floats, lsc, par
from rewarders.nested import Nested, composed, failure
from rewarders.verdicts import for_all, unscored
from swarm.config import Positive
from swarm.roles import Rewarder
from swarm.types import Finish, Group, Rollout, Status, Verdict

MOST_PROMPTS = 4096
"""Whose reference scores are kept."""


class Referenced(Nested):
    """Base of shapes. References are `scores` that are given, or texts: the prompt's answer with `column = "answer"`,
    else its task data under that key (one, or a list), which `of` judges once per prompt.

    Parts: `raw` is the score before, `reference` the references' mean. A reference without a score is a failure of all.
    """

    about_truth = False

    def __init__(self, name: str, of: Rewarder, column: str, scores: Sequence[float] | None, timeout_s: float) -> None:
        if found := self.problems({"column": column, "scores": scores}):
            raise ValueError("; ".join(found))
        super().__init__(name, (of,), timeout_s)
        self.about_truth = type(self).about_truth
        self._of, self._column = of, column
        self._given = list(scores) if scores else None
        self._known: OrderedDict[str, list[float]] = OrderedDict()

    @staticmethod
    def problems(options: Mapping[str, Any]) -> list[str]:
        """What is wrong with these options."""
        if bool(options.get("column")) == bool(options.get("scores")):
            return ["column: wanted the name of the task data that hold reference answers, or else `scores`"]
        return []

    @abstractmethod
    def shape(self, scores: Sequence[float], references: Sequence[float]) -> Floats:
        """The shaped scores."""

    async def judge(self, group: Group) -> list[Verdict]:
        """One verdict per rollout, in order."""
        references = await self._references(group)
        if isinstance(references, Verdict):
            return for_all(group, references)
        verdicts = await self._ask(self._of, group)
        return [self._verdict(verdict, references) for verdict in verdicts]

    def _verdict(self, raw: Verdict, references: Sequence[float]) -> Verdict:
        made_of = {"raw": raw}
        if raw.value is None:
            bad = failure(self.name, made_of)
            assert bad is not None
            return bad
        [shaped] = self.shape([raw.value], references)
        return composed(self.name, float(shaped), made_of, {"reference": float(np.mean(references))}, raw.cause)

    async def _references(self, group: Group) -> list[float] | Verdict:
        if self._given:
            return self._given
        known = self._known.get(group.prompt.id)
        if known is not None:
            return known
        found = group.prompt.answer if self._column == "answer" else group.prompt.task.get(self._column)
        texts = [found] if isinstance(found, str) else list(found) if isinstance(found, (list, tuple)) else []
        if not texts or not all(isinstance(text, str) for text in texts):
            cause = f"the prompt has no reference answers under {self._column!r}"
            return unscored(self.name, Status.ABSTAINED, cause)
        verdicts = await self._ask(self._of, replace(group, rollouts=tuple(map(as_rollout, texts))))
        bad = failure(self.name, {f"reference {i}": verdict for i, verdict in enumerate(verdicts)})
        if bad:
            return bad
        values = [verdict.value for verdict in verdicts if verdict.value is not None]
        self._known[group.prompt.id] = values
        if len(self._known) > MOST_PROMPTS:
            self._known.popitem(last=False)
        return values


class Par(Referenced):
    """The mean over references of sigmoid(slope (score - reference)): in [0, 1], and 0.5 for a reference's equal.

    Source: PAR, arXiv 2502.18770. Use it with an advantage that does not divide by the group's standard deviation.
    """

    def __init__(
        self,
        *,
        of: Rewarder,
        column: str = "",
        scores: list[float] | None = None,
        slope: Positive = 1.0,
        timeout_s: Positive = 10.0,
    ) -> None:
        if slope <= 0:
            raise ValueError(f"slope = {slope}: wanted a number above 0")
        super().__init__("par", of, column, scores, timeout_s)
        self._slope = slope

    def shape(self, scores: Sequence[float], references: Sequence[float]) -> Floats:
        return par(scores, references, self._slope)


class Lsc(Referenced):
    """log sigmoid(score - reference point), with the references' `quantile` as the point: sums of it ask for all
    properties at once, as "and" does. Source: arXiv 2402.00742.
    """

    def __init__(
        self,
        *,
        of: Rewarder,
        column: str = "",
        scores: list[float] | None = None,
        quantile: Annotated[float, Field(gt=0, lt=1)] = 0.85,
        timeout_s: Positive = 10.0,
    ) -> None:
        if not 0 < quantile < 1:
            raise ValueError(f"quantile = {quantile}: wanted a number between 0 and 1")
        super().__init__("lsc", of, column, scores, timeout_s)
        self._quantile = quantile

    def shape(self, scores: Sequence[float], references: Sequence[float]) -> Floats:
        return lsc(scores, references, self._quantile)


def as_rollout(text: str) -> Rollout:
    """A text that nobody sampled, to be judged like one that was."""
    return Rollout(np.zeros(0, np.int32), np.zeros(0, np.float32), (), text, Finish.STOP, np.zeros(0, bool))
