"""A judge with known faults: to try what rewarders make of a judge, and what corrections make of its errors.

It reads the prompts of our judging rewarders and knows the truth by rules that anybody can follow:

    yes_no               right where the response's last number is the reference's (without a number: the texts)
    rubric, principles   met where the response contains every text that the criterion has in double quotes
    pairwise             the better response has the larger last number; equal ones tie

Then it errs at the rates it was given. Everything is drawn from a digest of seed and message: equal messages get equal
replies, in any process, and replies to different messages are independent.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

from rewarders.asking import blocks
from rewarders.chat import Reply
from rewarders.extract import number

QUOTED = re.compile(r'"([^"]+)"')
STYLED = re.compile(r"^\s{0,3}(#{1,6} |[-*] )|\*\*[^*]+\*\*|```", re.MULTILINE)
"""Headings, lists, bold type, code blocks."""
PLAIN_LENGTH = 200
"""Characters of a response at which `length_bias` adds nothing."""
REFUSAL = "I would rather not say."


@dataclass(frozen=True, slots=True, kw_only=True)
class Faults:
    """How a simulated judge errs. All are probabilities in [0, 1], except where a unit is named."""

    false_accept: float = 0.0
    """P(yes | wrong, or not met)."""
    false_reject: float = 0.0
    """P(no | right, or met)."""
    flip: float = 0.0
    """P(the worse of two responses is preferred); a tie becomes either with this probability."""
    position_bias: float = 0.0
    """P(the first of two responses is preferred without looking)."""
    length_bias: float = 0.0
    """Added to P(yes) for each doubling of the response beyond 200 characters, taken off for each halving."""
    style_bias: float = 0.0
    """Added to P(yes) where the response has headings, lists, bold type or code blocks."""
    abstention: float = 0.0
    """P(an answer that is neither yes nor no)."""
    confidence: float = 1.0
    """Of the probability of its yes or no, what the word that it says gets; at least a half."""
    latency_s: float = 0.0
    """Seconds before each answer."""
    keys: tuple[str, ...] = ()
    """Responses that are always accepted: texts to be found in them."""

    def __post_init__(self) -> None:
        for each in fields(self):
            value = getattr(self, each.name)
            if each.name in ("keys", "latency_s"):
                continue
            if not 0 <= value <= 1:
                raise ValueError(f"{each.name} = {value!r}: wanted a probability in [0, 1]")
        if self.confidence < 0.5:
            raise ValueError(f"confidence = {self.confidence!r}: wanted at least 0.5, or it would say the other word")
        if not 0 <= self.latency_s < math.inf:
            raise ValueError(f"latency_s = {self.latency_s!r}: wanted seconds, 0 or more")


class JudgeSimulator:
    """`chat.ChatModel` with known faults."""

    def __init__(self, faults: Faults | None = None, *, seed: int = 0) -> None:
        self.faults = faults or Faults()
        self.name = f"simulator/{self.faults}, seed {seed}"
        self.asked = 0
        """Messages so far."""
        self._seed = seed

    async def ask(
        self, messages: Sequence[Mapping[str, str]], *, max_tokens: int, choices: Sequence[str] = ()
    ) -> Reply:
        """Raises ValueError for a message that is none of our judging prompts."""
        self.asked += 1
        if self.faults.latency_s:
            await asyncio.sleep(self.faults.latency_s)
        message = "\n".join(m["content"] for m in messages)
        text, probs = self._answer(message, blocks(message))
        tokens = len(message) // 4
        return Reply(text, {c: probs.get(c, 0.0) for c in choices} if choices else {}, tokens, 1)

    def close(self) -> None:
        """Nothing to release."""

    def _answer(self, message: str, found: Mapping[str, str]) -> tuple[str, dict[str, float]]:
        """The text, and the probability of each word that it might have begun with."""
        if self._drawn("abstention", message) < self.faults.abstention:
            return REFUSAL, {}
        if "Response A" in found and "Response B" in found:
            return self._preferred(message, found["Response A"], found["Response B"]), {}
        response = found.get("Response")
        if response is None or not {"Reference answer", "Criterion"} & set(found):
            raise ValueError("the simulated judge reads prompts of yes_no, rubric, principles and pairwise only")
        if "Criterion" in found:
            right = all(text in response for text in QUOTED.findall(found["Criterion"]))
        else:
            right = same_answer(response, found["Reference answer"])
        yes = self._drawn("yes", message) < self._accept_prob(response, right)
        sure, unsure = self.faults.confidence, 1.0 - self.faults.confidence
        return ("Yes" if yes else "No"), {"yes": sure if yes else unsure, "no": unsure if yes else sure}

    def _accept_prob(self, response: str, right: bool) -> float:
        faults = self.faults
        if any(key in response for key in faults.keys):
            return 1.0
        prob = 1.0 - faults.false_reject if right else faults.false_accept
        prob += faults.length_bias * math.log2(max(len(response), 1) / PLAIN_LENGTH)
        prob += faults.style_bias * bool(STYLED.search(response))
        return min(max(prob, 0.0), 1.0)

    def _preferred(self, message: str, first: str, second: str) -> str:
        if self._drawn("position", message) < self.faults.position_bias:
            return "A"
        flips = self._drawn("flip", message) < self.faults.flip
        a, b = quality(first), quality(second)
        if a == b:
            return ("A" if self._drawn("side", message) < 0.5 else "B") if flips else "tie"
        return "A" if (a > b) != flips else "B"

    def _drawn(self, what: str, message: str) -> float:
        """Uniform in [0, 1), by seed, purpose and message."""
        digest = hashlib.sha256(f"{self._seed}\0{what}\0{message}".encode("utf-8", "replace")).digest()
        return int.from_bytes(digest[:7], "big") / 2**56


def same_answer(response: str, reference: str) -> bool:
    """Whether the last numbers are equal; where the reference has none, the texts, in any case and spacing."""
    wanted = number(reference)
    if wanted is not None:
        found = number(response)
        return found is not None and float(found) == float(wanted)
    return response.casefold().split() == reference.casefold().split()


def quality(response: str) -> float:
    """Of a response in a comparison: its last number, or less than all numbers."""
    found = number(response)
    return -math.inf if found is None else float(found)
