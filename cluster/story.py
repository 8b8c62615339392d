"""The state behind both views: what is known of a run while it goes on, and its events in words."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping

from cluster.figures import Rate, Record, lag, rate

RECENT = 10
"""Steps that speeds and the time left are taken from."""
EVENT_LINES = 5
"""Events that stay on screen."""
ROUTINE = {"synced", "carried", "usage", "memory", "shares", "sentinels"}
"""Events that are shown as figures, not as lines."""
WORDS: Mapping[str, str] = {
    "phase": "{text}",
    "booting": "{text}",
    "ready": "{worker} is ready (process {pid})",
    "died": "{worker} (process {pid}) died, starting another: {cause}",
    "failed": "ticket {ticket} failed, asked again: {cause}",
    "dropped": "ticket {ticket}: prompt dropped: {cause}",
    "checkpoint": "step {step}: checkpoint written",
    "checkpoint_failed": "step {step}: NO checkpoint: {cause}",
    "checkpoint_broken": "broken checkpoint passed over: {problem}; used: {used}",
    "recovering": "recovering to step {target} from checkpoint {checkpoint}: {why}",
    "delta_refused": "step {step}: delta of the weights refused, sending all of them: {cause}",
    "courier_died": "the courier of host {host} died, starting another: {cause}",
    "breaker": "rewarder {rewarder} is left out: {cause}",
    "breaker_closed": "rewarder {rewarder} judges again: the families that it was left out for are rejected now",
    "unscored": "rewarder {rewarder} gave no value to {without} of its last {of} verdicts: {cause}",
    "quarantine": "rewarder {rewarder} does not pay responses like {example!r} any more: {cause}",
    "noise": "step {step}: learners.noise: {cause}",
    "lineage": "new lineage {lineage} from step {step}: {cause}",
    "stopping": "stopping: {how}",
    "stopped": "stopped: {cause}",
}
"""Events in words; others are shown as their facts."""


class _Facts(dict[str, object]):
    def __missing__(self, key: str) -> str:
        return "?"


def event_line(kind: str, record: Record) -> str:
    """An event in words; empty for those that are shown as figures."""
    if kind in ROUTINE:
        return ""
    if kind == "evaluated":
        when = f" {record['when']}" if "when" in record else ""
        return f"step {record['step']}: held-out accuracy{when} {record['accuracy']:.3f} of {record['questions']}"
    if kind in WORDS:
        return WORDS[kind].format_map(_Facts(record))
    rest = ", ".join(f"{k} {v}" for k, v in record.items() if k not in ("event", "at", "run_s"))
    return f"{kind}: {rest}" if rest else kind


class Story:
    """What is known of the run so far."""

    def __init__(self, steps: int) -> None:
        self.steps = steps
        self.began = time.monotonic()
        self.ended: float | None = None
        self.phase = "starting"
        self.rewards: list[float] = []
        self.recent: deque[Record] = deque(maxlen=RECENT + 1)
        self.evaluations: list[tuple[str, float, int]] = []
        """(`before`, `step 10`, ..., `after`; accuracy; questions)"""
        self.pauses: list[float] = []
        self.newest: dict[str, Record] = {}
        """The newest event of each kind."""
        self.largest_lag: float | None = None
        self.lines: deque[tuple[float, str]] = deque(maxlen=EVENT_LINES)

    def tell(self, kind: str, record: Record) -> None:
        """Take note of one line of the journal."""
        if kind == "step":
            self._tell_step(record)
            return
        self.newest[kind] = record
        if kind in ("phase", "booting"):
            self.phase = event_line(kind, record)
        elif kind == "synced":
            self.pauses.append(record["pause_s"])
        elif kind == "evaluated":
            label = record.get("when", f"step {record['step']}")
            self.evaluations.append((label, record["accuracy"], record["questions"]))
            return  # a figure of its own in the panel
        if text := event_line(kind, record):
            self.lines.append((record.get("run_s", 0.0), text))

    def _tell_step(self, record: Record) -> None:
        self.phase = ""
        if self.recent and record["step"] <= self.recent[-1]["step"]:
            self.recent.clear()  # another lineage: the clock has gone on, the steps have not
        self.recent.append(record)
        if record.get("reward") is not None:
            self.rewards.append(record["reward"])
        if (largest := lag(record, "max")) is not None:
            self.largest_lag = max(largest, self.largest_lag or 0.0)

    @property
    def last(self) -> Record:
        """The newest step's record; empty before the first."""
        return self.recent[-1] if self.recent else {}

    @property
    def step(self) -> int:
        """The newest step; 0 before the first."""
        return int(self.last.get("step", 0))

    @property
    def speed(self) -> Rate | None:
        """Of the recent steps; None before two are known."""
        return rate(list(self.recent))

    def seconds(self) -> float:
        """Since the view was made, until it ended."""
        return (self.ended or time.monotonic()) - self.began

    def seconds_left(self) -> float | None:
        """Of the remaining steps at the recent speed; None before two steps are known."""
        speed = self.speed
        return (self.steps - self.step) * speed.seconds / speed.steps if speed else None
