"""Right, wrong, or honest about not knowing: TruthRL's ternary reward (arXiv 2509.25760) over another rewarder.

Where a wrong answer costs as much as a right one earns, answering pays only above an even chance of being right. Noise
in the rule moves that threshold.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

from rewarders.extract import last_line
from rewarders.nested import Nested, composed, failure
from swarm.config import Positive
from swarm.roles import Rewarder
from swarm.scores import CORRECT
from swarm.types import Group, Verdict

PHRASES = (
    "i don't know",
    "i do not know",
    "i'm not sure",
    "i am not sure",
    "i cannot answer",
    "i can't answer",
    "i'm unable to answer",
    "i am unable to answer",
    "not enough information",
)


class Truth(Nested):
    """1 where `rule` says right (at least 1), 0 where the completion declines to answer, else -1; parts say which.

    It declines where its last line that is not blank holds one of `phrases` (case and kind of apostrophe do not
    matter). Declining comes before the rule, right or wrong: an answer with "I don't know" after it must not be a bet
    that cannot be lost. Where the rule itself abstains or fails there is no verdict: that is not the policy's doubt.
    """

    def __init__(self, *, rule: Rewarder, phrases: Sequence[str] = PHRASES, timeout_s: Positive = 10.0) -> None:
        if not phrases or not all(phrase.strip() for phrase in phrases):
            raise ValueError(f"phrases = {list(phrases)!r}: wanted at least one, none of them blank")
        super().__init__("truth", (rule,), timeout_s)
        self._rule = rule
        self._phrases = [_plain(phrase) for phrase in phrases]

    async def judge(self, group: Group) -> list[Verdict]:
        """One verdict per rollout, in order."""
        verdicts = await self._ask(self._rule, group)
        return [self._ternary(v, r.text) for v, r in zip(verdicts, group.rollouts, strict=True)]

    def _ternary(self, verdict: Verdict, text: str) -> Verdict:
        if bad := failure(self.name, {"rule": verdict}):
            return bad
        assert verdict.value is not None
        said = _plain(last_line(text))
        declined = any(phrase in said for phrase in self._phrases)
        right = not declined and verdict.value >= CORRECT
        parts = {"right": float(right), "declined": float(declined), "wrong": float(not right and not declined)}
        return composed(self.name, parts["right"] - parts["wrong"], {"rule": verdict}, parts, verdict.cause)


def _plain(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", text).casefold().replace("\u2019", "'").split())
