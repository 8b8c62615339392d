"""Verdicts into one number, the same for the learner that trains on it, the loop that filters by it, the prompt
selection that learns from it, and the terminal that shows it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np

from swarm.types import PromptStats, Status, Verdict

CORRECT = 1.0
"""A rewarder takes an answer for right when its value, before any weight, is at least this; see `correct`."""


def rewards(group: Sequence[Sequence[Verdict]], weights: Mapping[str, float]) -> tuple[float | None, ...]:
    """One reward per rollout of a group, given each rollout's verdicts: the weighted sum over the rewarders that apply.

    A rewarder that abstains on the whole group does not apply to its prompt and is left out (functions in TRL's
    signature answer None for prompts that are not theirs). Where one that applies gave a rollout no value the rollout
    has no reward: None, which masks it. A missing verdict is never a zero.
    """
    applying = _applying(group, weights)
    return tuple(_reward(verdicts, {n: w for n, w in weights.items() if n in applying}) for verdicts in group)


def correct(
    group: Sequence[Sequence[Verdict]], weights: Mapping[str, float], truth: Collection[str]
) -> tuple[bool | None, ...]:
    """Which rollouts are right: those to which each rewarder of `truth` (those of `weights` that judge whether answers
    are right) that applies gives at least `CORRECT`, whatever the weights, and whatever others pay for format or
    length. Where no such rewarder applies, those whose reward is at least that. None where a value is missing.
    """
    judges = _applying(group, truth)
    if not judges:
        return tuple(None if reward is None else reward >= CORRECT for reward in rewards(group, weights))
    return tuple(_right(verdicts, judges) for verdicts in group)


def _applying(group: Sequence[Sequence[Verdict]], names: Collection[str]) -> set[str]:
    """Those that do not abstain on the whole group."""
    statuses: dict[str, set[Status]] = {name: set() for name in names}
    for verdict in (v for verdicts in group for v in verdicts if v.rewarder in statuses):
        statuses[verdict.rewarder].add(verdict.status)
    return {name for name, found in statuses.items() if found != {Status.ABSTAINED}}


def _right(verdicts: Sequence[Verdict], judges: Collection[str]) -> bool | None:
    values = {v.rewarder: v.value for v in verdicts if v.value is not None}
    if any(name not in values for name in judges):
        return None
    return all(values[name] >= CORRECT for name in judges)


def _reward(verdicts: Sequence[Verdict], weights: Mapping[str, float]) -> float | None:
    values = {v.rewarder: v.value for v in verdicts if v.value is not None}
    if not weights or any(name not in values for name in weights):
        return None
    return sum(weight * values[name] for name, weight in weights.items())


def is_flat(rewards: Sequence[float | None]) -> bool:
    """Whether a group has nothing to teach by comparison: fewer than two rewards, or all of them equal."""
    known = {reward for reward in rewards if reward is not None}
    return len(known) < 2


def stats_of(
    prompt_id: str,
    source: str,
    rewards: Sequence[float | None],
    gradient: float | None = None,
    diversity: float | None = None,
) -> PromptStats:
    """What a group's rewards say of its prompt."""
    known = [reward for reward in rewards if reward is not None]
    return PromptStats(
        id=prompt_id,
        source=source,
        num=len(known),
        mean=float(np.mean(known)) if known else float("nan"),
        variance=float(np.var(known)) if known else 0.0,
        gradient=gradient,
        diversity=diversity,
    )


def labels(names: Sequence[str]) -> list[str]:
    """A name for each rewarder or task source of a recipe: its own, with `-2`, `-3` where it appears again."""
    return [name if (n := names[: i + 1].count(name)) == 1 else f"{name}-{n}" for i, name in enumerate(names)]


def cause(verdicts: Sequence[Verdict]) -> str:
    """Why there is no reward: the first verdict without a value, in words."""
    for verdict in verdicts:
        if verdict.status is not Status.SCORED:
            return f"{verdict.rewarder}: {verdict.status}: {verdict.cause}"
    return ""
