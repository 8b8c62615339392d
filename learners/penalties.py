"""Terms beside the policy loss: the divergence from the initial policy. Each is float [N] per token, natural logs.

All three estimate KL(policy || reference) from tokens that the policy sampled; stale tokens bias them slightly. Their
gradients differ: k1 and k2 have that of the divergence (in expectation), k3 has that of the divergence the other way
round near the reference. Only tensor methods are used: no import of torch.

Source: Schulman 2020, "Approximating KL divergence"; gradients: arXiv 2506.09477.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

_MAX_LOG_RATIO = 20.0  # exp(20) = 5e8: beyond it float32 overflows in the backward pass


def kl_k1(new: Tensor, reference: Tensor) -> Tensor:
    """new - reference: unbiased, of either sign, of large variance.

    The plain gradient of this value is 0 in expectation. Here it is that of the divergence by the score function,
    (new - reference) grad new, as if the value had been taken off the reward.
    """
    gap = (new - reference).detach()
    return gap + gap * (new - new.detach())


def kl_k2(new: Tensor, reference: Tensor) -> Tensor:
    """(new - reference)^2 / 2: never negative, of small bias."""
    return (new - reference).square() / 2


def kl_k3(new: Tensor, reference: Tensor) -> Tensor:
    """exp(d) - d - 1 with d = reference - new: unbiased and never negative. As in GRPO, arXiv 2402.03300, eq. 4.

    Differs: d is limited to +-20.
    """
    gap = (reference - new).clamp(-_MAX_LOG_RATIO, _MAX_LOG_RATIO)
    return gap.exp() - gap - 1.0


KL_ESTIMATORS: dict[str, Callable[..., Tensor]] = {"k1": kl_k1, "k2": kl_k2, "k3": kl_k3}
