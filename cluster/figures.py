"""Figures of a run from its logs: what the live view, the summary and the plots all have to agree on.

Records are the lines of metrics.jsonl and events.jsonl. `at` is seconds since the epoch, `run_s` seconds since the
process that wrote it began. A run that was resumed has lines of several processes; time between them is nobody's.
"""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

Record = Mapping[str, Any]

ACTIVITIES = ("step", "wait", "sync", "save", "other")
"""What a learner does, in the order of all tables and drawings."""
STATES = ("busy", "idle", "paused")
"""What an actor or reward worker does."""

SAME_PROCESS_S = 2.0
"""How far `at - run_s` of one process may move: the two clocks drift, and the wall clock may be set."""


def processes(records: Iterable[Record]) -> list[list[Record]]:
    """The records of each process in turn, in order of time."""
    out: list[list[Record]] = []
    began = math.nan
    for record in sorted(records, key=lambda r: r["at"]):
        start = record["at"] - record["run_s"]
        if not out or abs(start - began) > SAME_PROCESS_S:
            out.append([])
        began = start
        out[-1].append(record)
    return out


def surviving(metrics: Iterable[Record]) -> list[Record]:
    """One record per step, by step: where a new lineage took a step again, its record counts."""
    return [record for _, record in sorted({m["step"]: m for m in metrics}.items())]


def wall_seconds(records: Iterable[Record]) -> float:
    """Seconds that processes of this run existed, as far as they wrote anything."""
    return float(sum(part[-1]["run_s"] for part in processes(records)))


def lag(record: Record, which: str) -> float | None:
    """`mean` or `max` lag of a step's tokens, in learner steps."""
    value = record.get(f"learn/lag_{which}_steps", record.get(f"learn/lag_{which}"))
    return None if value is None else float(value)


def mean_lag(metrics: Iterable[Record]) -> float | None:
    """Over all tokens of these steps."""
    known = [(value, m["tokens"]) for m in metrics if (value := lag(m, "mean")) is not None]
    tokens = sum(n for _, n in known)
    return sum(value * n for value, n in known) / tokens if tokens else None


@dataclass(frozen=True, slots=True)
class Rate:
    """What a stretch of steps did."""

    seconds: float
    steps: int
    tokens: int
    trained_tokens: int

    @property
    def tokens_per_s(self) -> float:
        """Completion tokens of the batches."""
        return self.tokens / self.seconds

    @property
    def trained_per_s(self) -> float:
        """Completion tokens that entered a gradient."""
        return self.trained_tokens / self.seconds


def rate(metrics: Sequence[Record]) -> Rate | None:
    """The steps after the first one of `metrics` (whose beginning is unknown); None where there is no such step."""
    if len(metrics) < 2 or metrics[-1]["run_s"] <= metrics[0]["run_s"]:
        return None
    counted = metrics[1:]
    return Rate(
        metrics[-1]["run_s"] - metrics[0]["run_s"],
        len(counted),
        sum(m["tokens"] for m in counted),
        sum(m["trained_tokens"] for m in counted),
    )


@dataclass(frozen=True, slots=True)
class Work:
    """What workers did between the first and the last `usage` event of each process of the run."""

    seconds: float
    trained_tokens: int
    tokens: int
    cpu_s: dict[str, float]
    """By worker."""
    spent_s: dict[str, dict[str, float]]
    """By worker: seconds by state."""


def work(metrics: Sequence[Record], events: Iterable[Record]) -> Work | None:
    """Sums over neighbouring `usage` events; None where there are no two of one process.

    Counters of a worker start again from zero when its process is replaced, so a falling one counts as it is.
    """
    seconds = 0.0
    trained = tokens = 0
    cpu: defaultdict[str, float] = defaultdict(float)
    spent: defaultdict[str, dict[str, float]] = defaultdict(lambda: dict.fromkeys(STATES, 0.0))
    for part in processes(e for e in events if e["event"] == "usage" and "workers" in e):
        for before, after in itertools.pairwise(part):
            seconds += after["run_s"] - before["run_s"]
            for name, now in after["workers"].items():
                grown = _growth(before["workers"].get(name, {}), now)
                cpu[name] += grown.get("cpu_s", 0.0)
                for state in STATES:
                    spent[name][state] += grown.get(f"{state}_s", 0.0)
        if len(part) > 1:
            inside = [m for m in metrics if part[0]["at"] < m["at"] <= part[-1]["at"]]
            trained += sum(m["trained_tokens"] for m in inside)
            tokens += sum(m["tokens"] for m in inside)
    return Work(seconds, trained, tokens, dict(cpu), dict(spent)) if seconds > 0 else None


def _growth(before: Mapping[str, float], now: Mapping[str, float]) -> dict[str, float]:
    if now.get("cpu_s", 0.0) < before.get("cpu_s", 0.0):
        before = {}
    # a state's seconds can fall a little: idle time is what is left when the others are taken off
    return {key: max(0.0, value - before.get(key, 0.0)) for key, value in now.items()}


def shares_of(spent_s: Mapping[str, Mapping[str, float]], kind: str) -> dict[str, float] | None:
    """Share of time by state over all workers of a kind (`actor`, `rewarder`); None where there are none."""
    totals = dict.fromkeys(STATES, 0.0)
    for name, states in spent_s.items():
        if name.startswith(kind):
            for state in STATES:
                totals[state] += states.get(state, 0.0)
    total = sum(totals.values())
    return {state: value / total for state, value in totals.items()} if total > 0 else None


def usage_shares(event: Record, kind: str) -> dict[str, float] | None:
    """Shares of one kind of worker in one `usage` event, which has seconds (`workers`) or shares by worker."""
    if "workers" in event:
        spent = {n: {s: w.get(f"{s}_s", 0.0) for s in STATES} for n, w in event["workers"].items()}
        return shares_of(spent, kind)
    return shares_of(event.get("shares", {}), kind)


def learner_shares(metrics: Sequence[Record], events: Sequence[Record]) -> dict[str, float] | None:
    """Share of the learner's time by activity: of each process the last that it said, weighted by how long it ran."""
    said = [m for m in metrics if "learner_shares" in m] + [e for e in events if e["event"] == "shares"]
    totals: defaultdict[str, float] = defaultdict(float)
    weight = 0.0
    for part in processes(said):
        last = part[-1]
        seconds = last.get("wall_s", last["run_s"])
        for name, share in last.get("learner_shares", last.get("learner", {})).items():
            totals[name] += share * seconds
        weight += seconds
    if not weight:
        return None
    known = {name: totals[name] / weight for name in ACTIVITIES if name in totals}
    return known | {name: value / weight for name, value in totals.items() if name not in known}


def smoothed(values: Sequence[float | None], width: int) -> list[float | None]:
    """Mean of each value and up to `width - 1` before it; None where none of them is known."""
    out: list[float | None] = []
    for i in range(len(values)):
        known = [v for v in values[max(0, i - width + 1) : i + 1] if v is not None]
        out.append(fmean(known) if known else None)
    return out


def printable(text: object, encoding: str = "utf-8") -> str:
    """On one line, with `?` for what the terminal has no character for: a model may write anything."""
    return " ".join(str(text).split()).encode(encoding, "replace").decode(encoding)


def clock(seconds: float) -> str:
    """`4:07`, `1:02:03`"""
    whole = max(0, round(seconds))
    hours, rest = divmod(whole, 3600)
    return f"{hours}:{rest // 60:02d}:{rest % 60:02d}" if hours else f"{rest // 60}:{rest % 60:02d}"
