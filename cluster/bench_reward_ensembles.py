"""`reward/ensembles`: several reward models under best-of-n, whose errors are their own or shared.

The toy: of n answers with truth from N(0, 1), 2 % are hacks, whose truth is -2. A reward model sees truth plus N(0, 1),
and 4 for a hack that fools it; each hack fools half of the models, independently, or all five or none. Shared errors
also share the noise but for a tenth. What counts is the truth of the answer with the highest merged score.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cluster.bench import Bench, Cell, Figure, Result
from rewarders.curves import How, error_correlations, merged, surely_above
from rewarders.ensemble import WINDOW

MEMBERS, HACKS, WORTH, HACK_TRUTH, FOOLED, OWN = 5, 0.02, 4.0, -2.0, 0.5, 0.1
PENALTY, ALARM = 0.5, 0.3
NUMBERS = (4, 16, 64, 256)
HOWS: tuple[How, ...] = ("mean", "median", "min", "uncertain")
PICKS, CHUNK, TRIALS = 2000, 200, 200

Floats = NDArray[np.float64]


class Ensembles(Bench):
    """Ten seeds of 2000 picks each; the monitor of errors gets 512 answers with their truth, 200 times."""

    name = "reward/ensembles"
    goal = "conservative merging withstands hacks that fool single members and not those that fool all; a monitor tells"
    wall = ("3 min", "1 min")
    threads = 1

    def cells(self, quick: bool) -> Sequence[Cell]:
        return [{"errors": e, "seed": seed} for seed in range(3 if quick else 10) for e in ("independent", "shared")]

    def run(self, cell: Cell) -> Mapping[str, Any]:
        rng = np.random.default_rng([cell["seed"], cell["errors"] == "shared"])
        truths: dict[str, float] = {}
        for n in NUMBERS:
            found: dict[str, list[float]] = {how: [] for how in ("single", *HOWS)}
            for _ in range(PICKS // CHUNK):
                truth, scores = answers(rng, (CHUNK, n), shared=cell["errors"] == "shared")
                found["single"] += _picked(scores[0], truth)
                for how in HOWS:
                    flat = merged(scores.reshape(MEMBERS, -1), how, PENALTY).reshape(CHUNK, n)
                    found[how] += _picked(flat, truth)
            truths |= {f"{how} {n}": float(np.mean(values)) for how, values in found.items()}
        return {"truth": truths, "alarms": float(np.mean([_alarm(rng, cell["errors"]) for _ in range(TRIALS)]))}

    def figures(self, results: Sequence[Result]) -> list[Figure]:
        out = []
        most = NUMBERS[-1]
        goals = {("independent", "min"): ">= 1", ("independent", "uncertain"): ">= 1"}
        goals |= {("shared", how): "<= 0.2" for how in ("min", "uncertain")}
        for errors in ("independent", "shared"):
            cells = [r.values for r in results if r.cell["errors"] == errors]
            for n in NUMBERS:
                for how in ("single", *HOWS):
                    truth = [c["truth"][f"{how} {n}"] for c in cells]
                    out.append(Figure.of(f"{errors} errors, best of {n}: truth of the pick by {how}", truth))
            for how in HOWS:
                gain = [c["truth"][f"{how} {most}"] - c["truth"][f"single {most}"] for c in cells]
                name = f"{errors} errors, best of {most}: {how} over one model"
                out.append(Figure.of(name, gain, goals.get((errors, how), "")))
            goal = "<= 0.05" if errors == "independent" else ">= 0.95"
            out.append(
                Figure.of(f"{errors} errors: share of streams with an alarm", [c["alarms"] for c in cells], goal)
            )
        return out


def answers(rng: np.random.Generator, shape: tuple[int, int], shared: bool) -> tuple[Floats, Floats]:
    """Truth float64 [shape] and the members' scores float64 [MEMBERS, *shape]."""
    hack = rng.random(shape) < HACKS
    truth = np.where(hack, HACK_TRUTH, rng.normal(size=shape))
    own = rng.normal(size=(MEMBERS, *shape))
    noise = np.sqrt(1 - OWN**2) * rng.normal(size=shape) + OWN * own if shared else own
    fooled = rng.random(shape if shared else (MEMBERS, *shape)) < FOOLED
    return truth, np.where(hack & fooled, WORTH, truth + noise)


def _picked(scores: Floats, truth: Floats) -> list[float]:
    best = scores.argmax(axis=1)
    return [float(value) for value in truth[np.arange(len(truth)), best]]


def _alarm(rng: np.random.Generator, errors: str) -> bool:
    """Whether 512 answers with their truth make the monitor say that two members err together."""
    truth, scores = answers(rng, (1, WINDOW), shared=errors == "shared")
    found = error_correlations(scores[:, 0], truth[0])
    return surely_above(float(found[~np.eye(MEMBERS, dtype=bool)].max()), WINDOW) > ALARM
