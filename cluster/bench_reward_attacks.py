"""`reward/attacks`: our verifiers against master keys, special values, code exploits and equivalent rewrites (E10a).

Every rewarder judges the sentinels of `rewarders.suites` on questions of its own kind: as `swarm certify` has it, over
more questions and with reasoning-gym's families that are known to have holes. Nothing wrong may be accepted; of the
ways to write a right number at least 99 in 100 must be.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping, Sequence
from typing import Any

from cluster.bench import Bench, Cell, Figure, Result
from rewarders.certificate import examine
from rewarders.registry import REWARDERS, build
from swarm.config import Spec, WeightedSpec
from swarm.types import Prompt

FAMILIES = ("chain_sum", "basic_arithmetic", "gcd", "complex_arithmetic", "coin_flip", "polynomial_equations")
HOLED = ("game_of_life_halting", "prime_factorization", "syllogism", "word_sorting")
ARMS: Mapping[str, tuple[Spec, str]] = {
    "exact": (Spec(name="exact"), "numbers"),
    "exact, last number": (Spec(name="exact", options={"extract": "number"}), "numbers"),
    "exact, boxed": (Spec(name="exact", options={"extract": "boxed"}), "numbers"),
    "numeric": (Spec(name="numeric"), "numbers"),
    "math_verify": (Spec(name="math_verify"), "numbers"),
    **{f"reasoning_gym {family}": (Spec(name="reasoning_gym"), family) for family in (*FAMILIES, *HOLED)},
    "code": (Spec(name="code"), "programs"),
}
SEEDS = (0, 1, 2)
QUESTIONS = 60
SUITES = {
    "master keys": ("key ", "mutated key"),
    "special values": ("special ",),
    "code exploits": ("exploit ",),
    "equivalent rewrites": ("written ",),
}


class Attacks(Bench):
    """Accepts of what says nothing, and of what is right in other words."""

    name = "reward/attacks"
    goal = "no verifier accepts a key, a special value or an exploit; at least 99 % of equivalent rewrites are accepted"
    wall = ("15 min", "2 min")

    def cells(self, quick: bool) -> Sequence[Cell]:
        arms = [arm for arm, (spec, _) in ARMS.items() if spec.name in REWARDERS]
        return [{"arm": arm, "seed": seed} for seed in SEEDS[: 1 if quick else None] for arm in arms]

    def run(self, cell: Cell) -> Mapping[str, Any]:
        spec, kind = ARMS[cell["arm"]]
        prompts = _prompts(kind, cell["seed"])
        [rewarder] = build([spec], 60.0)
        try:
            found = asyncio.run(examine(rewarder, spec, prompts, timeout_s=60.0, seed=cell["seed"]))
        finally:
            rewarder.close()
        tallies = found.tallies.families()
        counts = {
            suite: [
                sum(t.wrongly for name, t in tallies.items() if name.startswith(starts)),
                sum(t.num for name, t in tallies.items() if name.startswith(starts)),
                sum(t.unscored for name, t in tallies.items() if name.startswith(starts)),
            ]
            for suite, starts in SUITES.items()
        }
        wrong, right = found.tallies.pooled(False), found.tallies.pooled(True)
        every = {"all wrong": [wrong.wrongly, wrong.num, wrong.unscored]}
        every["the answer itself"] = [right.wrongly, right.num, right.unscored]
        missed = sorted(name for name, t in tallies.items() if t.right and t.wrongly)
        return {"counts": counts | every, "holes": found.holes, "missed": missed}

    def figures(self, results: Sequence[Result]) -> list[Figure]:
        out = []
        for arm in dict.fromkeys(r.cell["arm"] for r in results):
            mine = [r.values for r in results if r.cell["arm"] == arm]
            for suite in (*SUITES, "all wrong"):
                rates = [v["counts"][suite][0] / v["counts"][suite][1] for v in mine if v["counts"][suite][1]]
                if not rates:
                    continue
                total = sum(v["counts"][suite][1] for v in mine)
                unscored = sum(v["counts"][suite][2] for v in mine)
                note = f"{total} items, {unscored} without a value"
                if suite == "equivalent rewrites":
                    missed = sorted({name for v in mine for name in v["missed"] if name.startswith("written ")})
                    note += f"; missed: {', '.join(missed)}" if missed else ""
                    out.append(Figure.of(f"{arm}: {suite} accepted", [1 - rate for rate in rates], ">= 0.99", note))
                else:
                    holes = sorted({h["family"] for v in mine for h in v["holes"]}) if suite == "all wrong" else []
                    note += f"; accepted: {', '.join(holes)[:200]}" if holes else ""
                    goal = "" if suite == "all wrong" else "<= 0"
                    out.append(Figure.of(f"{arm}: {suite} accepted", rates, goal, note))
        return out


def _prompts(kind: str, seed: int) -> list[Prompt]:
    if kind == "numbers":
        return _numbers(seed)
    if kind == "programs":
        return _programs()
    from actors.tasks import TaskStream

    stream = TaskStream([WeightedSpec(name="reasoning_gym", options={"family": kind})], seed=seed)
    return [stream.next() for _ in range(QUESTIONS)]


def _numbers(seed: int) -> list[Prompt]:
    """Whole and decimal numbers of either sign, from one digit to seven."""
    rng = random.Random(seed)
    found: dict[str, Prompt] = {}
    while len(found) < QUESTIONS:
        value = rng.choice((-1, 1, 1, 1)) * rng.randint(2, 10 ** rng.randint(1, 7))
        answer = str(value) if rng.random() < 0.7 else f"{value / 100:.2f}"
        question = f"Which number comes between {float(answer) - 1.5:.2f} and {float(answer) + 1.5:.2f}?"
        found[answer] = Prompt(f"n{len(found)}", question, answer, "numbers")
    return list(found.values())


def _programs() -> list[Prompt]:
    """Small functions, each with asserts and a solution."""
    tasks = {
        "square": ("x * x", "(3) == 9", "(-4) == 16"),
        "double": ("2 * x", "(3) == 6", "(0) == 0"),
        "negate": ("-x", "(3) == -3", "(-2) == 2"),
        "is_even": ("x % 2 == 0", "(4) == True", "(7) == False"),
        "digits": ("[int(d) for d in str(x)]", "(120) == [1, 2, 0]", "(7) == [7]"),
        "reverse": ("x[::-1]", "('abc') == 'cba'", "('') == ''"),
    }
    return [
        Prompt(
            name,
            f"Write a Python function {name}(x).",
            None,
            "programs",
            {"tests": [f"assert {name}{t}" for t in tests], "solution": f"def {name}(x):\n    return {body}"},
        )
        for name, (body, *tests) in tasks.items()
    ]
