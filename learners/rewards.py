"""Verdicts into rewards into advantages, for the groups of an update.

A rollout without a reward (some rewarder of the recipe gave no value) is masked: it leaves its group, as if it had not
been generated. A group with fewer than two rewards cannot be centred; all its advantages are 0.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from learners.advantages import Floats, PerRollout, Scored
from learners.truncation import Truncation, keep
from swarm.scores import rewards
from swarm.types import Finish, Group, Rollout, Segment

_BASELINE_STAYS = 0.8
"""Of a family's running mean reward with each of its groups."""


@dataclass(frozen=True, slots=True)
class Centred:
    """A group with its rewards; the sequences have one entry per rollout, in order."""

    group: Group
    rewards: tuple[float | None, ...]
    """None where the rollout is masked."""
    advantages: tuple[Floats, ...]
    """float64 [C] each; 0 where the rollout is masked."""

    @property
    def is_flat(self) -> bool:
        """Whether no token has an advantage."""
        return not any(values.any() for values in self.advantages)


@dataclass(slots=True)
class Treatment:
    """How a recipe turns verdicts into advantages, and what it remembers between batches."""

    weights: Mapping[str, float]
    """Rewarder label -> factor."""
    advantage: Callable[[Sequence[Scored]], list[PerRollout]]
    truncation: Truncation = keep
    penalises: bool = False
    """Whether `truncation` is a reward of its own, beside those of the rewarders."""
    max_tokens: int = 0
    """The recipe's limit of a completion."""
    group_size: int = 0
    """The recipe's; a group of another size is weighted so that every prompt counts the same. 0: none is."""
    baselines: dict[str, float] = field(default_factory=dict)
    """Running mean reward by task family; part of a checkpoint."""

    def centre(self, groups: Sequence[Group]) -> list[Centred]:
        """Rewards and advantages of the groups of a step. Then the families' running means take these in."""
        seen = [self._rewards(group) for group in groups]
        kept = [[i for i, value in enumerate(values) if value is not None] for values, _ in seen]
        usable = [n for n, which in enumerate(kept) if len(which) >= 2]
        scored = [self._scored(groups[n], *seen[n], kept[n]) for n in usable]
        found = dict(zip(usable, self.advantage(scored) if scored else [], strict=True))
        out = []
        for n, group in enumerate(groups):
            advantages = [np.zeros(len(r.tokens)) for r in group.rollouts]
            share = self.group_size / len(group.rollouts) if self.group_size else 1.0
            for i, value in zip(kept[n], found.get(n, ()), strict=n in found):
                advantages[i][:] = value
                advantages[i] *= share
            out.append(Centred(group, seen[n][0], tuple(advantages)))
        for n, group in enumerate(groups):
            self._remember(group, [v for v in seen[n][0] if v is not None])
        return out

    def _rewards(self, group: Group) -> tuple[tuple[float | None, ...], Floats]:
        """Rewards, and the part of each that is the treatment of truncated rollouts (float64 [G])."""
        values = rewards([rollout.verdicts for rollout in group.rollouts], self.weights)
        kept = [i for i, value in enumerate(values) if value is not None]
        change = np.zeros(len(values))
        if kept:
            lengths = np.array([len(group.rollouts[i].tokens) for i in kept], np.int64)
            cut = np.array([group.rollouts[i].finish is Finish.LENGTH for i in kept])
            given = np.array([values[i] for i in kept], np.float64)
            change[kept] = self.truncation(given, lengths, cut, self.max_tokens)
        final = tuple(
            None if value is None or np.isnan(c) else value + float(c) for value, c in zip(values, change, strict=True)
        )
        return final, change

    def _scored(self, group: Group, values: Sequence[float | None], change: Floats, kept: Sequence[int]) -> Scored:
        rollouts = [group.rollouts[i] for i in kept]
        components = np.array([[*_values(r, self.weights), change[i]] for r, i in zip(rollouts, kept, strict=True)])
        if not self.penalises:
            components[components[:, -1] != 0.0] = 0.0  # what a cut rollout lost, it lost of every rewarder
        return Scored(
            rewards=np.array([values[i] for i in kept], np.float64),
            components=components,
            weights=np.array([*self.weights.values(), 1.0]),
            lengths=np.array([len(r.tokens) for r in rollouts], np.int64),
            baseline=self.baselines.get(family(group)),
            segments=tuple(_segments(r) for r in rollouts),
        )

    def _remember(self, group: Group, values: Sequence[float]) -> None:
        if values:
            mean, name = float(np.mean(values)), family(group)
            before = self.baselines.get(name, mean)
            self.baselines[name] = _BASELINE_STAYS * before + (1.0 - _BASELINE_STAYS) * mean


def family(group: Group) -> str:
    """The task family whose questions are taken as alike: reasoning-gym's, else the source."""
    return str(group.prompt.task.get("family") or group.prompt.source)


def _values(rollout: Rollout, weights: Mapping[str, float]) -> list[float]:
    given = {v.rewarder: v.value for v in rollout.verdicts if v.value is not None}
    return [given.get(name, np.nan) for name in weights]


def _segments(rollout: Rollout) -> tuple[Segment, ...]:
    """Of the first rewarder that judged steps."""
    return next((v.segments for v in rollout.verdicts if v.segments), ())
