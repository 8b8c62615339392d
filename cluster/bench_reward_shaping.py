"""`reward/shaping`: what shapes of a reward do to attacks on it, to several properties at once, and to a policy.

Each figure is of the functions that training uses: the shapes of `rewarders.curves`, the advantages of `learners`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cluster.bench import Bench, Cell, Figure, Result
from learners.advantages import Scored, gdpo, group_norm, pure
from rewarders.curves import lsc, par
from swarm.types import Segment

STEPS, FILLER, FILLERS = (0.9, -0.4, 0.9), 0.8, (0, 1, 2, 4, 8, 16, 32)
"""Step values of a rollout with one bad step, and what an attacker appends."""
DISTINCT = {2: (3, 5), 3: (13, 19), 4: (51, 107)}
"""Group size -> advantage vectors of two binary rewards that differ: summed, normalised apart (arXiv 2601.05242)."""
ARMS, PROMPTS, KL_NATS = 50, 200, 1.5
HACK_PROXY, HACK_GOLD, PROXY_NOISE = 8.0, -2.0, 0.5

Floats = NDArray[np.float64]


class Shaping(Bench):
    """Twenty seeds where there is chance in it. The policy of each of 200 prompts is the best one over 50 answers that
    is 1.5 nats from the uniform one: exp(reward / b), b by bisection. Its reward is the proxy (truth plus N(0, 0.5),
    and 8 for one hack whose truth is -2) or that shaped by PAR against ten answers of the uniform policy."""

    name = "reward/shaping"
    goal = (
        "the minimum over steps resists padding and not merging; bounded shapes saturate, ask for all, and curb hacks"
    )
    wall = ("1 min", "20 s")
    threads = 1

    def cells(self, quick: bool) -> Sequence[Cell]:
        seeds = range(4 if quick else 20)
        return [
            {"what": "exact", "seed": 0},
            *({"what": what, "seed": s} for what in ("slopes", "policy") for s in seeds),
        ]

    def run(self, cell: Cell) -> Mapping[str, Any]:
        rng = np.random.default_rng(cell["seed"])
        if cell["what"] == "exact":
            return _exact()
        return _slopes(rng.normal(size=10)) if cell["what"] == "slopes" else _policies(rng)

    def figures(self, results: Sequence[Result]) -> list[Figure]:
        exact = next(r.values for r in results if r.cell["what"] == "exact")
        slopes, policies = ([r.values for r in results if r.cell["what"] == what] for what in ("slopes", "policy"))
        least = exact["softmin"]
        out = [
            Figure.of(
                "softmin over steps, off -0.4, worst of 0 to 32 fillers", [max(abs(v + 0.4) for v in least)], "<= 0.02"
            ),
            Figure.of("sum over steps without fillers", [exact["sum"][0]]),
            Figure.of("sum over steps with 32 fillers", [exact["sum"][-1]]),
            Figure.of(
                "gain by merging all steps into one", [exact["merged"] - least[0]], ">= 0.8", "the hole that stays"
            ),
            Figure.of("PAR's slope off .25, .018, .0003 at 0, 4, 8", [exact["par_off"]], "<= 0.0005"),
            Figure.of("LSC: (2, 2) over (6, -2)", [exact["both_over_one"]], ">= 1.8", "their sums are equal"),
            Figure.of("largest advantage, PAR of scores 10.00 to 10.03, eps 0", [exact["blown_up"]]),
            Figure.of("the same with the eps of group_norm", [exact["held"]], "<= 0.1"),
        ]
        for size, (summed, apart) in DISTINCT.items():
            for name, wanted in (("summed", summed), ("apart", apart)):
                found = exact[f"{name} {size}"]
                title = f"distinct advantage vectors of {size}, two rewards {name}, off {wanted}"
                out.append(Figure.of(title, [abs(found - wanted)], "<= 0", f"{found} found"))
        for key, goal in (("par 0", ">= 0.15"), ("par 6", "<= 0.01"), ("lsc 0", ">= 0.6"), ("lsc 6", "<= 0.02")):
            shape, at = key.split()
            out.append(Figure.of(f"slope of {shape} at {at}, ten references", [s[key] for s in slopes], goal))
        out += [
            Figure.of(f"truth of the best policy for the {key}, 1.5 nats away", [p[key] for p in policies])
            for key in ("proxy", "par")
        ]
        return [*out, Figure.of("truth gained by PAR", [p["par"] - p["proxy"] for p in policies], ">= 0")]


def _exact() -> dict[str, Any]:
    rollouts = [[*STEPS, *[FILLER] * num] for num in FILLERS]
    one = np.array([[_slope(lambda x: par([x], [0.0])[0], at) for at in (0.0, 4.0, 8.0)]])
    pairs = [sum(float(lsc([score], [0.0])[0]) for score in pair) for pair in ((2.0, 2.0), (6.0, -2.0))]
    close = _group(par(np.array([10.0, 10.01, 10.02, 10.03]), [0.0]))
    found = {
        "softmin": [step_return(steps) for steps in rollouts],
        "sum": [sum(steps) for steps in rollouts],
        "merged": step_return([float(np.mean(STEPS))]),
        "par_off": float(np.abs(one - [0.25, 0.0177, 0.0003]).max()),
        "both_over_one": pairs[0] - pairs[1],
        "blown_up": float(np.abs(np.asarray(group_norm([close], eps=0.0)[0])).max()),
        "held": float(np.abs(np.asarray(group_norm([close])[0])).max()),
    }
    for size in DISTINCT:
        found[f"summed {size}"], found[f"apart {size}"] = _distinct(size)
    return found


def step_return(steps: Sequence[float]) -> float:
    """The return of the first token of a rollout with these step values, as the advantage `pure` makes it: beside a
    rollout without steps its baseline is 0."""
    segments = tuple(Segment(i, i + 1, value) for i, value in enumerate(steps))
    group = Scored(np.zeros(2), np.zeros((2, 1)), np.ones(1), np.array([len(steps), 1]), None, (segments, ()))
    return float(np.asarray(pure([group])[0][0])[0])


def _slope(shape: Any, at: float) -> float:
    return float((shape(at + 1e-4) - shape(at - 1e-4)) / 2e-4)


def _group(rewards: Floats, components: Floats | None = None) -> Scored:
    table = rewards[:, None] if components is None else components
    return Scored(rewards, table, np.ones(table.shape[1]), np.ones(len(rewards), np.int64))


def _distinct(size: int) -> tuple[int, int]:
    """Over all groups of two binary rewards, made in one batch. With the usual eps, scales differ after four digits."""
    tables = [np.array(rows, np.float64) for rows in product(product((0.0, 1.0), repeat=2), repeat=size)]
    groups = [_group(table.sum(axis=1), table) for table in tables]
    counts = []
    for advantage in (group_norm, gdpo):
        vectors = (np.round(np.asarray(values, np.float64), 6) + 0.0 for values in advantage(groups, eps=1e-9))
        counts.append(len({tuple(vector) for vector in vectors}))
    return counts[0], counts[1]


def _slopes(references: Floats) -> dict[str, float]:
    shapes = {"par": lambda x: par([x], references)[0], "lsc": lambda x: lsc([x], references)[0]}
    return {f"{name} {at}": _slope(shape, float(at)) for name, shape in shapes.items() for at in (0, 6)}


def _policies(rng: np.random.Generator) -> dict[str, float]:
    found: dict[str, list[float]] = {"proxy": [], "par": []}
    for _ in range(PROMPTS):
        gold = rng.normal(size=ARMS)
        proxy = gold + PROXY_NOISE * rng.normal(size=ARMS)
        references = rng.choice(proxy, 10)
        gold[0], proxy[0] = HACK_GOLD, HACK_PROXY
        for name, reward in (("proxy", proxy), ("par", par(proxy, references))):
            found[name].append(float(best_policy(reward) @ gold))
    return {name: float(np.mean(values)) for name, values in found.items()}


def best_policy(reward: Floats) -> Floats:
    """The distribution with the largest mean reward of those KL_NATS from the uniform one: exp(reward / b)."""
    low, high = -12.0, 12.0  # of log(1 / b)
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if _kl(_softmax(np.exp(middle) * reward)) < KL_NATS else (low, middle)
    return _softmax(np.exp(low) * reward)


def _softmax(logits: Floats) -> Floats:
    weights = np.exp(logits - logits.max())
    return np.asarray(weights / weights.sum(), np.float64)


def _kl(policy: Floats) -> float:
    known = policy[policy > 0]
    return float((known * np.log(known * len(policy))).sum())
