"""Who waits for whom, on one clock: the loop's monotonic time, divided among what the learner was doing."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager


class Shares:
    """Seconds by activity. Activities do not nest; time between them is `other`."""

    def __init__(self) -> None:
        self.began = time.monotonic()
        self.seconds: defaultdict[str, float] = defaultdict(float)

    @contextmanager
    def spend(self, activity: str) -> Iterator[None]:
        """Charge the time inside to an activity, also when it ends in an error."""
        start = time.monotonic()
        try:
            yield
        finally:
            self.seconds[activity] += time.monotonic() - start

    def wall(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self.began

    def read(self) -> dict[str, float]:
        """Share of the time since the start by activity; they sum to 1."""
        total = max(time.monotonic() - self.began, 1e-9)
        known = {name: s / total for name, s in self.seconds.items()}
        return known | {"other": max(0.0, 1.0 - sum(known.values()))}
