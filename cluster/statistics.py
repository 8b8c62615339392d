"""Intervals for what evaluations report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import comb, sqrt

import numpy as np
from numpy.typing import ArrayLike
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


@dataclass(frozen=True, slots=True)
class Estimate:
    """An accuracy from verdicts that may be wrong, with its interval and how it was made."""

    value: float
    low: float
    high: float
    label: str


def rogan_gladen(
    accepted: float,
    total: float,
    *,
    wrong: float,
    accepted_wrong: float,
    right: float,
    rejected_right: float,
    level: float = 0.95,
) -> Estimate:
    """The share of right answers among `total`, of which a verifier accepted `accepted`.

    (p - p0) / (1 - p0 - p1), limited to [0, 1], p0 and p1 from `wrong` and `right` answers of known truth, which may be
    of any other stream as long as the rates are the same. The interval counts their uncertainty too.
    Raises ValueError where nothing can be said: no answers of some kind, or p0 + p1 >= 1.
    Source: Rogan and Gladen 1978; the interval is that of Lang and Reiczigel, Prev. Vet. Med. 113 (2014), 13-22.
    """
    if min(total, wrong, right) <= 0:
        raise ValueError(f"{total:g} answers, {wrong:g} known wrong, {right:g} known right: wanted some of each")
    p0, p1 = accepted_wrong / wrong, rejected_right / right
    if p0 + p1 >= 1.0:
        raise ValueError(f"rates {p0:.3g} and {p1:.3g}: the verifier tells nothing")
    value = (accepted / total - p0) / (1.0 - p0 - p1)
    z = float(stats.norm.ppf((1.0 + level) / 2.0))
    p, n = (accepted + z**2 / 2) / (total + z**2), total + z**2
    q0, n0 = (accepted_wrong + 1.0) / (wrong + 2.0), wrong + 2.0
    q1, n1 = (rejected_right + 1.0) / (right + 2.0), right + 2.0
    j = 1.0 - q0 - q1
    if j <= 0.0:
        return Estimate(min(max(value, 0.0), 1.0), 0.0, 1.0, "Rogan-Gladen")
    centre = (p - q0) / j
    of_right, of_wrong = q1 * (1.0 - q1) / n1, q0 * (1.0 - q0) / n0
    error = sqrt(p * (1.0 - p) / n + of_right * centre**2 + of_wrong * (1.0 - centre) ** 2) / j
    centre += 2.0 * z**2 * (centre * of_right - (1.0 - centre) * of_wrong)
    low, high, value = (min(max(x, 0.0), 1.0) for x in (centre - z * error, centre + z * error, value))
    return Estimate(value, low, high, "Rogan-Gladen")


def prediction_powered(truth: ArrayLike, verdicts: ArrayLike, others: ArrayLike, level: float = 0.95) -> Estimate:
    """The mean of `truth` over a stream, from a random sample of it (`truth` with its `verdicts`) and the verdicts of
    the others. Only for a sample drawn at random from that very stream; else `rogan_gladen`.

    Source: PPI, arXiv 2301.09633, algorithm 1, with lambda = 1. Of our own: ppi-python, which has it, also installs a
    package called `tests`, which hides those of every project beside it.
    """
    gold, judged, rest = (np.asarray(x, float) for x in (truth, verdicts, others))
    value = rest.mean() + (gold - judged).mean()
    error = np.sqrt(rest.var() / len(rest) + (gold - judged).var() / len(gold))
    half = stats.norm.ppf(0.5 + level / 2.0) * error
    return Estimate(float(value), float(value - half), float(value + half), "prediction-powered")
