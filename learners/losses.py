"""Policy losses: one pure function each, from log-probabilities to a loss per token.

Shapes: N = the tokens of a micro-batch that carry loss, flat. All tensors are float32 [N], natural logs:
`new` under the weights being trained (with gradient), `old` under the weights at the start of the learner step,
`behaviour` as the engine recorded them when it sampled. The learner sums the losses and divides by the token count of
the whole batch, which makes every loss here a token mean.

A function's keyword-only options are its schema in a recipe. Only tensor methods are used, so that reading the
signatures does not import torch. To add a loss: write the function, add it to `LOSSES`, add its slow transcription to
the tests.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor

_MAX_LOG_RATIO = 20.0  # exp(20) = 5e8: beyond it float32 overflows in the backward pass, and a clip acts long before


class Terms(NamedTuple):
    """What a loss says of each token; all [N]."""

    loss: Tensor
    """To be minimised, with gradient."""
    weight: Tensor
    """The truncated importance weight that was applied, detached."""
    clipped: Tensor
    """bool: the token's policy gradient is zero because its ratio left the clip range."""


Loss = Callable[..., Terms]


def grpo(
    new: Tensor,
    old: Tensor,
    behaviour: Tensor,
    advantage: Tensor,
    cap: float,
    *,
    clip_low: float = 0.2,
    clip_high: float = 0.28,
) -> Terms:
    """Clipped surrogate with an asymmetric range, times a truncated importance weight per token.

    With r = exp(new - old) and w = min(exp(old - behaviour), cap), a token's loss is
    `-w * min(r A, clip(r, 1 - clip_low, 1 + clip_high) A)`.

    The two ratios do two jobs: w corrects for the weights (and the engine) that sampled, r limits how far several
    updates on one batch move. With one update per batch old = new, r = 1 and nothing is clipped.

    Source: GRPO, arXiv 2402.03300, eq. 3; asymmetric range and token mean: DAPO, arXiv 2503.14476, eq. 8; separate
    proximal and behaviour policies: arXiv 2110.00641; truncation: V-trace, arXiv 1802.01561, eq. 1.
    Differs: the KL term is the learner's, since it is off by default; log r is limited to +-20.
    """
    weight = importance_weight(old, behaviour, cap)
    ratio = (new - old).clamp(-_MAX_LOG_RATIO, _MAX_LOG_RATIO).exp()
    low, high = 1.0 - clip_low, 1.0 + clip_high
    surrogate = (ratio * advantage).minimum(ratio.clamp(low, high) * advantage)
    clipped = ((advantage > 0) & (ratio > high)) | ((advantage < 0) & (ratio < low))
    return Terms(-weight * surrogate, weight, clipped.detach())


def reinforce(new: Tensor, old: Tensor, behaviour: Tensor, advantage: Tensor, cap: float) -> Terms:
    """Importance-weighted policy gradient: `-w A new` with w = min(exp(new - behaviour), cap), detached.

    Its gradient equals that of the unclipped ratio exp(new - behaviour) wherever the cap does not act.

    Source: REINFORCE, Williams 1992; truncation: V-trace, arXiv 1802.01561, eq. 1.
    Differs: `old` is not used; the weight follows the present weights through every update of a batch.
    """
    weight = importance_weight(new, behaviour, cap)
    return Terms(-weight * advantage * new, weight, (weight != weight).detach())


def importance_weight(target: Tensor, behaviour: Tensor, cap: float) -> Tensor:
    """min(exp(target - behaviour), cap) per token, detached, [N].

    Source: truncated importance sampling, V-trace, arXiv 1802.01561, eq. 1 (rho-bar is `cap`).
    """
    return (target - behaviour).detach().exp().clamp(max=cap)


def kl_k3(new: Tensor, reference: Tensor) -> Tensor:
    """Estimate of KL(policy || reference) per token, never negative: exp(d) - d - 1 with d = reference - new, [N].

    Source: estimator k3, Schulman 2020, "Approximating KL divergence"; used as in GRPO, arXiv 2402.03300, eq. 4.
    Differs: d is limited to +-20. Unbiased only for tokens sampled by the policy itself; stale tokens bias it slightly.
    """
    gap = (reference - new).clamp(-_MAX_LOG_RATIO, _MAX_LOG_RATIO)
    return gap.exp() - gap - 1.0


LOSSES: dict[str, Loss] = {"grpo": grpo, "reinforce": reinforce}
