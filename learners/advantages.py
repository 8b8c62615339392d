"""Advantages: rewards of one group, centred in the group.

G = the scored rollouts of a group, G >= 2 (`learners.rewards` leaves masked ones out). Input and output are float64
[G]. Equal rewards give exactly 0 for every rollout, so that such a group can be skipped; without the check rounding
of the mean would leave 1e-17 and cost a forward pass.

A function's keyword-only options are its schema in a recipe. To add one: write it, add it to `ADVANTAGES`, add its
slow transcription to the tests.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Advantage = Callable[..., Floats]


def group_norm(rewards: Floats, *, eps: float = 1e-4) -> Floats:
    """(r - mean) / (std + eps), with the sample standard deviation (divisor G - 1).

    Source: GRPO, arXiv 2402.03300, section 4.1.2. Differs: `eps`, which the paper does not have.
    """
    return _centred(rewards) / (float(rewards.std(ddof=1)) + eps)


def mean_only(rewards: Floats) -> Floats:
    """r - mean: no division, so hard and easy questions keep their own scale.

    Source: Dr. GRPO, arXiv 2503.20783, section 3.2.
    """
    return _centred(rewards)


def leave_one_out(rewards: Floats) -> Floats:
    """r minus the mean of the others: an unbiased baseline; equals mean_only times G / (G - 1).

    Source: RLOO, arXiv 2402.14740, eq. 5.
    """
    num = len(rewards)
    return _centred(rewards) * (num / (num - 1))


def _centred(rewards: Floats) -> Floats:
    if np.ptp(rewards) == 0.0:
        return np.zeros(len(rewards))
    return rewards - float(rewards.mean())


ADVANTAGES: dict[str, Advantage] = {"group_norm": group_norm, "mean_only": mean_only, "leave_one_out": leave_one_out}
