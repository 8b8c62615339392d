"""Rollouts that no rewarder could judge, as missing data.

Failures follow length, so leaving them out (or, worse, counting them as wrong) pushes towards some length. With weights
1 / P(judged | length) the judged ones stand for all: the expectation of a weighted sum is that of no failures, as far
as failing depends on nothing but length. Source: Horvitz and Thompson 1952; the share by length bin is our choice.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

STAYS = 0.98
"""Of the counts with each learner step."""
LARGEST = 10.0
"""Weight: where less than a tenth is judged the rest cannot be made up for."""

Counts = dict[str, list[float]]
"""By length bin: judged, and all. JSON-able, since it is part of a checkpoint."""


def length_bin(tokens: int) -> str:
    """Four bins to each doubling, by number."""
    return str(int(4.0 * np.log2(max(tokens, 1))))


def counted(counts: Counts, rollouts: Iterable[tuple[int, bool]]) -> Counts:
    """The counts after one more step, given length in tokens and whether it was judged for each of its rollouts."""
    out = {name: [STAYS * judged, STAYS * total] for name, (judged, total) in counts.items()}
    for tokens, judged in rollouts:
        entry = out.setdefault(length_bin(tokens), [0.0, 0.0])
        entry[0] += judged
        entry[1] += 1.0
    return out


def weight(counts: Counts, tokens: int) -> float:
    """Of a judged rollout of this length: how many it stands for. Exactly 1 where nothing of its length failed."""
    judged, total = counts.get(length_bin(tokens), (0.0, 0.0))
    return min(total / judged, LARGEST) if judged else 1.0
