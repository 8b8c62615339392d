"""A number within a stated tolerance of the prompt's."""

from __future__ import annotations

import math
from fractions import Fraction

from rewarders.extract import Extract, check_extract, extract
from rewarders.numeral import NOT_ASKED, is_about_percent, is_percentage, last, only
from rewarders.verdicts import for_all, scored, unscored
from swarm.types import Group, Status, Verdict


class Numeric:
    """1 where |found - answer| <= max(absolute, relative * |answer|), else 0; compared as exact fractions.

    With `extract = "number"` the last number of the completion counts; with any other way the extracted part must hold
    exactly one, so that neither a list nor `999=42` passes. Decimals, thousands, e-notation, x 10^n and fractions are
    read (`rewarders.numeral`); what is not finite is no number. With `percent` 50% is 0.5; without it 50% is 50 where
    the prompt's answer or question speaks of percent, and abstained from elsewhere if 50 is right. Units are not
    compared. Abstains where the prompt's answer does not end in a number.
    """

    def __init__(
        self, *, absolute: float = 0.0, relative: float = 0.0, percent: bool = False, extract: Extract = "number"
    ) -> None:
        check_extract(extract)
        for option, value in (("absolute", absolute), ("relative", relative)):
            if not (math.isfinite(value) and value >= 0):
                raise ValueError(f"{option} = {value}: wanted a finite number of at least 0")
        self.name = "numeric"
        self._absolute, self._relative = Fraction(absolute), Fraction(relative)
        self._percent = percent
        self._extract: Extract = extract

    async def judge(self, group: Group) -> list[Verdict]:
        """One verdict per rollout, in order."""
        answer = group.prompt.answer
        wanted = None if answer is None else last(answer, percent=self._percent)
        if wanted is None:
            cause = f"the prompt's answer {str(answer)[:80]!r} ends in no finite number"
            return for_all(group, unscored(self.name, Status.ABSTAINED, cause))
        allowed = max(self._absolute, self._relative * abs(wanted))
        bare = not self._percent and not is_about_percent(group.prompt)
        verdicts = []
        for rollout in group.rollouts:
            part = rollout.text if self._extract == "number" else extract(rollout.text, self._extract) or ""
            found = self._read(part)
            if found is None:
                verdicts.append(scored(self.name, 0.0, cause="no number found"))
            elif abs(found - wanted) > allowed:
                verdicts.append(scored(self.name, 0.0))
            elif bare and (is_percentage(part) or (is_percentage(rollout.text) and last(rollout.text) == found)):
                verdicts.append(unscored(self.name, Status.ABSTAINED, NOT_ASKED))
            else:
                verdicts.append(scored(self.name, 1.0))
        return verdicts

    def close(self) -> None:
        """Nothing to release."""

    def _read(self, part: str) -> Fraction | None:
        return (last if self._extract == "number" else only)(part, percent=self._percent)
