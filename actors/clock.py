"""Where a worker's time goes."""

from __future__ import annotations

import threading
import time


class Clock:
    """Seconds in each state; the states share one monotonic clock, so they add up to the time since the start."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._spent = {"busy": 0.0, "idle": 0.0, "paused": 0.0}
        self._state, self._since = "busy", time.monotonic()

    def enter(self, state: str) -> float:
        """Switch state; returns the time of the switch."""
        with self._lock:
            now = time.monotonic()
            self._spent[self._state] += now - self._since
            self._state, self._since = state, now
            return now

    def read(self) -> dict[str, float]:
        """Seconds by state, the present one up to now."""
        with self._lock:
            return self._spent | {self._state: self._spent[self._state] + time.monotonic() - self._since}
