"""The canary: after a load, do engine and learner agree on the log-probabilities of a fixed token sequence?"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

FLOAT32_MAX = 1e-3
"""Largest difference in float32, in nats: engine and learner differ by rounding only."""
MEAN = 0.08
"""Mean difference that is always good enough below float32, in nats."""
GROWTH = 1.5
"""A model whose first comparison is worse than that may stay within this factor of it."""
FIRST_MEAN = 0.3
"""Limit of the first comparison below float32, in nats: one stale layer was seen to cost 0.9."""


class Canary:
    """Judges comparisons; the first good one calibrates the limit of those that follow."""

    def __init__(self, dtype: str) -> None:
        self._exact = dtype == "float32"
        self._first: float | None = None

    def judge(self, found: np.ndarray, published: Sequence[float]) -> tuple[float, float, str]:
        """Mean and largest absolute difference in nats, and what is wrong with them (empty: nothing)."""
        apart = np.abs(found - np.asarray(published, np.float64))
        mean, worst = float(apart.mean()), float(apart.max())
        if self._exact:
            name, value, limit = "largest", worst, FLOAT32_MAX
        else:
            limit = FIRST_MEAN if self._first is None else max(MEAN, GROWTH * self._first)
            name, value = "mean", mean
        if not value <= limit:  # also where it is NaN
            return mean, worst, f"canary differs from the learner's: {name} {value:.2g} nats, limit {limit:.2g}"
        if self._first is None:
            self._first = mean
        return mean, worst, ""
