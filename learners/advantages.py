"""Advantages: rewards of a batch's groups, centred.

An advantage takes the groups of a step (n >= 2 scored rollouts each; `learners.rewards` leaves the others out) and
gives each rollout a number for all its tokens, or a float64 [C] with one for each. Equal rewards give exactly 0 for
every rollout of a group, so that it can be skipped; without the check rounding of the mean would leave 1e-17 and cost a
forward pass. (`receiver_baseline` and `no_baseline` are exceptions, on purpose.)

A function's keyword-only options are its schema in a recipe. To add one: write it, add it to `ADVANTAGES`, add its
slow transcription to the tests.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from swarm.config import NotNegative, Positive
from swarm.types import Segment

Floats = NDArray[np.float64]
ROUNDING = 1e-9
"""Weights of 0.7, 0.2 and 0.1 may add up to a little more than 1."""


@dataclass(frozen=True, slots=True)
class Scored:
    """The n >= 2 rollouts of one group that have a reward, in order."""

    rewards: Floats
    """float64 [n]: what the recipe makes of the verdicts, after the treatment of truncated rollouts."""
    components: Floats
    """float64 [n, K]: the value of each rewarder, and of a length penalty as the last; NaN where one does not apply."""
    weights: Floats
    """float64 [K]: the factor of each component in the reward."""
    lengths: NDArray[np.int64]
    """int64 [n]: completion tokens."""
    baseline: float | None = None
    """Running mean reward of the group's task family at this learner; None before the first group of the family."""
    segments: tuple[tuple[Segment, ...], ...] = ()
    """The judged steps of each rollout, where a rewarder gave any."""
    variance: float | None = None
    """Running mean over steps of the rewards' variance within groups; None in the first step."""


PerRollout = Floats | list[Floats | float]
"""An entry for each rollout: one number for all its tokens, or float64 [C]."""

Advantage = Callable[..., list[PerRollout]]


def group_norm(groups: Sequence[Scored], *, eps: NotNegative = 1e-4) -> list[PerRollout]:
    """(r - mean) / (std + eps), with the sample standard deviation (divisor n - 1).

    Source: GRPO, arXiv 2402.03300, section 4.1.2. Differs: `eps`, which the paper does not have.
    """
    return [_centred(g.rewards) / (_std(g.rewards) + eps) for g in groups]


def mean_only(groups: Sequence[Scored]) -> list[PerRollout]:
    """r - mean: no division, so hard and easy questions keep their own scale.

    Source: Dr. GRPO, arXiv 2503.20783, section 3.2.
    """
    return [_centred(g.rewards) for g in groups]


def leave_one_out(groups: Sequence[Scored]) -> list[PerRollout]:
    """r minus the mean of the others: an unbiased baseline; equals mean_only times n / (n - 1).

    Source: RLOO, arXiv 2402.14740, eq. 5.
    """
    return [_loo(g.rewards) for g in groups]


def batch_std(groups: Sequence[Scored], *, eps: NotNegative = 1e-4) -> list[PerRollout]:
    """(r - mean of the group) / (std of that over the batch + eps): rare and common rewards keep their proportion.

    Source: DLER, arXiv 2510.15110, and REINFORCE++, arXiv 2501.03262.
    Differs: the batch's mean is not taken off, since it is 0 up to rounding.
    """
    return _over_batch([_centred(g.rewards) for g in groups], eps)


def running_std(groups: Sequence[Scored], *, floor: Positive = 1e-3) -> list[PerRollout]:
    """`leave_one_out` / max(s, floor), s the root of the running mean of the variance within groups.

    No group is scaled by its own rewards, so corrected verdicts keep what a correction did to them. The first step's s
    is its own. Source: arXiv 2510.00915, the scale of PGBC; that it is this mean is our choice.
    """
    scale = _running(groups, floor)
    return [_loo(g.rewards) / scale for g in groups]


def no_baseline(groups: Sequence[Scored], *, scaled: bool = False, floor: Positive = 1e-3) -> list[PerRollout]:
    """The reward itself; with `scaled` divided as in `running_std`. Source: REINFORCE, Williams 1992."""
    scale = _running(groups, floor) if scaled else 1.0
    return [g.rewards / scale for g in groups]


def gdpo(groups: Sequence[Scored], *, eps: NotNegative = 1e-4) -> list[PerRollout]:
    """Each rewarder normalised in its group, then their weighted sum, then divided by its std over the batch.

    A sum of rewards forgets which of them varied: with it (0, 1) and (1, 1) against (0, 0) are the same advantage.
    A component that does not vary in the group, or does not apply to it, contributes exactly 0.
    Source: GDPO, arXiv 2601.05242. Differs: as `batch_std` in the batch's mean.
    """
    sums = []
    for g in groups:
        total = np.zeros(len(g.rewards))
        for values, weight in zip(g.components.T, g.weights, strict=True):
            if np.isfinite(values).all():
                total += weight * _centred(values) / (_std(values) + eps)
        sums.append(total)
    return _over_batch(sums, eps)


def bnpo(groups: Sequence[Scored]) -> list[PerRollout]:
    """(r - m) / f(m), f the density of a Beta distribution fitted to the group means m of the batch.

    With a and b from the moments of m, the density is Beta(1 + a/3, 1 + b/3), which minimises the gradient's variance
    for means of that distribution; 1 / f is at most 1e6. Rewards are in [0, 1], else ValueError. Means that cannot be
    fitted (a single group, all equal, or wider than any Beta) give f = 1: `mean_only`.
    Source: BNPO, arXiv 2506.02864. Compare at tuned learning rates: its scale is its own.
    """
    for g in groups:
        low, high = g.rewards.min(), g.rewards.max()
        if low < -ROUNDING or high > 1.0 + ROUNDING:
            raise ValueError(
                f"learners.advantage = bnpo: needs rewards in [0, 1], found {low:g} to {high:g}; change rewarders.use "
                "or their weights, or take another advantage"
            )
    means = np.array([g.rewards.mean() for g in groups])
    alpha, beta = (1.0 + x / 3.0 for x in _beta_moments(means))
    return [_centred(g.rewards) * _inverse_density(m, alpha, beta) for g, m in zip(groups, means, strict=True)]


def receiver_baseline(
    groups: Sequence[Scored], *, floor: Positive = 0.05, low: float = -1.0, high: float = 3.0
) -> list[PerRollout]:
    """clip((r - b) / sqrt(b (1 - b) + floor), low, high), b the learner's own running success rate of the family.

    A group that is right throughout still teaches a learner whose b is low. Rewards are in [0, 1]; b is limited to it.
    The first group of a family has its own mean for b.
    Source: a proposal of this system's notes on SAPO (arXiv 2509.08721), not of that paper.
    """
    out: list[PerRollout] = []
    for g in groups:
        b = min(max(float(g.rewards.mean()) if g.baseline is None else g.baseline, 0.0), 1.0)
        out.append(((g.rewards - b) / math.sqrt(b * (1.0 - b) + floor)).clip(low, high))
    return out


def pure(groups: Sequence[Scored], *, temperature: Positive = 0.1, outcome: float = 0.0) -> list[PerRollout]:
    """Credit for judged steps by their minimum: float64 [C] per rollout.

    With step values v, step k is given w_k v_k, w = softmax(-v / temperature), so that the sum is about the smallest;
    a token's return is the sum from its step on (one between two steps belongs to the next, one after the last has 0),
    and its advantage that minus the mean return of all tokens of the group's other rollouts. Per token, because a mean
    over steps rewards fewer and longer ones. `outcome` adds that much of `leave_one_out` on the merged reward. Rollouts
    without segments have return 0.
    Source: PURE, arXiv 2504.15275. Differs: the baseline's mean is over tokens of the other rollouts.
    """
    out: list[PerRollout] = []
    for g in groups:
        steps = g.segments or ((),) * len(g.rewards)
        returns = [_min_form(s, int(n), temperature) for s, n in zip(steps, g.lengths, strict=True)]
        sums, counts = np.array([r.sum() for r in returns]), g.lengths.astype(np.float64)
        others = (sums.sum() - sums) / np.maximum(counts.sum() - counts, 1.0)
        whole = outcome * _loo(g.rewards)
        flat = all(np.array_equal(r, np.full(len(r), returns[0][0] if len(returns[0]) else 0.0)) for r in returns)
        out.append([(0.0 if flat else r - b) + w for r, b, w in zip(returns, others, whole, strict=True)])
    return out


def _min_form(steps: Sequence[Segment], length: int, temperature: float) -> Floats:
    """Return of each of `length` tokens."""
    returns = np.zeros(length)
    if not steps:
        return returns
    values = np.array([s.value for s in steps])
    weight = np.exp(-(values - values.min()) / temperature)
    to_go = np.cumsum((weight / weight.sum() * values)[::-1])[::-1]
    for step, value in zip(reversed(steps), reversed(to_go.tolist()), strict=True):
        returns[: step.end] = value
    return returns


def _centred(rewards: Floats) -> Floats:
    if np.ptp(rewards) == 0.0:
        return np.zeros(len(rewards))
    return rewards - float(rewards.mean())


def _loo(rewards: Floats) -> Floats:
    return _centred(rewards) * (len(rewards) / (len(rewards) - 1))


def _running(groups: Sequence[Scored], floor: float) -> float:
    if not groups:
        return 1.0
    variance = groups[0].variance
    return max(math.sqrt(variance_within([g.rewards for g in groups]) if variance is None else variance), floor)


def variance_within(rewards: Sequence[Floats]) -> float:
    """Mean over groups (at least one) of the sample variance of their rewards."""
    return float(np.mean([values.var(ddof=1) for values in rewards]))


def _std(values: Floats) -> float:
    return float(values.std(ddof=1))


def _over_batch(centred: Sequence[Floats], eps: float) -> list[PerRollout]:
    scale = float(np.concatenate(centred).std()) + eps if centred else 1.0
    return [values / scale for values in centred]


def _beta_moments(means: Floats) -> tuple[float, float]:
    """a, b of the Beta distribution with the mean and variance of `means`; 0, 0 where there is none."""
    mean, variance = float(means.mean()), float(means.var())
    if variance == 0.0 or (size := mean * (1.0 - mean) / variance - 1.0) <= 0.0:
        return 0.0, 0.0
    return mean * size, (1.0 - mean) * size


def _inverse_density(m: float, alpha: float, beta: float) -> float:
    if not 0.0 < m < 1.0:
        return 1.0  # rewards are all 0 or all 1: the advantage is 0
    log_b = math.lgamma(alpha) + math.lgamma(beta) - math.lgamma(alpha + beta)
    log_f = (alpha - 1.0) * math.log(m) + (beta - 1.0) * math.log1p(-m) - log_b
    return min(math.exp(min(-log_f, 20.0)), 1e6)


ADVANTAGES: dict[str, Advantage] = {
    "group_norm": group_norm,
    "mean_only": mean_only,
    "leave_one_out": leave_one_out,
    "batch_std": batch_std,
    "running_std": running_std,
    "no_baseline": no_baseline,
    "gdpo": gdpo,
    "bnpo": bnpo,
    "receiver_baseline": receiver_baseline,
    "pure": pure,
}

TEACHES_FLAT = frozenset({"receiver_baseline", "pure", "gdpo", "no_baseline"})
"""Those that may differ from 0 in a group whose rewards are equal."""

Z_SCORED = frozenset({"group_norm", "gdpo"})
"""Those that divide by a group's own standard deviation."""

RESCALED = frozenset({"batch_std", "running_std"})
"""Those that divide by the deviation of rewards over several groups: one affine map of all rewards does nothing."""

NOT_LINEAR = frozenset({"bnpo", "receiver_baseline"})
"""Those that need rewards in [0, 1], or clip."""

CENTRES = frozenset(ADVANTAGES) - {"no_baseline", "receiver_baseline"}
"""Those that take off the mean of a group."""
