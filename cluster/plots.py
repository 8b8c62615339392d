"""Four plots of a run, 1600 x 900 PNG, to be put on a slide: reward, held-out accuracy, lag, throughput.

Drawn without a display. Colours are those of Okabe and Ito, which people with any colour vision can tell apart; lines
are named where they end or in one legend, never by colour alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster import figures
from cluster.figures import Record
from cluster.statistics import proportion
from cluster.summary import read_eval
from swarm.journal import RunFolder

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BLUE, ORANGE, GREEN, PINK, SKY, YELLOW = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00"
INK, GREY = "#222222", "#999999"
LOOK: dict[Any, Any] = {
    "font.size": 22,
    "axes.titlesize": 30,
    "axes.titlelocation": "left",
    "axes.titlepad": 20,
    "axes.labelsize": 24,
    "axes.edgecolor": GREY,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": "#e6e6e6",
    "legend.frameon": False,
    "lines.linewidth": 4,
    "lines.solid_capstyle": "round",
    "text.color": INK,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
}
ACTIVITY_LOOK = {
    "step": ("training", BLUE),
    "wait": ("waiting for groups", YELLOW),
    "sync": ("syncing weights", PINK),
    "save": ("checkpoints", SKY),
    "other": ("other", "#cccccc"),
}

Drawing = Callable[["Figure"], None]


def write_plots(folder: RunFolder) -> list[Path]:
    """Write what there is data for into `plots/`; returns the files."""
    metrics = figures.surviving(folder.read("metrics.jsonl"))
    events = folder.read("events.jsonl")
    points = accuracy_points(folder, metrics, events)
    drawings: dict[str, Drawing] = {}
    if any(m.get("reward") is not None for m in metrics):
        drawings["reward"] = lambda figure: draw_reward(figure, metrics)
    if points:
        drawings["accuracy"] = lambda figure: draw_accuracy(figure, points)
    if any(figures.lag(m, "mean") is not None for m in metrics):
        drawings["lag"] = lambda figure: draw_lag(figure, metrics)
    if figures.rate(metrics):
        drawings["throughput"] = lambda figure: draw_throughput(figure, metrics)
    folder.plots.mkdir(exist_ok=True)
    return [save(folder.plots / f"{name}.png", drawing) for name, drawing in drawings.items()]


def save(path: Path, drawing: Drawing) -> Path:
    """Draw into a PNG file of 1600 x 900 pixels, in the house's look."""
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with mpl.rc_context(LOOK):  # Figure and canvas by hand: pyplot would keep global state in the driver
        figure = Figure(figsize=(16, 9), dpi=100, layout="constrained")
        figure.get_layout_engine().set(w_pad=0.35, h_pad=0.3)  # type: ignore[union-attr,call-arg]
        FigureCanvasAgg(figure)
        drawing(figure)
        figure.savefig(path)
    return path


def draw_reward(figure: Figure, metrics: Sequence[Record]) -> None:
    """Mean reward of each batch, and its running mean."""
    axes = figure.add_subplot()
    known = [m for m in metrics if m.get("reward") is not None]
    steps, rewards = [m["step"] for m in known], [m["reward"] for m in known]
    width = min(10, max(3, len(known) // 10))
    axes.scatter(steps, rewards, s=70, color=SKY, alpha=0.7, linewidths=0, label="batch")
    running = [value or 0.0 for value in figures.smoothed(rewards, width)]
    axes.plot(steps, running, color=BLUE, label=f"mean of {width} steps")
    axes.set(title="Reward of sampled answers", xlabel="learner step", ylabel="mean reward")
    _limits(axes, rewards, proportion_like=True)
    axes.legend(loc="best")
    _whole_steps(axes)


Point = Mapping[str, Any]


def accuracy_points(folder: RunFolder, metrics: Sequence[Record], events: Sequence[Record]) -> list[Point]:
    """Evaluations in order: `{when: before | live | after, step, accuracy, low, high, questions}`."""
    last = metrics[-1]["step"] if metrics else 0
    files = {when: read_eval(folder, when) for when in ("before", "after")}
    points: list[Point] = []
    live = {e["step"]: e for e in events if e["event"] == "evaluated" and "when" not in e}
    taken = {f.get("step", 0 if w == "before" else last) for w, f in files.items() if f}
    for step, event in live.items():
        if step in taken:
            continue
        low, high = proportion(round(event["accuracy"] * event["questions"]), event["questions"])
        facts = {k: event[k] for k in ("accuracy", "questions")}
        points.append({"when": "live", "step": step, "low": low, "high": high} | facts)
    for when, found in files.items():
        if found and found["questions"]:
            step = found.get("step", 0 if when == "before" else last)
            points.append(
                {"when": when, "step": step} | {k: found[k] for k in ("accuracy", "low", "high", "questions")}
            )
    return sorted(points, key=lambda p: p["step"])


def draw_accuracy(figure: Figure, points: Sequence[Point]) -> None:
    """Greedy accuracy on questions that are never trained on, with 95 % Wilson intervals."""
    axes = figure.add_subplot()
    axes.plot([p["step"] for p in points], [p["accuracy"] for p in points], color=GREY, linewidth=2, zorder=1)
    ends = [p for p in points if p["when"] != "live"]
    live = [p for p in points if p["when"] == "live"]
    for chosen, colour, size, name in ((live, SKY, 11, "during"), (ends, ORANGE, 18, "before and after")):
        if not chosen:
            continue
        questions = max(p["questions"] for p in chosen)
        spread = [[p["accuracy"] - p["low"] for p in chosen], [p["high"] - p["accuracy"] for p in chosen]]
        axes.errorbar(
            [p["step"] for p in chosen],
            [p["accuracy"] for p in chosen],
            yerr=[[max(0.0, v) for v in side] for side in spread],
            fmt="o",
            color=colour,
            markersize=size,
            elinewidth=2 if chosen is live else 4,
            capsize=0 if chosen is live else 8,
            capthick=4,
            zorder=2 if chosen is live else 3,
            label=f"{name} ({questions} questions)",
        )
    for point in ends:
        before = point["when"] == "before"  # the numbers stand outside, where no other point can be
        axes.annotate(
            f"{point['accuracy']:.2f}",
            (point["step"], point["accuracy"]),
            xytext=(-20 if before else 20, 0),
            textcoords="offset points",
            ha="right" if before else "left",
            va="center",
            fontsize=30,
            fontweight="bold",
            color=ORANGE,
        )
    axes.set(
        title="Accuracy on held-out questions (greedy, 95 % intervals)", xlabel="learner step", ylabel="share correct"
    )
    axes.set_ylim(0, 1)
    axes.margins(x=0.12)
    axes.legend(loc="lower right" if points[-1]["accuracy"] > 0.5 else "upper left")
    _whole_steps(axes)


def draw_lag(figure: Figure, metrics: Sequence[Record]) -> None:
    """Age of the tokens of each batch, in learner steps."""
    axes = figure.add_subplot()
    known = [m for m in metrics if figures.lag(m, "mean") is not None]
    steps = [m["step"] for m in known]
    means = [figures.lag(m, "mean") or 0.0 for m in known]
    largest = [figures.lag(m, "max") or 0.0 for m in known]
    axes.plot(steps, largest, color=ORANGE, linewidth=3, drawstyle="steps-mid", label="oldest token")
    axes.plot(steps, means, color=BLUE, label="mean over tokens")
    axes.fill_between(steps, means, color=BLUE, alpha=0.15, linewidth=0)
    axes.set(
        title="Lag: how old tokens are when they are trained on", xlabel="learner step", ylabel="lag (learner steps)"
    )
    axes.set_ylim(0, max(1.0, *largest) * 1.3)
    axes.yaxis.get_major_locator().set_params(integer=True)  # type: ignore[call-arg]
    axes.legend(loc="upper right", ncols=2)
    _whole_steps(axes)


def draw_throughput(figure: Figure, metrics: Sequence[Record]) -> None:
    """Tokens per second above; below, where the learner's time has gone up to each step."""
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[3, 2])
    width = min(10, max(2, len(metrics) // 10))
    steps, made, trained = [], [], []
    for part in figures.processes(metrics):
        for i in range(1, len(part)):
            if speed := figures.rate(part[max(0, i - width) : i + 1]):
                steps.append(part[i]["step"])
                made.append(speed.tokens_per_s)
                trained.append(speed.trained_per_s)
    upper.plot(steps, made, color=GREEN, label="generated")
    upper.plot(steps, trained, color=BLUE, label="trained on")
    upper.set(title=f"Throughput (mean of {width} steps)", ylabel="tokens/s")
    upper.set_ylim(0, max([*made, *trained, 1.0]) * 1.25)
    upper.legend(loc="upper right", ncols=2)
    known = [m for m in metrics if "learner_shares" in m]
    if known:
        names = [n for n in ACTIVITY_LOOK if any(m["learner_shares"].get(n, 0.0) >= 0.005 for m in known)]
        parts = [[100 * m["learner_shares"].get(n, 0.0) for m in known] for n in names]
        colours = [ACTIVITY_LOOK[n][1] for n in names]
        labels = [f"{ACTIVITY_LOOK[n][0]} {part[-1]:.0f} %" for n, part in zip(names, parts, strict=True)]
        lower.stackplot([m["step"] for m in known], parts, colors=colours, labels=labels, linewidth=0)
        lower.legend(loc="upper center", bbox_to_anchor=(0.5, -0.32), ncols=len(names), fontsize=20, columnspacing=1.2)
    lower.set(xlabel="learner step", ylabel="learner's time\nso far (%)", ylim=(0, 100))
    _whole_steps(lower)


def _limits(axes: Axes, values: Sequence[float], proportion_like: bool) -> None:
    """Rewards that are shares get the whole range, so that plots of different runs compare at a glance."""
    if proportion_like and min(values) >= 0 and max(values) <= 1:
        axes.set_ylim(0, 1)


def _whole_steps(axes: Axes) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
    low, high = axes.get_xlim()
    if math.isclose(low, high):
        axes.set_xlim(low - 1, high + 1)
