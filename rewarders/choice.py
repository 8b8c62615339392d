"""The letter of a multiple-choice answer.

B   (b)   **B**   B.   Option B   B) Paris   \\boxed{\\text{B}}   <answer>B</answer>
The answer is (B).   The correct option is B   I choose option B   B is correct
"""

from __future__ import annotations

import re

from rewarders.verdicts import for_all, scored, unscored
from swarm.types import Group, Status, Verdict

DECORATION = re.compile(r"[*_`$]|\\(?:text|textbf|mathrm|mathbf)\s?\{")
# All repetitions are bounded or possessive: no character is looked at again and again.
PHRASE = (
    r"(?:\b(?:answer|option|choice)(?:\s(?:must|would|should))?\s{0,3}(?:\bis\b|\bare\b|\bbe\b|[:=])"
    r"|\b(?:choose|chose|select|pick)\b|\\boxed|<answer>)[\s:=]*+(?:(?:option|choice|letter)\s{1,3})?"
)
END = r"(?![\w'\u2019])"


class Choice:
    """1 where the completion claims the prompt's letter and no other, else 0.

    A claim is a line that is nothing but a letter, a text of one line that begins `B) ...`, and a letter after the
    phrases above. All claims count: two different letters are wrong, wherever they stand (`A or B`, first A and later
    B). A lower-case letter counts only alone or before a bracket or full stop: `the answer is a dog` claims nothing.
    Abstains where the prompt's answer is not one of `letters`.
    """

    def __init__(self, *, letters: str = "ABCDE") -> None:
        if not re.fullmatch(r"[A-Z]{2,26}", letters) or len(set(letters)) < len(letters):
            raise ValueError(f"letters = {letters!r}: wanted two or more different letters from A to Z")
        self.name = "choice"
        big, either = f"[{letters}]", f"[{letters}{letters.lower()}]"
        opened = r"[(\[{]{0,3}\s?"
        self._lone = re.compile(rf"\s*+(?:(?i:option|choice|answer)\s+)?[\s(\[{{]*+({either})[\s)\]}}.:]*+")
        self._first = re.compile(rf"\s*+\(?({either})[).:]\s.*")
        self._claims = (
            re.compile(rf"(?i:{PHRASE}){opened}({big}{END}|{either}(?=\s?(?:[)\]}}<.]|$)))"),
            re.compile(
                rf"(?<![\w'\u2019])({big})\)?\s{{1,3}}is\s{{1,3}}(?:the\s{{1,3}})?(?:correct|right|true|best)\b"
            ),
        )
        between = rf"(?:[)\]}}\s]{{0,4}}(?:[,;/&|]|\b(?:or|and|nor)\b)\s{{0,3}}(?:option\s)?|[)\]}}]?\s{{1,3}}){opened}"
        self._another = re.compile(rf"{between}({big}){END}")

    async def judge(self, group: Group) -> list[Verdict]:
        """One verdict per rollout, in order."""
        answer = group.prompt.answer or ""
        wanted = self._claimed(answer)
        if len(wanted) != 1:
            cause = f"the prompt's answer {answer[:80]!r} is not one choice letter"
            return for_all(group, unscored(self.name, Status.ABSTAINED, cause))
        verdicts = []
        for rollout in group.rollouts:
            found = self._claimed(rollout.text)
            cause = "" if len(found) == 1 else f"claims {', '.join(sorted(found))}" if found else "no letter found"
            verdicts.append(scored(self.name, float(found == wanted), cause=cause))
        return verdicts

    def close(self) -> None:
        """Nothing to release."""

    def _claimed(self, text: str) -> set[str]:
        """All letters that a text claims, in upper case."""
        text = DECORATION.sub("", text).strip()
        lines = text.splitlines()
        found = {match[1] for line in lines if (match := self._lone.fullmatch(line))}
        if len(lines) == 1 and (match := self._first.fullmatch(text)):
            found.add(match[1])
        for pattern in self._claims:
            for match in pattern.finditer(text):
                found.add(match[1])
                end = match.end(1)
                while also := self._another.match(text, end):  # "A or B", "A, B": claimed in one breath
                    found.add(also[1])
                    end = also.end(1)
        return {letter.upper() for letter in found}
