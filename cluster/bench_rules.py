"""`learn/rules` and `learn/lag`: what each update rule, and each correction at each lag, learns.

Every cell is a whole `swarm run` in a process of its own. On the tiny model it runs inline with the transformers
engine, and held-out accuracy is the mean over the held-out questions of 16 sampled answers each; it starts at about
0.17. All arms have one budget and one learning rate, none is tuned: AdamW does not see the scale of a loss.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cluster.bench import Bench, Cell, Figure, Result
from cluster.plots import BLUE, GREEN, ORANGE, PINK, SKY, YELLOW, save
from learners.advantages import ADVANTAGES
from learners.losses import LOSSES

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Figure_

COLORS = (BLUE, ORANGE, GREEN, PINK, SKY, YELLOW, "#222222", "#999999")
RECIPES = Path(__file__).parent / "recipes"
SEEDS = (0, 1, 2)
LAST = 3
"""Evaluations whose mean is the accuracy that a cell ended with."""
LEARNS = ">= 0.3"
"""What counts as having learned on the tiny model."""

TINY = {
    "cluster.placement": "inline",
    "actors.engine": "transformers",
    "learners.steps": 25,  # the last evaluation is after step 24
    "learners.checkpoint_every": 1000,
    "eval.live_questions": 8,
    "eval.live_samples": 16,
    "eval.every": 4,
}
"""Settings of every tiny cell, beside its recipe."""

LOSS_ARMS = {name: {"learners.loss": name} for name in LOSSES} | {
    "dr_grpo": {"learners.loss": "dr_grpo", "learners.advantage": "mean_only"},  # which belongs to it
    "ppo, coupled": {"learners.loss": "ppo", "learners.proximal": "behaviour"},
    "ppo, interpolated": {"learners.loss": "ppo", "learners.proximal": "interpolated"},
}
NO_STEPS = "this task has no judged steps"
ADVANTAGE_ARMS = {name: {"learners.advantage": name} for name in ADVANTAGES if name != "pure"}
CONFIRMED = {
    "dapo": {"learners.loss": "dapo"},
    "reinforce with leave_one_out": {"learners.loss": "reinforce", "learners.advantage": "leave_one_out"},
}
"""On SmolLM2, with the main job's recipe."""
OFF_POLICY = {"learners.updates_per_step": 2, "learners.max_lag": 1}
"""Two updates of a batch that may be one step old: otherwise all ratios are 1, and most losses are the same."""


class Rules(Bench):
    """Every loss and every advantage on one task with one budget."""

    name = "learn/rules"
    goal = "every loss and advantage learns on the tiny model; two are confirmed on SmolLM2"
    wall = ("45 min", "8 min")
    threads = 1

    def cells(self, quick: bool) -> Sequence[Cell]:
        arms = [("loss", arm) for arm in LOSS_ARMS] + [("advantage", arm) for arm in ADVANTAGE_ARMS]
        tiny = [{"kind": k, "arm": a, "seed": seed} for seed in SEEDS[: 1 if quick else None] for k, a in arms]
        return tiny if quick else [*tiny, *({"kind": "smollm2", "arm": a, "seed": 0} for a in CONFIRMED)]

    def run(self, cell: Cell) -> Mapping[str, Any]:
        if cell["kind"] == "smollm2":
            return trained("cpu", OFF_POLICY | CONFIRMED[cell["arm"]] | {"seed": cell["seed"]}, self.threads)
        arm = (LOSS_ARMS if cell["kind"] == "loss" else ADVANTAGE_ARMS)[cell["arm"]]
        return trained("tiny", TINY | OFF_POLICY | arm | {"seed": cell["seed"]}, self.threads)

    def figures(self, results: Sequence[Result]) -> list[Figure]:
        out = []
        for (kind, arm), found in _by(results, "kind", "arm").items():
            if kind == "smollm2":
                values = found[0].values
                figure = Figure(f"smollm2 {arm}: held-out accuracy", values["after"], values["low"], values["high"])
                out.append(figure)
            else:
                ends = [ended(r) for r in found]
                out.append(Figure.of(f"{kind} {arm}: held-out accuracy", ends, LEARNS, _note(found)))
        return [*out, Figure.missing("advantage pure: held-out accuracy", LEARNS, NO_STEPS)]

    def plot(self, results: Sequence[Result], folder: Path) -> list[Path]:
        tiny = [r for r in results if r.cell["kind"] != "smollm2"]
        return [save(folder / "learn-rules.png", partial(_draw_curves, arms=_by(tiny, "kind", "arm")))]


class Lag(Bench):
    """Accuracy against the allowed lag, for three corrections."""

    name = "learn/lag"
    goal = "where each off-policy correction breaks as max_lag grows (tiny model)"
    wall = ("25 min", "6 min")
    threads = 1
    lags = (0, 1, 2, 4, 8)
    corrections = ("none", "truncated", "masked")
    seeds = (*SEEDS, 3, 4)

    def cells(self, quick: bool) -> Sequence[Cell]:
        seeds = self.seeds[: 1 if quick else None]
        return [
            {"correction": c, "max_lag": lag, "seed": seed}
            for seed in seeds
            for lag in self.lags
            for c in self.corrections
        ]

    def run(self, cell: Cell) -> Mapping[str, Any]:
        settings = {
            "learners.correction": cell["correction"],
            "learners.max_lag": cell["max_lag"],
            "seed": cell["seed"],
        }
        return trained("tiny", TINY | OFF_POLICY | settings, self.threads)

    def figures(self, results: Sequence[Result]) -> list[Figure]:
        return [
            Figure.of(
                f"{correction}, max_lag {lag}: held-out accuracy", [ended(r) for r in found], "", _lag_note(found)
            )
            for (correction, lag), found in _by(results, "correction", "max_lag").items()
        ]

    def plot(self, results: Sequence[Result], folder: Path) -> list[Path]:
        return [save(folder / "learn-lag.png", partial(_draw_lag, cells=_by(results, "correction", "max_lag")))]


def trained(
    recipe: str, settings: Mapping[str, Any], threads: int, look: Callable[[Path], Mapping[str, Any]] | None = None
) -> dict[str, Any]:
    """Run a recipe with these settings: the curve of held-out accuracy, how the run ended, and what `look` finds in its
    folder."""
    with tempfile.TemporaryDirectory() as parent:
        folder = Path(parent) / "run"
        options = [f"--set={key}={toml(value)}" for key, value in settings.items()]
        path = RECIPES / f"{recipe}.toml"
        done = subprocess.run(
            [sys.executable, "-c", "from cluster.cli import main; main()", "run", path, *options, f"--out={folder}"],
            env=os.environ | {"OMP_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "PASSIVE", "PYTHONHASHSEED": "0"},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode not in (0, 3):
            raise RuntimeError(f"{settings}: exit code {done.returncode}:\n{done.stderr[-2000:]}")
        return _curve(folder, diverged=done.returncode == 3) | dict(look(folder) if look else {})


def toml(value: Any) -> str:
    """A value on one line, tables too."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{json.dumps(key)} = {toml(each)}" for key, each in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(toml, value)) + "]"
    return json.dumps(value)


def _curve(folder: Path, diverged: bool) -> dict[str, Any]:
    events, steps = (
        [json.loads(line) for line in (folder / f"{name}.jsonl").read_text().splitlines()]
        for name in ("events", "metrics")
    )
    begun = next(e["run_s"] for e in events if e["event"] == "usage")
    tokens = dict(zip([m["step"] for m in steps], np.cumsum([m["tokens"] for m in steps]).tolist(), strict=True))
    exams = {e.get("when", e["step"]): e for e in events if e["event"] == "evaluated"}
    after = exams.get("after", {})
    return {
        "diverged": diverged,
        "steps": len(steps),
        "before": exams["before"]["accuracy"],
        "after": after.get("accuracy"),
        "low": after.get("low"),
        "high": after.get("high"),
        "curve": [
            {
                "step": step,
                "seconds": round(e["run_s"] - begun, 2),
                "tokens": tokens[step],
                "accuracy": round(e["accuracy"], 4),
            }
            for step, e in exams.items()
            if isinstance(step, int)
        ],
        "lag": _mean([m["learn/lag_mean_steps"] for m in steps if "learn/lag_mean_steps" in m]),
        "ess": _mean([m["learn/ess_frac"] for m in steps if "learn/ess_frac" in m]),
    }


def ended(result: Result) -> float:
    """The accuracy that a cell ended with; 0 for one that diverged before its first evaluation."""
    return _mean([point["accuracy"] for point in result.values["curve"][-LAST:]]) or 0.0


def _mean(values: Sequence[float]) -> float | None:
    return round(sum(values) / len(values), 4) if values else None


def _by(results: Sequence[Result], *keys: str) -> dict[tuple[Any, ...], list[Result]]:
    """Results by these keys of their cells, in order."""
    out: dict[tuple[Any, ...], list[Result]] = {}
    for result in results:
        out.setdefault(tuple(result.cell[key] for key in keys), []).append(result)
    return out


def _note(found: Sequence[Result]) -> str:
    num = sum(r.values["diverged"] for r in found)
    return f"{num} of {len(found)} seeds diverged" if num else ""


def _lag_note(found: Sequence[Result]) -> str:
    lag, ess = (np.mean([r.values[key] or 0.0 for r in found]) for key in ("lag", "ess"))
    return "; ".join(filter(None, [f"mean lag {lag:.2f}, effective sample size {ess:.2f}", _note(found)]))


def _draw_curves(figure: Figure_, arms: Mapping[tuple[Any, ...], Sequence[Result]]) -> None:
    """Losses on the left, advantages on the right; against seconds above, tokens below."""
    axes = figure.subplots(2, 2, sharey=True)
    for row, (unit, label) in enumerate((("seconds", "seconds since the loop began"), ("tokens", "completion tokens"))):
        for column, kind in enumerate(("loss", "advantage")):
            axis = axes[row][column]
            names = [arm for k, arm in arms if k == kind]
            for number, arm in enumerate(names):
                curves = [r.values["curve"] for r in arms[kind, arm]]
                num = min(map(len, curves))
                x, y = (np.mean([[p[u] for p in c[:num]] for c in curves], axis=0) for u in (unit, "accuracy"))
                style = "--" if number >= len(COLORS) else "-"
                axis.plot(x, y, style, color=COLORS[number % len(COLORS)], label=arm, linewidth=2)
            axis.set(ylim=(0, 1))
            axis.set_xlabel(label, fontsize=16)
            axis.tick_params(labelsize=14)
            if row == 0:
                axis.set_title(f"held-out accuracy by {kind}", fontsize=20)
                axis.legend(fontsize=13, ncols=2)


def _draw_lag(figure: Figure_, cells: Mapping[tuple[Any, ...], Sequence[Result]]) -> None:
    """The median of the seeds, and their range."""
    axis = figure.subplots()
    for i, correction in enumerate(dict.fromkeys(c for c, _ in cells)):
        lags = [lag for c, lag in cells if c == correction]
        ends = [[ended(r) for r in cells[correction, lag]] for lag in lags]
        middle = np.array([np.median(e) for e in ends])
        spread = [middle - [min(e) for e in ends], [max(e) for e in ends] - middle]
        beside = np.arange(len(lags)) + 0.06 * (i - 1)  # or their bars hide one another
        axis.errorbar(beside, middle, spread, color=COLORS[i], label=correction, marker="o", capsize=6)
        axis.set_xticks(range(len(lags)), [str(lag) for lag in lags])
    axis.set(title="held-out accuracy at the end", xlabel="max_lag (learner steps)", ylim=(0, 1))
    axis.legend(title="correction")
