"""What a person sees while a run goes on. A view is a listener of the journal: `view(kind, record)`.

`LiveView` keeps a panel at the bottom of a terminal, `PlainView` prints a line per step and per event worth knowing
(for pipes, logs and CI). Neither holds the loop up: they take a note, and the panel is drawn by a thread of its own.
Both need 80 columns, and the last state stays on screen when the block ends.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from statistics import median
from types import TracebackType
from typing import Any, Self

from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from cluster.figures import ACTIVITIES, STATES, Rate, Record, clock, lag, rate, usage_shares

RECENT = 10
"""Steps that speeds and the time left are taken from."""
EVENT_LINES = 5
COLOURS = ("blue", "yellow", "magenta", "cyan", "bright_black")
"""In the order of activities or states; the words beside the bar carry the same facts without colour."""
WORDS = {"step": "steps", "wait": "waits", "sync": "syncs", "save": "saves"}
ROUTINE = {"synced", "usage", "memory", "shares"}
"""Events that are shown as figures, not as lines."""


class Story:
    """What is known of the run so far; both views draw from it."""

    def __init__(self, steps: int) -> None:
        self.steps = steps
        self.began = time.monotonic()
        self.phase = "starting"
        self.rewards: list[float] = []
        self.recent: deque[Record] = deque(maxlen=RECENT + 1)
        self.evaluations: list[tuple[str, float, int]] = []
        """(`before`, `step 10`, ..., `after`; accuracy; questions)"""
        self.pauses: list[float] = []
        self.usage: Record = {}
        self.memory: Record = {}
        self.largest_lag: float | None = None
        self.lines: deque[tuple[float, str]] = deque(maxlen=EVENT_LINES)
        self.ended: float | None = None

    def tell(self, kind: str, record: Record) -> None:
        """Take note of one line of the journal."""
        if kind == "step":
            self.phase = ""
            if self.recent and record["step"] <= self.recent[-1]["step"]:
                self.recent.clear()  # another lineage: the clock has gone on, the steps have not
            self.recent.append(record)
            if record.get("reward") is not None:
                self.rewards.append(record["reward"])
            if (largest := lag(record, "max")) is not None:
                self.largest_lag = max(largest, self.largest_lag or 0.0)
        elif kind in ("phase", "booting"):
            self.phase = str(record.get("text", kind))
        elif kind == "evaluated":
            label = record.get("when", f"step {record['step']}")
            self.evaluations.append((label, record["accuracy"], record["questions"]))
        elif kind == "synced":
            self.pauses.append(record["pause_s"])
        elif kind == "usage":
            self.usage = record
        elif kind == "memory":
            self.memory = record
        if kind not in ("step", "evaluated") and (text := event_line(kind, record)):
            self.lines.append((record.get("run_s", 0.0), text))

    @property
    def last(self) -> Record:
        return self.recent[-1] if self.recent else {}

    @property
    def step(self) -> int:
        return int(self.last.get("step", 0))

    @property
    def speed(self) -> Rate | None:
        return rate(list(self.recent))

    def seconds(self) -> float:
        """Since the view was made, until it ended."""
        return (self.ended or time.monotonic()) - self.began

    def seconds_left(self) -> float | None:
        """Of the remaining steps at the recent speed; None before two steps are known."""
        speed = self.speed
        return (self.steps - self.step) * speed.seconds / speed.steps if speed else None


def event_line(kind: str, record: Record) -> str:
    """An event in words; empty for those that are shown as figures."""
    facts: Mapping[str, Any] = record
    if kind in ROUTINE:
        return ""
    if kind in ("phase", "booting"):
        return str(facts.get("text", kind))
    if kind == "ready":
        return f"{facts['worker']} is ready (process {facts['pid']})"
    if kind == "evaluated":
        when = f" {facts['when']}" if "when" in facts else ""
        return f"step {facts['step']}: held-out accuracy{when} {facts['accuracy']:.3f} of {facts['questions']} questions"
    if kind == "died":
        return f"{facts['worker']} (process {facts.get('pid', '?')}) died, starting another: {facts.get('cause', '')}"
    if kind == "failed":
        return f"ticket {facts['ticket']} failed, asked again: {facts['cause']}"
    if kind == "dropped":
        return f"ticket {facts['ticket']}: prompt dropped: {facts['cause']}"
    if kind == "checkpoint":
        return f"step {facts['step']}: checkpoint written"
    if kind == "checkpoint_failed":
        return f"step {facts['step']}: NO checkpoint, training goes on: {facts['cause']}"
    if kind == "checkpoint_broken":
        return f"broken checkpoint passed over: {facts['problem']}; used: {facts['used']}"
    if kind == "recovering":
        return f"recovering to step {facts['target']} from checkpoint {facts['checkpoint']}: {facts['why']}"
    if kind == "lineage":
        return f"new lineage {facts['lineage']} from step {facts['step']}: {facts['cause']}"
    if kind == "stopping":
        return f"stopping: {facts.get('how', '')}"
    rest = ", ".join(f"{k} {v}" for k, v in facts.items() if k not in ("event", "at", "run_s"))
    return f"{kind}: {rest}" if rest else kind


class PlainView:
    """One line per step and per event, as they come."""

    def __init__(self, console: Console, steps: int) -> None:
        self._console = console
        self._story = Story(steps)
        self._lock = threading.Lock()

    def __call__(self, kind: str, record: Record) -> None:
        with self._lock:
            self._story.tell(kind, record)
            if text := self.step_line(record) if kind == "step" else _one_line(event_line(kind, record)):
                line = f"[{clock(record.get('run_s', 0.0)):>5}] {text}"
                self._console.print(line, markup=False, highlight=False, soft_wrap=True)

    def step_line(self, record: Record) -> str:
        """`step 12/100  reward 0.312  lag 0.9/2  412 tok/s  wait 20 % step 61 %  left 4:10`"""
        story = self._story
        parts = [f"step {record['step']}/{story.steps}", f"reward {_number(record.get('reward'))}"]
        if (mean := lag(record, "mean")) is not None:
            parts.append(f"lag {mean:.1f}/{lag(record, 'max') or 0:.0f}")
        if speed := story.speed:
            parts.append(f"{speed.tokens_per_s:.0f} tok/s")
        shares = record.get("learner_shares", {})
        parts.append(" ".join(f"{name} {shares[name]:.0%}" for name in ("step", "wait", "sync") if name in shares))
        if (left := story.seconds_left()) is not None:
            parts.append(f"left {clock(left)}")
        return "  ".join(part for part in parts if part)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        pass


class LiveView:
    """A panel that is drawn again a few times a second, and stays as it was at the end."""

    def __init__(self, console: Console, steps: int) -> None:
        self._console = console
        self._story = Story(steps)
        self._lock = threading.Lock()
        # One mark for characters that a terminal with a small character set cannot show.
        self._blocks = "▁▂▃▄▅▆▇█" if console.encoding.lower().startswith("utf") else "_.-=+*%#"
        self._live = Live(
            console=console, get_renderable=self.render, refresh_per_second=4, vertical_overflow="crop"
        )

    def __call__(self, kind: str, record: Record) -> None:
        with self._lock:
            self._story.tell(kind, record)

    def __enter__(self) -> Self:
        self._live.start(refresh=True)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        with self._lock:
            self._story.ended = time.monotonic()
            if error is not None:
                self._story.phase = f"ended by {type(error).__name__}"
            elif self._story.phase:
                self._story.phase = ""
        self._live.stop()

    def render(self) -> Panel:
        """The panel as of now."""
        with self._lock:
            story = self._story
            left = story.seconds_left()
            title = Text.assemble(("swarm ", "bold"), f" {clock(story.seconds())} elapsed")
            if left is not None and story.ended is None:
                title.append(f", about {clock(left)} left" if story.step < story.steps else ", all steps done")
            title.append(" ")
            table = Table.grid(padding=(0, 2))
            table.add_column(style="bold", no_wrap=True, min_width=8)
            table.add_column(no_wrap=True, overflow="ellipsis", ratio=1)
            for name, text in self._rows(story):
                table.add_row(name, text)
            parts: list[Any] = [table]
            if story.lines:
                parts.append(Text(""))
                parts += [
                    Text(f"{clock(at):>6}  {_one_line(text)}", "bright_black", no_wrap=True, overflow="ellipsis")
                    for at, text in story.lines
                ]
            return Panel(Group(*parts), title=title, title_align="left", padding=(0, 1), border_style="blue")

    def _rows(self, story: Story) -> list[tuple[str, Text]]:
        width = max(20, min(self._console.width, 120) - 16)
        rows = [("step", self._progress(story, width))]
        if story.phase:
            rows.append(("now", Text(story.phase, "italic")))
        if story.rewards:
            now = _number(story.rewards[-1])
            rows.append(("reward", Text(f"{now}  {self._spark(story.rewards, width - 20)}  from {_number(story.rewards[0])}")))
        if story.evaluations:
            rows.append(("held-out", _evaluations(story.evaluations, width)))
        if (mean := lag(story.last, "mean")) is not None:
            rows.append(("lag", Text(f"mean {mean:.2f}, largest {story.largest_lag or 0:.0f} (learner steps)")))
        if speed := story.speed:
            rows.append(("speed", Text(
                f"{speed.tokens_per_s:.0f} tokens/s generated, {speed.trained_per_s:.0f} trained, "
                f"{speed.seconds / speed.steps:.1f} s a step"
            )))  # fmt: skip
        if shares := story.last.get("learner_shares"):
            rows.append(("learner", _bar(shares, ACTIVITIES, self._blocks[-1])))
        for kind, name in (("actor", "actors"), ("rewarder", "rewards")):
            if story.usage and (shares := usage_shares(story.usage, kind)):
                rows.append((name, _bar(shares, STATES, self._blocks[-1])))
        if story.pauses:
            rows.append(("pauses", Text(
                f"{median(story.pauses) * 1e3:.0f} ms median, {max(story.pauses) * 1e3:.0f} ms worst, at "
                f"{len(story.pauses)} weight syncs"
            )))  # fmt: skip
        if "peak_bytes" in story.memory:
            rows.append(("memory", Text(f"{story.memory['peak_bytes'] / 2**30:.1f} GiB at most")))
        return rows

    def _progress(self, story: Story, width: int) -> Text:
        share = min(1.0, story.step / story.steps)
        counts = f"{story.step}/{story.steps}"
        room = max(10, width - len(counts) - 8)
        done = round(share * room)
        full, empty = ("━", "─") if self._blocks[0] == "▁" else ("#", ".")
        return Text.assemble(
            (counts, "bold"), "  ", (full * done, "green"), (empty * (room - done), "bright_black"), f" {share:4.0%}"
        )

    def _spark(self, values: Sequence[float], width: int) -> str:
        """The whole series in at most `width` characters, each the mean of its part."""
        parts = min(width, len(values))
        means = []
        for i in range(parts):
            part = values[i * len(values) // parts : (i + 1) * len(values) // parts]
            means.append(sum(part) / len(part))
        low, high = min(means), max(means)
        top = len(self._blocks) - 1
        return "".join(self._blocks[round((m - low) / (high - low) * top) if high > low else 0] for m in means)


View = LiveView | PlainView


def make_view(console: Console, steps: int) -> View:
    """A panel where there is a terminal to draw it on, else lines."""
    return LiveView(console, steps) if console.is_terminal and not console.is_dumb_terminal else PlainView(console, steps)


def _evaluations(found: Sequence[tuple[str, float, int]], width: int) -> Text:
    """The newest accuracy, then the first one and as many of the latest as there is room for."""
    _, now, questions = found[-1]
    text = Text.assemble((f"{now:.3f}", "bold"), f" of {questions}")
    if len(found) > 1:
        first, *later = [f"{label} {accuracy:.2f}" for label, accuracy, _ in found]
        shown = list(later)
        while shown and len(text.plain) + len(first) + sum(len(part) + 2 for part in shown) + 6 > width:
            shown.pop(0)
        text.append("  " + ", ".join([first, *([".."] if len(shown) < len(later) else []), *shown]))
    return text


def _bar(shares: Mapping[str, float], order: Sequence[str], block: str, width: int = 12) -> Text:
    """A coloured bar of the shares, then the shares in words, those under half a percent left out."""
    text = Text()
    at = 0.0
    for name, colour in zip(order, COLOURS, strict=False):
        share = shares.get(name, 0.0)
        text.append(block * (round((at + share) * width) - round(at * width)), colour)
        at += share
    text.append("  ")
    words = [
        (f"{WORDS.get(name, name)} {shares[name]:.0%}", colour)
        for name, colour in zip(order, COLOURS, strict=False)
        if shares.get(name, 0.0) >= 0.005
    ]
    for i, (word, colour) in enumerate(words):
        text.append("  " if i else "").append(word, colour)
    return text


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _one_line(text: str) -> str:
    return " ".join(text.split())
