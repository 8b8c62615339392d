"""How many rollouts each prompt of a round gets."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

ROUNDING = 1e-9
"""What shares may be off by; also the smallest pass rate that is told from 0."""


def allocate(
    rates: Floats, gradients: Floats, budget: int, *, least: int = 2, alpha: float = 1e-3, beta: float = 2.0
) -> list[int]:
    """How many of `budget` rollouts each prompt gets: whole numbers, at least `least` each, which sum to the budget.

    n_i is proportional to G_i / sqrt(p_i + alpha / p_i^(beta - 1)), and 0 where p_i or G_i is 0, before the floor. With
    alpha = 0 this minimises the variance sum G_i^2 / (n_i p_i) under the budget; alpha keeps rollouts from prompts
    that are as good as hopeless. `rates` (p_i, in [0, 1]) and `gradients` (G_i >= 0) are float64 [N].

    Source: GVM-RAFT, arXiv 2505.02391 (alpha 1e-3, beta 2). Differs: the floor, under which the
    others share what is left in the same proportions; shares are rounded by largest remainders, ties to the first.
    Raises ValueError where the budget does not reach for the floor.
    """
    num = len(rates)
    if budget < least * num:
        raise ValueError(f"a budget of {budget} rollouts is less than {least} for each of {num} prompts")
    reachable = (rates > 0) & (gradients > 0)
    safe = np.where(reachable, np.maximum(rates, ROUNDING), 1.0)
    wanted = np.where(reachable, gradients / np.sqrt(safe + alpha / safe ** (beta - 1)), 0.0)
    if not wanted.any():
        wanted = np.ones(num)
    floored = np.zeros(num, bool)
    while True:
        left = budget - least * int(floored.sum())
        shares = np.where(floored, least, wanted / wanted[~floored].sum() * left)
        if not (below := ~floored & (shares < least - ROUNDING)).any():
            break
        floored |= below
    nums = np.floor(shares + ROUNDING).astype(int)
    order = np.lexsort((np.arange(num), nums - shares))  # largest remainder first
    nums[order[: budget - int(nums.sum())]] += 1
    return [int(n) for n in nums]
