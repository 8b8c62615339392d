"""Exact match with the prompt's answer, after a stated normalisation."""

from __future__ import annotations

import unicodedata
from fractions import Fraction

from rewarders.extract import Extract, check_extract, extract
from rewarders.extract import number as last_number
from rewarders.numeral import NOT_ASKED, finite, is_about_percent, is_percentage
from rewarders.verdicts import for_all, scored, unscored
from swarm.types import Group, Status, Verdict


class Exact:
    """1 where the extracted answer equals the prompt's, else 0; abstains where the prompt has no answer.

    Both sides are normalised: Unicode NFC (not NFKC, which makes 5 squared into 52), runs of white space become one
    space, ends stripped, and letters folded with `ignore_case`. With `extract = "number"` the last number of each side
    is compared by value: 1,000 = 1000.0; a percentage that equals the answer as a bare number is abstained from, unless
    the prompt's answer or question speaks of percent.
    """

    def __init__(self, *, extract: Extract = "whole", ignore_case: bool = False) -> None:
        check_extract(extract)
        self.name = "exact"
        self._extract: Extract = extract
        self._ignore_case = ignore_case

    async def judge(self, group: Group) -> list[Verdict]:
        """One verdict per rollout, in order."""
        answer = group.prompt.answer
        if answer is None:
            return for_all(group, unscored(self.name, Status.ABSTAINED, "the prompt has no answer to compare with"))
        if self._extract == "number":
            answer = last_number(answer)
            if answer is None:
                cause = f"the prompt's answer {group.prompt.answer!r} holds no number"
                return for_all(group, unscored(self.name, Status.ABSTAINED, cause))
        wanted = self._normal(answer)
        if wanted is None:
            cause = f"the prompt's answer {answer[:80]!r} is out of float64's range"
            return for_all(group, unscored(self.name, Status.ABSTAINED, cause))
        bare = self._extract == "number" and not is_about_percent(group.prompt)
        verdicts = []
        for rollout in group.rollouts:
            found = extract(rollout.text, self._extract)
            if found is None:
                verdicts.append(scored(self.name, 0.0, cause="no answer found"))
            elif self._normal(found) != wanted:
                verdicts.append(scored(self.name, 0.0))
            elif bare and is_percentage(rollout.text):
                verdicts.append(unscored(self.name, Status.ABSTAINED, NOT_ASKED))
            else:
                verdicts.append(scored(self.name, 1.0))
        return verdicts

    def close(self) -> None:
        """Nothing to release."""

    def _normal(self, text: str) -> str | Fraction | None:
        if self._extract == "number":
            return finite(text)
        text = " ".join(unicodedata.normalize("NFC", text).split())
        return text.casefold() if self._ignore_case else text
