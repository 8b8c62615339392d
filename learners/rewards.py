"""Verdicts into rewards into advantages, for the groups of an update.

    verdicts -> corrected for noise -> weighted sum -> treatment of cut rollouts -> advantage -> weight of its length

A rollout without a reward (some rewarder of the recipe gave no value) is masked: it leaves its group, as if it had not
been generated. A group with fewer than two rewards cannot be centred; all its advantages are 0.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from learners import failures
from learners.advantages import Floats, PerRollout, Scored, variance_within
from learners.noise import Audit, Correction, corrected, findings
from learners.truncation import Truncation, keep
from swarm.scores import rewards
from swarm.types import Finish, Group, Rollout, Segment

_BASELINE_STAYS = 0.8
"""Of a family's running mean reward with each of its groups."""
_VARIANCE_STAYS = 0.9
"""Of the running variance with each step."""


@dataclass(frozen=True, slots=True)
class Centred:
    """A group with its rewards; the sequences have one entry per rollout, in order."""

    group: Group
    rewards: tuple[float | None, ...]
    """As the rewarders gave them, after the treatment of cut rollouts; None where the rollout is masked."""
    advantages: tuple[Floats, ...]
    """float64 [C] each, of corrected verdicts; 0 where the rollout is masked."""

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
    noise: Correction | None = None
    """Of verdicts, by their rates; None: they stay as they are."""
    reweighs: bool = False
    """Whether judged rollouts stand for those of their length that could not be judged."""
    baselines: dict[str, float] = field(default_factory=dict)
    """Running mean reward by task family."""
    variance: float | None = None
    """Running mean of the rewards' variance within groups."""
    judged: failures.Counts = field(default_factory=dict)
    """How many were judged, by length."""
    audit: Audit | None = None
    """What the correction did in the last step; no part of the state."""
    told: list[str] = field(default_factory=list)
    """Kinds of findings about the correction that were told."""
    news: dict[str, str] = field(default_factory=dict)
    """Findings of the last step that were not told before, by kind; no part of the state."""

    def centre(self, groups: Sequence[Group]) -> list[Centred]:
        """Rewards and advantages of the groups of a step. Then what is remembered takes these in."""
        seen = [self._rewards(group) for group in groups]
        given = [values for values, _ in seen]
        if self.reweighs:
            self.judged = failures.counted(self.judged, self._judged(groups))
        advantages = self._advantages(groups, seen)
        if self.noise is not None:
            plain = advantages
            groups_ = [corrected(group, self.noise) for group in groups]
            seen = [self._rewards(group) for group in groups_]
            advantages = self._advantages(groups_, seen)
            self.audit = Audit.of([a for part in plain for a in part], [a for part in advantages for a in part])
            found = findings(groups, self.weights, self.audit)
            self.news = {kind: cause for kind, cause in found.items() if kind not in self.told}
            self.told = [*self.told, *self.news]
        for group, values in zip(groups, given, strict=True):
            self._remember(group, [v for v in values if v is not None])
        self._remember_variance([values for values, _ in seen])
        return [Centred(*item) for item in zip(groups, given, map(tuple, advantages), strict=True)]

    def state(self) -> dict[str, Any]:
        """JSON-able: what a resume needs."""
        return {"baselines": self.baselines, "variance": self.variance, "judged": self.judged, "told": self.told}

    def restore(self, state: Mapping[str, Any]) -> None:
        """What `state` gave."""
        self.baselines, self.variance, self.judged = state["baselines"], state["variance"], state["judged"]
        self.told = state["told"]

    def weight(self, rollout: Rollout) -> float:
        """How many rollouts a judged one stands for."""
        return failures.weight(self.judged, len(rollout.tokens)) if self.reweighs else 1.0

    def _advantages(
        self, groups: Sequence[Group], seen: Sequence[tuple[tuple[float | None, ...], Floats]]
    ) -> list[list[Floats]]:
        """Of every rollout of every group, float64 [C]. A weight multiplies the advantage and not its baseline, which
        may be anything that the rollout itself has no part in."""
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
                advantages[i] *= share * self.weight(group.rollouts[i])
            out.append(advantages)
        return out

    def _judged(self, groups: Sequence[Group]) -> Iterator[tuple[int, bool]]:
        """Length of each rollout, and whether it was given a reward; that a cut one is masked is no failure."""
        for group in groups:
            values = rewards([rollout.verdicts for rollout in group.rollouts], self.weights)
            yield from ((len(r.tokens), v is not None) for r, v in zip(group.rollouts, values, strict=True))

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
            variance=self.variance,
        )

    def _remember(self, group: Group, values: Sequence[float]) -> None:
        if values:
            mean, name = float(np.mean(values)), family(group)
            before = self.baselines.get(name, mean)
            self.baselines[name] = _BASELINE_STAYS * before + (1.0 - _BASELINE_STAYS) * mean

    def _remember_variance(self, values: Sequence[Sequence[float | None]]) -> None:
        known = [np.array([v for v in group if v is not None]) for group in values]
        known = [group for group in known if len(group) >= 2]
        if known:
            now = variance_within(known)
            before = now if self.variance is None else self.variance
            self.variance = _VARIANCE_STAYS * before + (1.0 - _VARIANCE_STAYS) * now


def family(group: Group) -> str:
    """The task family whose questions are taken as alike: reasoning-gym's, else the source."""
    return str(group.prompt.task.get("family") or group.prompt.source)


def _values(rollout: Rollout, weights: Mapping[str, float]) -> list[float]:
    given = {v.rewarder: v.value for v in rollout.verdicts if v.value is not None}
    return [given.get(name, np.nan) for name in weights]


def _segments(rollout: Rollout) -> tuple[Segment, ...]:
    """Of the first rewarder that judged steps."""
    return next((v.segments for v in rollout.verdicts if v.segments), ())
