"""Intervals for what evaluations report."""

from __future__ import annotations

from collections.abc import Sequence
from math import comb

import numpy as np
from scipy import stats


def proportion(correct: int, total: int) -> tuple[float, float]:
    """95 % Wilson interval of a share; (0, 1) without trials."""
    if total == 0:
        return 0.0, 1.0
    interval = stats.binomtest(correct, total).proportion_ci(0.95, method="wilson")
    return float(interval.low), float(interval.high)


def pass_at_k(correct: int, total: int, k: int) -> float:
    """Probability that at least one of k answers drawn without replacement from `total` is correct.

    The unbiased estimator of arXiv 2107.03374, equation 1. Raises ValueError where k > total.
    """
    if not 1 <= k <= total:
        raise ValueError(f"pass@{k} needs at least {k} answers to a question, there are {total}")
    return 1.0 - comb(total - correct, k) / comb(total, k)


def mean_interval(values: Sequence[float], seed: int = 0) -> tuple[float, float, float]:
    """Mean and 95 % bootstrap interval (BCa) over questions; percentile ends where all values are equal."""
    data = np.asarray(values, float)
    if len(data) < 2 or np.ptp(data) == 0:
        mean = float(data.mean()) if len(data) else float("nan")
        return mean, mean, mean
    found = stats.bootstrap((data,), np.mean, random_state=np.random.default_rng(seed)).confidence_interval
    return float(data.mean()), float(found.low), float(found.high)


def median_interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Median and its order-statistic interval: of at least 95 % from six values on, else the smallest and largest.

    Raises ValueError without values.
    """
    if not values:
        raise ValueError("the median of no values")
    data = np.sort(np.asarray(values, float))
    drop = int(stats.binom.ppf(0.025, len(data), 0.5)) - 1  # the largest with P(fewer than it below) <= 2.5 %
    drop = max(drop, 0)
    return float(np.median(data)), float(data[drop]), float(data[-1 - drop])
