"""Rewarders with faults that are known, to be found by what examines rewarders."""

from __future__ import annotations

import random
from collections.abc import Callable

from rewarders.verdicts import scored
from swarm.types import Group, Prompt, Verdict


class Weak:
    """Right where the text is the answer, or `also(prompt, text)` says so; `seen` are the groups it was given."""

    def __init__(self, also: Callable[[Prompt, str], bool] = lambda prompt, text: False) -> None:
        self.name = "weak"
        self.also = also
        self.seen: list[Group] = []

    async def judge(self, group: Group) -> list[Verdict]:
        self.seen.append(group)
        return [scored(self.name, self._value(group.prompt, r.text)) for r in group.rollouts]

    def close(self) -> None:
        pass

    def _value(self, prompt: Prompt, text: str) -> float:
        return float(text.strip() == prompt.answer or self.also(prompt, text))


class Random(Weak):
    """A coin."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        self._rng = random.Random(seed)

    def _value(self, prompt: Prompt, text: str) -> float:
        return float(self._rng.random() < 0.5)


def key_of(*keys: str) -> Callable[[Prompt, str], bool]:
    """Accepts these texts whatever the question."""
    return lambda prompt, text: text in keys


def sums(num: int) -> list[Prompt]:
    """Questions with one number for an answer."""
    return [Prompt(f"p{i}", f"What is {i} + {2 * i + 1}?", str(3 * i + 1), "sums") for i in range(10, 10 + num)]
