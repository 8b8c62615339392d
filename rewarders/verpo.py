"""VeRPO's dense reward from unit tests: a rare test is worth more than one that nearly every program passes."""

from __future__ import annotations

import numpy as np


def dense_reward(passed: np.ndarray, all_weight: float = 0.5) -> np.ndarray:
    """The reward in [0, 1] of each program of a group, float64 [G], from `passed`, bool [G, T]; T >= 1.

        w_j = 1 - (passes_j + 1) / (G + 2)      difficulty of test j, from this group's executions
        r_i = (1 - c) sum_j w_j passed_ij / sum_j w_j  +  c [all passed],     c = `all_weight`

    Source: arXiv 2601.03525 (difficulty estimated online from execution statistics, with the global outcome on top).
    Differs: the paper's abstract gives no formula, so smoothing, weights and `all_weight` are ours; and the statistics
    are of this group alone, so that a verdict depends on nothing but its group.
    """
    passed = np.asarray(passed, bool)
    num_programs, num_tests = passed.shape
    if num_tests == 0:
        raise ValueError("a reward from no tests")
    weights = 1.0 - (passed.sum(axis=0) + 1.0) / (num_programs + 2.0)
    dense = passed @ weights / weights.sum()
    every = passed.all(axis=1)
    # A sum of all weights over itself may round to just below 1.
    return np.where(every, 1.0, (1.0 - all_weight) * dense)
