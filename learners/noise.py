"""Correction of verdicts for the known error rates of their rewarders.

    verdict (value, rates as stamped when it was judged) -> corrected value -> weighted sum -> advantage

A correction is a function of `values`, `p0` = P(accepted | wrong) and `p1` = P(rejected | right), all float64 [n], and
gives float64 [n]; options are keyword-only. Each verdict is corrected by its own rates, before weights are summed; one
without rates stays as it is. Source: arXiv 2510.00915, whose channel is E[r | truth] = (1 - p0 - p1) truth + p0.

Both are affine in the verdict, so a group's z-score takes them off again wherever its rollouts share one pair of rates,
and one pair for all prompts changes nothing but the step size even without (appendix B.10 there). `cluster.check`
refuses the first; the audit shows the second.

Corrected values lie outside [0, 1] and mean something on average only: whatever compares, votes, clips or filters reads
the verdicts as they were given.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from swarm.config import Positive
from swarm.types import Group, Verdict

Floats = NDArray[np.float64]
Correction = Callable[..., Floats]


def none(values: Floats, p0: Floats, p1: Floats) -> Floats:
    """As given."""
    return values


def backward(values: Floats, p0: Floats, p1: Floats, *, least_j: Positive = 0.1) -> Floats:
    """(r - p0) / c, c = max(1 - p0 - p1, least_j): unbiased, E = truth, where c is not limited.

    Source: arXiv 2510.00915, PGBC. Differs: the default of the limit is ours.
    """
    return (values - p0) / np.maximum(1.0 - p0 - p1, least_j)


def forward(values: Floats, p0: Floats, p1: Floats, *, scaled: bool = True, least_j: Positive = 0.1) -> Floats:
    """(r - (1 - p1)) / c: right answers get 0 on average, wrong ones -1. Without `scaled` c is 1, and p0 not used.

    For no baseline: any that centres takes 1 - p1 off again. Source: arXiv 2510.00915, PGFC.
    """
    found = values - (1.0 - p1)
    return found / np.maximum(1.0 - p0 - p1, least_j) if scaled else found


def corrected(group: Group, correction: Correction) -> Group:
    """The group with the values of its verdicts corrected."""
    return group.with_verdicts([tuple(_corrected(v, correction) for v in r.verdicts) for r in group.rollouts])


def _corrected(verdict: Verdict, correction: Correction) -> Verdict:
    if verdict.value is None or verdict.rates is None:
        return verdict
    rates = verdict.rates
    value = correction(*(np.array([x]) for x in (verdict.value, rates.false_accept, rates.false_reject)))
    return replace(verdict, value=float(value[0]))


@dataclass(frozen=True, slots=True)
class Audit:
    """What a correction did to the advantages of a step, against those without it, at the same baseline and scale."""

    change_mean: float
    """Mean absolute difference of a rollout's advantage."""
    change_max: float
    cosine: float
    """Of the two vectors of all advantages; 1 where both are 0."""
    largest: float
    """Absolute advantage without it."""

    @property
    def is_noop(self) -> bool:
        """Whether there were advantages and none changed, up to what an epsilon in a scale leaves."""
        return self.largest > 0.0 and self.change_max < 1e-5

    @classmethod
    def of(cls, before: Sequence[Floats], after: Sequence[Floats]) -> Audit:
        """From the advantages of all rollouts, float64 [C] each; of a rollout its mean over tokens counts."""
        a, b = (np.array([values.mean() if len(values) else 0.0 for values in part]) for part in (before, after))
        change, norms = np.abs(b - a), float(np.linalg.norm(a) * np.linalg.norm(b))
        same = not change.any()
        cosine = float(a @ b) / norms if norms else float(same)
        mean = float(change.mean()) if len(change) else 0.0
        return cls(mean, float(change.max(initial=0.0)), cosine, float(np.abs(a).max(initial=0.0)))


NOISES: dict[str, Correction] = {"none": none, "backward": backward, "forward": forward}

NEEDS_NO_BASELINE = frozenset({"forward"})
"""Those that a baseline cancels."""
