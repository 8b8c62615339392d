"""Correction of verdicts for the known error rates of their rewarders.

    verdict (value, rates as stamped when it was judged) -> corrected value -> weighted sum -> advantage

A correction is a function of `values`, `p0` = P(accepted | wrong) and `p1` = P(rejected | right), all float64 [n], and
gives float64 [n]; options are keyword-only. Each verdict is corrected by its own rates, before weights are summed; one
without rates stays as it is. Source: arXiv 2510.00915, whose channel is E[r | truth] = (1 - p0 - p1) truth + p0.

Both are affine in the verdict, so a group's z-score takes them off again wherever its rollouts share one pair of rates,
and one pair for all prompts changes nothing but the step size even without (appendix B.10 there). `cluster.check`
refuses the first; the audit shows the second.

What bounds a correction: c is at least `least_j`, so that no value is multiplied by more than 1 / least_j (10) however
small 1 - p0 - p1 is; the whole gradient then by `learners.grad_clip`. A verdict whose rates leave nothing (1 - p0 - p1
at or below 0) is left out like a failure: limited to least_j it would be multiplied too, the wrong way round.

Corrected values lie outside [0, 1] and mean something on average only: whatever compares, votes, clips or filters reads
the verdicts as they were given.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from swarm.config import Positive
from swarm.types import Group, Rates, Status, Verdict

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


def signal(rates: Rates) -> float:
    """J = 1 - p0 - p1: what a verdict tells of the truth; nothing at 0, and less than nothing below."""
    return 1.0 - rates.false_accept - rates.false_reject


def corrected(group: Group, correction: Correction) -> Group:
    """The group with the values of its verdicts corrected; those that tell nothing have none any more."""
    return group.with_verdicts([tuple(_corrected(v, correction) for v in r.verdicts) for r in group.rollouts])


def _corrected(verdict: Verdict, correction: Correction) -> Verdict:
    if verdict.value is None or verdict.rates is None:
        return verdict
    rates = verdict.rates
    if signal(rates) <= 0.0:
        return replace(verdict, status=Status.ABSTAINED, value=None, segments=(), cause="its rates leave no signal")
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


def findings(groups: Sequence[Group], labels: Collection[str], audit: Audit) -> dict[str, str]:
    """What a reader of the journal should know of a step's correction, by kind: that it did nothing, or could not."""
    verdicts = [
        v for g in groups for r in g.rollouts for v in r.verdicts if v.value is not None and v.rewarder in labels
    ]
    rated = [(signal(v.rates), v) for v in verdicts if v.rates is not None]
    found = {}
    if verdicts and not rated:
        found["no rates"] = (
            "no verdict carries error rates, so none is corrected; rewarders.channels knows too little so far "
            "(rewarders.channels.least observations of right and of wrong answers each)"
        )
    silent = [(j, v) for j, v in rated if j <= 0.0]
    if silent:
        j, worst = min(silent, key=lambda item: item[0])
        assert worst.rates is not None
        found["no signal"] = (
            f"{len(silent)} of {len(verdicts)} verdicts tell nothing and are left out; the worst: {worst.rewarder}, "
            f"stratum {worst.stratum!r}: false accepts {worst.rates.false_accept:.2f} + false rejects "
            f"{worst.rates.false_reject:.2f}, so J = {j:.2f}; mend the rewarder, or leave it out for these questions"
        )
    if audit.is_noop and any(0.0 < j < 1.0 for j, _ in rated):
        found["no effect"] = (
            "verdicts carry error rates, but no advantage changed: learners.advantage takes off what the correction "
            "does; leave it out, or use leave_one_out"
        )
    return found


NOISES: dict[str, Correction] = {"none": none, "backward": backward, "forward": forward}

NEEDS_NO_BASELINE = frozenset({"forward"})
"""Those that a baseline cancels."""
