"""`reward/gradient`, `reward/phase`, `reward/step-size`, `reward/group-flips`: what noise and its correction do to a
gradient and to learning, where the truth is known.

A bandit: prompts with some right answers each, a softmax over the answers, plain SGD, a noisy verifier. Advantages and
corrections are the learner's own functions. Exact for this toy; evidence about mechanisms, not about language models.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cluster.bench import Bench, Cell, Figure, Result
from learners.advantages import Scored, group_norm, leave_one_out, no_baseline
from learners.noise import backward, forward, none

Floats = NDArray[np.float64]
Advantage = Callable[[Sequence[Scored]], Sequence[Any]]
Correction = Callable[[Floats, Floats, Floats], Floats]

GROUP = 8
SEEDS = range(20)


def scored(rewards: Floats) -> Scored:
    """Rewards [n] of one rewarder."""
    return Scored(rewards, rewards[:, None], np.ones(1), np.ones(len(rewards), np.int64))


def softmax(logits: Floats) -> Floats:
    """Over the last axis."""
    e = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return np.asarray(e / e.sum(axis=-1, keepdims=True))


def heard(right: NDArray[np.bool_], p0: Floats | float, p1: Floats | float, coin: Floats) -> Floats:
    """What a verifier of these rates says; `coin` is uniform, of the shape of `right`."""
    return np.where(right, coin >= p1, coin < p0).astype(np.float64)


# --- the direction of the gradient -----------------------------------------------------------------------------------

PROMPTS, ANSWERS, GROUPS, Z_GROUPS = 8, 12, 40_000, 4_000
"""Groups of each prompt; z-scores, whose direction is what counts, take the first of them."""
UNSCALED = partial(forward, scaled=False)
ARMS: Mapping[str, tuple[Correction, Advantage]] = {
    "uncorrected, no baseline": (none, no_baseline),
    "uncorrected, leave_one_out": (none, leave_one_out),
    "backward, no baseline": (backward, no_baseline),
    "backward, leave_one_out": (backward, leave_one_out),
    "forward, not scaled": (UNSCALED, no_baseline),
    "forward": (forward, no_baseline),
    "uncorrected, z-score": (none, partial(group_norm, eps=1e-6)),
    "backward, z-score": (backward, partial(group_norm, eps=1e-6)),
    "forward, z-score": (UNSCALED, partial(group_norm, eps=1e-6)),
}


class Gradient(Bench):
    """E1: the estimated gradient against the exact one of the truth."""

    name = "reward/gradient"
    goal = "backward is unbiased; z-scoring cancels every correction; rates by stratum mend the direction"
    wall = ("3 min", "1 min")

    def cells(self, quick: bool) -> Sequence[Cell]:
        return [{"rates": r, "seed": s} for s in range(1 if quick else 3) for r in ("equal", "by prompt")]

    def run(self, cell: Cell) -> Mapping[str, Any]:
        rng = np.random.default_rng(cell["seed"])
        right = np.zeros((PROMPTS, ANSWERS), bool)
        for row in right:
            row[rng.permutation(ANSWERS)[: rng.integers(1, 6)]] = True
        policy = softmax(rng.standard_normal((PROMPTS, ANSWERS)))
        p0, p1 = np.full(PROMPTS, 0.1), np.full(PROMPTS, 0.2)
        if cell["rates"] == "by prompt":
            p0, p1 = rng.uniform(0.0, 0.35, PROMPTS), rng.uniform(0.0, 0.5, PROMPTS)
        value = (policy * right).sum(axis=1, keepdims=True)
        exact = policy * (right - value)
        found = {arm: np.empty_like(exact) for arm in ARMS}
        z_scores: dict[str, list[Floats]] = {arm: [] for arm in ARMS if "z-score" in arm}
        for x in range(PROMPTS):
            asked = rng.choice(ANSWERS, (GROUPS, GROUP), p=policy[x])
            said = heard(right[x][asked], p0[x], p1[x], rng.random(asked.shape))
            rates = np.full(said.size, p0[x]), np.full(said.size, p1[x])
            for arm, (correct, advantage) in ARMS.items():
                rewards = correct(said.ravel(), *rates).reshape(said.shape)[: Z_GROUPS if arm in z_scores else None]
                a = np.stack(advantage([scored(r) for r in rewards]))
                chosen = np.bincount(asked[: len(a)].ravel(), a.ravel(), ANSWERS)
                found[arm][x] = (chosen - policy[x] * a.sum()) / a.size
                if arm in z_scores:
                    z_scores[arm].append(a)
        plain = np.concatenate(z_scores.pop("uncorrected, z-score"))
        return {
            "arms": {arm: _against(exact, gradient) for arm, gradient in found.items()},
            "z_differs": {arm: float(np.abs(np.concatenate(a) - plain).max()) for arm, a in z_scores.items()},
        }

    def figures(self, results: Sequence[Result]) -> list[Figure]:
        out = []
        for kind in ("equal", "by prompt"):
            of = [r.values for r in results if r.cell["rates"] == kind]
            for arm in ARMS:
                arms = [v["arms"][arm] for v in of]
                unbiased = arm.startswith("backward") and "z-score" not in arm
                note = f"scale {np.median([a['scale'] for a in arms]):.3f}"
                name = f"{arm}, rates {kind}"
                out.append(Figure.of(f"relative bias, {name}", [a["bias"] for a in arms], "<= 0.03" * unbiased, note))
                goal = ">= 0.999" if unbiased and kind == "by prompt" else ""
                out.append(Figure.of(f"cosine to the clean gradient, {name}", [a["cosine"] for a in arms], goal))
            for arm in of[0]["z_differs"]:
                differs = [v["z_differs"][arm] for v in of]
                out.append(Figure.of(f"largest change by correcting, {arm}, rates {kind}", differs, "<= 1e-5"))
        uneven = [r.values["arms"] for r in results if r.cell["rates"] == "by prompt"]
        one, other = "backward, leave_one_out", "uncorrected, leave_one_out"
        gains = [v[one]["cosine"] - v[other]["cosine"] for v in uneven]
        out.append(Figure.of("cosine gained by correcting, leave_one_out, rates by prompt", gains, ">= 0.03"))
        return out


def _against(exact: Floats, found: Floats) -> dict[str, float]:
    norm, dot = float((exact**2).sum()), float((exact * found).sum())
    return {
        "cosine": dot / float(np.sqrt(norm * (found**2).sum())),
        "scale": dot / norm,
        "bias": float(np.sqrt(((found - exact) ** 2).sum() / norm)),
    }


# --- learning ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Curve:
    """Accuracy after each step, and the last policy [prompts, answers]."""

    accuracy: Floats
    policy: Floats

    def steps_to(self, level: float) -> int | None:
        """The first step with at least this accuracy."""
        above = np.flatnonzero(self.accuracy >= level)
        return int(above[0]) + 1 if len(above) else None


def learn(
    seed: int,
    p0: float,
    p1: float,
    advantage: Advantage = group_norm,
    correct: Correction = none,
    *,
    lr: float = 1.0,
    steps: int = 400,
    by_group: bool = False,
) -> Curve:
    """Six prompts of ten answers, two of them right. Every arm of a seed draws the same uniform numbers. `by_group`:
    one coin flips the verdicts of a whole group, at rate p0."""
    prompts, answers = 6, 10
    rng = np.random.default_rng(seed)
    right = np.zeros((prompts, answers), bool)
    for row in right:
        row[rng.permutation(answers)[:2]] = True
    logits, accuracy = np.zeros((prompts, answers)), np.empty(steps)
    rates = np.full(prompts * GROUP, p0), np.full(prompts * GROUP, p1)
    for step in range(steps):
        policy = softmax(logits)
        edges = policy.cumsum(axis=1)[:, None, :-1]
        asked = (rng.random((prompts, GROUP, 1)) >= edges).sum(axis=2)
        truth = np.take_along_axis(right, asked, axis=1)
        coin = rng.random((prompts, GROUP))
        said = truth != (coin[:, :1] < p0) if by_group else heard(truth, p0, p1, coin)
        rewards = correct(said.astype(np.float64).ravel(), *rates).reshape(said.shape)
        for x, a in enumerate(advantage([scored(r) for r in rewards])):
            logits[x] += lr * (np.bincount(asked[x], a, answers) - policy[x] * a.sum()) / GROUP
        policy = softmax(logits)
        accuracy[step] = (policy * right).sum(axis=1).mean()
    return Curve(accuracy, policy)


class Phase(Bench):
    """E2: learning is decided by J alone."""

    name = "reward/phase"
    goal = "with random noise J > 0 costs time, not the outcome; below 0 learning reverses"
    wall = ("1 min", "10 s")
    js = (1.0, 0.7, 0.4, 0.2, 0.1, 0.0, -0.1)

    def cells(self, quick: bool) -> Sequence[Cell]:
        return [{"j": j, "seeds": 3 if quick else len(SEEDS)} for j in self.js]

    def run(self, cell: Cell) -> Mapping[str, Any]:
        rate = (1.0 - cell["j"]) / 2.0
        curves = [learn(seed, rate, rate) for seed in range(cell["seeds"])]
        return {"final": [float(c.accuracy[-1]) for c in curves], "steps": [c.steps_to(0.9) for c in curves]}

    def figures(self, results: Sequence[Result]) -> list[Figure]:
        of = {r.cell["j"]: r.values for r in results}
        out = []
        for j, values in of.items():
            goal = ">= 0.95" if j >= 0.2 else "<= 0.05" if j <= -0.1 else ""
            out.append(Figure.of(f"accuracy after 400 steps, J = {j:g}", values["final"], goal))
        clean = float(np.median(of[1.0]["steps"]))
        for j in self.js:
            if j >= 0.2 and all(of[j]["steps"]):
                ratio = [steps * j / clean for steps in of[j]["steps"]]
                note = f"{np.median(of[j]['steps']):.0f} steps"
                out.append(Figure.of(f"steps to 0.9 times J, over those at J = 1, J = {j:g}", ratio, "<= 2", note))
                out.append(Figure.of(f"the same from below, J = {j:g}", ratio, ">= 0.5"))
        return out


class StepSize(Bench):
    """E3: with one rate pair a correction is a step size."""

    name = "reward/step-size"
    goal = "with equal rates backward with leave_one_out is leave_one_out at learning rate / J"
    wall = ("1 min", "10 s")
    noises: Mapping[str, tuple[float, float]] = {"mild": (0.1, 0.2), "heavy": (0.3, 0.4)}

    def cells(self, quick: bool) -> Sequence[Cell]:
        return [{"noise": noise, "seeds": 2 if quick else len(SEEDS)} for noise in self.noises]

    def run(self, cell: Cell) -> Mapping[str, Any]:
        p0, p1 = self.noises[cell["noise"]]
        arms: dict[str, dict[str, Any]] = {
            "group_norm": {},
            "leave_one_out": {"advantage": leave_one_out},
            "backward": {"advantage": leave_one_out, "correct": backward},
            "leave_one_out, lr / J": {"advantage": leave_one_out, "lr": 1.0 / (1.0 - p0 - p1)},
            "forward, not scaled": {"advantage": no_baseline, "correct": UNSCALED},
            "forward": {"advantage": no_baseline, "correct": forward},
        }
        curves = {arm: [learn(s, p0, p1, **how) for s in range(cell["seeds"])] for arm, how in arms.items()}
        pairs = zip(curves["backward"], curves["leave_one_out, lr / J"], strict=True)
        return {
            "at_50": {arm: [float(c.accuracy[49]) for c in found] for arm, found in curves.items()},
            "final": {arm: [float(c.accuracy[-1]) for c in found] for arm, found in curves.items()},
            "apart": [float(np.abs(a.policy - b.policy).max()) for a, b in pairs],
        }

    def figures(self, results: Sequence[Result]) -> list[Figure]:
        out = []
        for r in results:
            noise = r.cell["noise"]
            name = f"largest difference of the policies after 400 steps, {noise} noise"
            out.append(Figure.of(name, r.values["apart"], "<= 1e-6", "backward against leave_one_out at lr / J"))
            for when, said in (("at_50", "at step 50"), ("final", "after 400 steps")):
                out += [Figure.of(f"accuracy {said}, {arm}, {noise} noise", v) for arm, v in r.values[when].items()]
        return out


class GroupFlips(Bench):
    """E4: one coin flips a whole group."""

    name = "reward/group-flips"
    goal = "flips that a group shares still converge at J = 0.6, slower than independent ones"
    wall = ("30 s", "10 s")

    def cells(self, quick: bool) -> Sequence[Cell]:
        return [{"flips": kind, "seeds": 3 if quick else len(SEEDS)} for kind in ("independent", "by group")]

    def run(self, cell: Cell) -> Mapping[str, Any]:
        by_group = cell["flips"] == "by group"
        curves = [learn(seed, 0.2, 0.2, by_group=by_group) for seed in range(cell["seeds"])]
        return {"final": [float(c.accuracy[-1]) for c in curves], "steps": [c.steps_to(0.9) for c in curves]}

    def figures(self, results: Sequence[Result]) -> list[Figure]:
        of = {r.cell["flips"]: r.values for r in results}
        out = [Figure.of(f"accuracy after 400 steps, flips {kind}", v["final"], ">= 0.95") for kind, v in of.items()]
        if all(s for v in of.values() for s in v["steps"]):
            pairs = zip(of["by group"]["steps"], of["independent"]["steps"], strict=True)
            out.append(Figure.of("steps to 0.9, by group over independent", [a / b for a, b in pairs], ">= 1"))
        return out
