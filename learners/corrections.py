"""Off-policy corrections: a weight per token for having been sampled by other weights, or by another engine.

Each is a pure function of `gap` [N], the log-probability under the proximal policy minus that recorded at sampling
(nats, detached), of `rollout` int64 [N] and `lengths` float [R] as in `learners.losses.Tokens`. The result is float
[N] >= 0 and multiplies the loss; a rollout's spans of several policy versions need nothing more, since the recorded
log-probabilities are those of the version that sampled each token.

A function's keyword-only options are its schema in a recipe. Only tensor methods are used: no import of torch. To add
one: write it, add it to `CORRECTIONS`, add its slow transcription to the tests.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from swarm.config import NotNegative, Positive

if TYPE_CHECKING:
    from torch import Tensor

Correction = Callable[..., "Tensor"]

_MAX_LOG_WEIGHT = 20.0  # exp(20) = 5e8, far above every sensible bound


def none(gap: Tensor, rollout: Tensor, lengths: Tensor) -> Tensor:
    """1: as if sampled by the proximal policy."""
    return gap.new_ones(len(gap))


def truncated(gap: Tensor, rollout: Tensor, lengths: Tensor, *, cap: Positive = 2.0) -> Tensor:
    """min(exp(gap), cap) per token.

    Source: truncated importance sampling, V-trace, arXiv 1802.01561, eq. 1 (rho-bar is `cap`).
    """
    return gap.clamp(max=_MAX_LOG_WEIGHT).exp().clamp(max=cap)


def masked(gap: Tensor, rollout: Tensor, lengths: Tensor, *, low: NotNegative = 0.5, high: Positive = 5.0) -> Tensor:
    """exp(gap) where it lies in [low, high], else 0: a token that both sides see too differently is not learned from.

    Source: IcePop, Ring-1T, arXiv 2510.18855.
    """
    weight = gap.clamp(max=_MAX_LOG_WEIGHT).exp()
    return weight * ((weight >= low) & (weight <= high))


def sequence(gap: Tensor, rollout: Tensor, lengths: Tensor, *, cap: Positive = 2.0) -> Tensor:
    """min(exp(sum of gap over the rollout), cap) for all its tokens: the unbiased ratio, truncated. Its variance grows
    with length.

    Source: sequence-level truncated importance sampling, arXiv 1802.01561, eq. 1, with a rollout as the action.
    """
    return _per_rollout(gap, rollout, lengths).clamp(max=_MAX_LOG_WEIGHT).exp().clamp(max=cap)[rollout]


def geometric(gap: Tensor, rollout: Tensor, lengths: Tensor, *, low: NotNegative = 0.9, high: Positive = 1.1) -> Tensor:
    """1 for all tokens of a rollout whose geometric-mean ratio exp(mean of gap) lies in [low, high], else 0.

    The mean does not grow with length, so one range serves all. Source: the ratio of GSPO, arXiv 2507.18071, eq. 7, as
    a test of whole rollouts. Differs: peers use ranges of a hundredth or less around 1, for engines that agree to
    rounding; this one also has to let a lag of some steps pass.
    """
    mean = (_per_rollout(gap, rollout, lengths) / lengths).clamp(max=_MAX_LOG_WEIGHT).exp()
    return ((mean >= low) & (mean <= high)).to(gap.dtype)[rollout]


def _per_rollout(gap: Tensor, rollout: Tensor, lengths: Tensor) -> Tensor:
    """Sums of `gap` over each rollout: [R]."""
    return gap.new_zeros(len(lengths)).index_add(0, rollout, gap)


CORRECTIONS: dict[str, Correction] = {
    "none": none,
    "truncated": truncated,
    "masked": masked,
    "sequence": sequence,
    "geometric": geometric,
}
