"""What a person sees while a run goes on. A view is a listener of the journal: `view(kind, record)`.

`LiveView` keeps a panel at the bottom of a terminal, `PlainView` prints a line per step and per event worth knowing
(for pipes, logs and CI). Neither holds the loop up: they take a note, and the panel is drawn by a thread of its own.
Both need 80 columns, and the last state stays on screen when the block ends.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from statistics import median
from types import TracebackType
from typing import Any, Literal, Self

from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from cluster.figures import ACTIVITIES, STATES, Record, clock, lag, printable, usage_shares
from cluster.story import Story, event_line

COLOURS = ("blue", "yellow", "magenta", "cyan", "bright_black")
"""In the order of activities or states; the words beside the bar carry the same facts without colour."""
WORDS = {"step": "steps", "wait": "waits", "sync": "syncs", "save": "saves"}


class PlainView:
    """One line per step and per event, as they come."""

    def __init__(self, console: Console, steps: int) -> None:
        self._console = console
        self._story = Story(steps)
        self._lock = threading.Lock()

    def __call__(self, kind: str, record: Record) -> None:
        """Take one line of the journal."""
        with self._lock:
            self._story.tell(kind, record)
            text = self.step_line(record) if kind == "step" else event_line(kind, record)
            if kind != "step":
                text = printable(text, self._console.encoding)
            if text:
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
        unicode = console.encoding.lower().startswith("utf")
        self._blocks, self._line = ("▁▂▃▄▅▆▇█", ("━", "─")) if unicode else ("_.-=+*%#", ("#", "."))
        self._cut: Literal["ellipsis", "crop"] = "ellipsis" if unicode else "crop"
        self._live = Live(console=console, get_renderable=self.render, refresh_per_second=4, vertical_overflow="crop")

    def __call__(self, kind: str, record: Record) -> None:
        """Take one line of the journal."""
        with self._lock:
            self._story.tell(kind, record)

    def __enter__(self) -> Self:
        self._live.start(refresh=True)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        with self._lock:
            self._story.ended = time.monotonic()
            self._story.phase = f"ended by {type(error).__name__}" if error is not None else ""
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
            table.add_column(no_wrap=True, overflow=self._cut, ratio=1)
            for name, text in self._rows(story):
                table.add_row(name, text)
            parts: list[Any] = [table]
            if story.lines:
                encoding = self._console.encoding
                parts.append(Text(""))
                parts += [
                    Text(
                        f"{clock(at):>6}  {printable(text, encoding)}", "bright_black", no_wrap=True, overflow=self._cut
                    )
                    for at, text in story.lines
                ]
            return Panel(Group(*parts), title=title, title_align="left", padding=(0, 1), border_style="blue")

    def _rows(self, story: Story) -> list[tuple[str, Text]]:
        width = max(20, min(self._console.width, 120) - 16)
        rows = [("step", self._progress(story, width))]
        if story.phase:
            rows.append(("now", Text(printable(story.phase, self._console.encoding), "italic")))
        if story.rewards:
            now = _number(story.rewards[-1])
            trend = self._spark(story.rewards, width - 20)
            rows.append(("reward", Text(f"{now}  {trend}  from {_number(story.rewards[0])}")))
        if story.evaluations:
            rows.append(("held-out", _evaluations(story.evaluations, width)))
        if (mean := lag(story.last, "mean")) is not None:
            rows.append(("lag", Text(f"mean {mean:.2f}, largest {story.largest_lag or 0:.0f} (learner steps)")))
        if speed := story.speed:
            made = f"{speed.tokens_per_s:.0f} tokens/s generated, {speed.trained_per_s:.0f} trained"
            rows.append(("speed", Text(f"{made}, {speed.seconds / speed.steps:.1f} s a step")))
        rows += self._who_waits(story)
        if story.pauses:
            times = f"{median(story.pauses) * 1e3:.0f} ms median, {max(story.pauses) * 1e3:.0f} ms worst"
            rows.append(("pauses", Text(f"{times}, at {len(story.pauses)} weight syncs")))
        if memory := story.newest.get("memory"):
            rows.append(("memory", Text(f"{memory['peak_bytes'] / 2**30:.1f} GiB at most")))
        return rows

    def _who_waits(self, story: Story) -> list[tuple[str, Text]]:
        """Bars of where the time goes: the learner's, and those of actors and reward workers where they are known."""
        rows = []
        if shares := story.last.get("learner_shares"):
            rows.append(("learner", _bar(shares, ACTIVITIES, self._blocks[-1])))
        usage = story.newest.get("usage")
        for kind, name in (("actor", "actors"), ("rewarder", "rewards")):
            if usage and (shares := usage_shares(usage, kind)):
                rows.append((name, _bar(shares, STATES, self._blocks[-1])))
        return rows

    def _progress(self, story: Story, width: int) -> Text:
        share = min(1.0, story.step / story.steps)
        counts = f"{story.step}/{story.steps}"
        room = max(10, width - len(counts) - 8)
        done = round(share * room)
        full, empty = self._line
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
    return (
        LiveView(console, steps) if console.is_terminal and not console.is_dumb_terminal else PlainView(console, steps)
    )


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
