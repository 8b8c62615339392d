"""Verdicts into one number, the same for the learner that trains on it and the terminal that shows it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from swarm.types import Status, Verdict


def reward(verdicts: Sequence[Verdict], weights: Mapping[str, float]) -> float | None:
    """The weighted sum of a rollout's verdicts, or None where a rewarder of `weights` gave no value.

    A missing verdict is not a zero: the rollout is masked.
    """
    values = {v.rewarder: v.value for v in verdicts if v.status is Status.SCORED}
    total = 0.0
    for name, weight in weights.items():
        value = values.get(name)
        if value is None:
            return None
        total += weight * value
    return total


def labels(names: Sequence[str]) -> list[str]:
    """A name for each rewarder of a recipe: its own, with `-2`, `-3` where it appears again."""
    return [name if (n := names[: i + 1].count(name)) == 1 else f"{name}-{n}" for i, name in enumerate(names)]


def cause(verdicts: Sequence[Verdict]) -> str:
    """Why there is no reward: the first verdict without a value, in words."""
    for verdict in verdicts:
        if verdict.status is not Status.SCORED:
            return f"{verdict.rewarder}: {verdict.status}: {verdict.cause}"
    return ""
