"""Verdicts into rewards into advantages, group by group.

A rollout without a reward (some rewarder of the recipe gave no value) is masked: it leaves its group, as if it had not
been generated. A group with fewer than two rewards cannot be centred; all its advantages are 0.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from learners.advantages import Floats
from swarm.scores import rewards
from swarm.types import Group


@dataclass(frozen=True, slots=True)
class Centred:
    """A group with its rewards; both sequences have one entry per rollout, in order."""

    group: Group
    rewards: tuple[float | None, ...]
    """None where the rollout is masked."""
    advantages: Floats
    """float64 [G]; 0 where the rollout is masked."""

    @property
    def is_flat(self) -> bool:
        """Whether no rollout has an advantage."""
        return not self.advantages.any()


def centre(group: Group, weights: Mapping[str, float], advantage: Callable[[Floats], Floats]) -> Centred:
    """Rewards by `weights` (rewarder name -> factor), and `advantage` over those that are not masked."""
    values = rewards([rollout.verdicts for rollout in group.rollouts], weights)
    scored = [i for i, value in enumerate(values) if value is not None]
    advantages = np.zeros(len(values))
    if len(scored) >= 2:
        advantages[scored] = advantage(np.array([values[i] for i in scored], np.float64))
    return Centred(group, values, advantages)
