"""What a rollout that ran into the token limit, or nearly, is worth.

Each is a pure function of `rewards` float64 [n], `lengths` int64 [n] (completion tokens), `cut` bool [n] (the limit
ended it) and `limit` (the recipe's `max_new_tokens`), over the scored rollouts of a group. It returns the change of
each reward, float64 [n]; NaN masks the rollout. Options are keyword-only.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from swarm.config import Positive

Floats = NDArray[np.float64]
Truncation = Callable[..., Floats]


def keep(rewards: Floats, lengths: NDArray[np.int64], cut: NDArray[np.bool_], limit: int) -> Floats:
    """The reward as it is."""
    return np.zeros(len(rewards))


def mask(rewards: Floats, lengths: NDArray[np.int64], cut: NDArray[np.bool_], limit: int) -> Floats:
    """As if a cut rollout had not been generated: it says nothing about the reasoning that was cut.

    Source: overlong filtering, DAPO, arXiv 2503.14476.
    """
    return np.where(cut, np.nan, 0.0)


def zero(rewards: Floats, lengths: NDArray[np.int64], cut: NDArray[np.bool_], limit: int) -> Floats:
    """A cut rollout earns 0, whatever it says. Source: DLER, arXiv 2510.15110."""
    return np.where(cut, -rewards, 0.0)


def soft_overlong(
    rewards: Floats, lengths: NDArray[np.int64], cut: NDArray[np.bool_], limit: int, *, share: Positive = 0.2
) -> Floats:
    """0 up to (1 - share) of the limit, then linearly down to -1 at the limit; -1 for a cut rollout.

    Source: soft overlong punishment, DAPO, arXiv 2503.14476, eq. 13 (L_cache = share * L_max; 4096 of 20480 there).
    """
    cache = max(share * limit, 1.0)
    return np.where(cut, -1.0, ((limit - cache - lengths) / cache).clip(-1.0, 0.0))


PENALTIES = frozenset({"soft_overlong"})
"""Those whose change is a reward of its own, for advantages that look at rewards one by one."""

TRUNCATIONS: dict[str, Truncation] = {"keep": keep, "mask": mask, "zero": zero, "soft_overlong": soft_overlong}
