"""What several scores make together, and shapes of a score: pure functions over arrays.

S = scorers, N = answers, M = reference answers; scores are finite and have no unit of their own.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit, log_expit, ndtri

Floats = NDArray[np.float64]
How = Literal["mean", "median", "min", "uncertain"]


def merged(scores: ArrayLike, how: How, penalty: float = 0.5) -> Floats:
    """float64 [N] of [S, N]: their mean, median, minimum, or mean minus `penalty` times their variance (divisor S).

    Source: arXiv 2310.02743, section 3 (mean, WCO, UWO); the median of arXiv 2312.09244. A penalty of 0.5 is that
    of their best-of-n. Under symmetric noise the mean is best; errors that all share survive each of them.
    """
    values = np.asarray(scores, np.float64)
    if how == "median":
        return np.asarray(np.median(values, axis=0), np.float64)
    if how == "min":
        return np.asarray(values.min(axis=0), np.float64)
    mean = values.mean(axis=0)
    return np.asarray(mean - penalty * values.var(axis=0) if how == "uncertain" else mean, np.float64)


def par(scores: ArrayLike, references: ArrayLike, slope: float = 1.0) -> Floats:
    """float64 [N] in [0, 1]: the mean over references of sigmoid(slope (score - reference)).

    Source: PAR, arXiv 2502.18770, eq. 5. Dividing by a group's standard deviation takes the bound back.
    """
    scores, references = np.asarray(scores, np.float64), np.asarray(references, np.float64)
    return np.asarray(expit(slope * (scores[..., None] - references)).mean(axis=-1), np.float64)


def lsc(scores: ArrayLike, references: ArrayLike, quantile: float = 0.85) -> Floats:
    """float64 [N] below 0: log sigmoid(score - reference point), the point being a quantile of a normal distribution
    with the references' mean and standard deviation (divisor M).

    Source: arXiv 2402.00742, section 3. The sum over rewards approximates the log-probability that all of them hold.
    Not bounded below: one terrible component decides.
    """
    known = np.asarray(references, np.float64)
    point = known.mean() + known.std() * ndtri(quantile)
    return np.asarray(log_expit(np.asarray(scores, np.float64) - point), np.float64)


def error_correlations(scores: ArrayLike, truth: ArrayLike) -> Floats:
    """float64 [S, S]: correlations of what a linear fit on the truth [N] leaves of each scorer's scores [S, N].

    For a truth of 0 and 1 that is their correlation among right and among wrong answers, so any scale will do. A scorer
    without any such rest correlates with nobody: 0.
    """
    values, known = np.asarray(scores, np.float64), np.asarray(truth, np.float64)
    basis = np.stack([np.ones_like(known), known], axis=1)
    rest = (values.T - basis @ np.linalg.lstsq(basis, values.T, rcond=None)[0]).T
    norms = np.linalg.norm(rest, axis=1)
    scale = np.linalg.norm(values - values.mean(axis=1, keepdims=True), axis=1)
    rest[norms <= 1e-9 * np.maximum(scale, 1.0)] = 0.0
    norms = np.where(norms <= 1e-9 * np.maximum(scale, 1.0), 1.0, norms)
    found = np.asarray((rest / norms[:, None]) @ (rest / norms[:, None]).T, np.float64)
    np.fill_diagonal(found, 1.0)
    return np.clip(found, -1.0, 1.0)


def surely_above(correlation: float, num: int) -> float:
    """The lower end of the one-sided 95 % interval of a correlation over `num` answers (Fisher's z); -1 below 4."""
    if num < 4:
        return -1.0
    return float(np.tanh(np.arctanh(np.clip(correlation, -1 + 1e-12, 1 - 1e-12)) - 1.645 / np.sqrt(num - 3)))
