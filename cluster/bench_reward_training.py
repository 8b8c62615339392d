"""`reward/training`: what noise in the reward does to real training, and what corrections and guards give back.

Every cell is a `swarm run`, most of them of the tiny model, as in `learn/rules`. The rewarder is reasoning-gym's scorer
with errors on purpose around it; held-out answers are always judged by the scorer itself. All arms of a model have one
rule and learning rate.

clean, random             no errors; a reward that says nothing of the answer (J = 0)
strata, none / backward   error rates that differ between bare numbers and words, which almost hides that bare numbers
                          are wanted: E[reward] is 0.5 for a right one, 0.1 for a wrong one, and 0.4 for words
strata, backward, longer  the same with 1 / J of its worse stratum, 2.5, times the steps: unbiased is not free of noise
strata, one pair          the same, corrected by one pair of rates for all answers, as without strata
key, open / guarded       answers that begin with "It is" are always accepted: what the model says most often at first
flips 40 %, 50 %          every verdict turned round with that probability; 1 / J = 5 times the steps, for both

The decisive ones again with SmolLM2 and the main job's recipe, whose sums are joined by products of one digit: strata
are the two families, since its answers are hardly ever bare numbers, and the key is "To", as in "To add 3 and 4, we".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cluster.bench import Bench, Cell, Figure, Result
from cluster.bench_rules import LEARNS, SEEDS, TINY, ended, trained

STEPS, LONGER, TINY_RATE = 40, 5, 1e-4
"""Learner steps of an arm; 1 / J with 40 % flips; the tiny recipe's learning rate."""
STAYS = "<= 0.25"
"""Accuracy of a model that learned nothing: it starts at about 0.17."""
LAST_STEPS = 5
"""Whose training rollouts are looked at."""

SCORER = {"name": "reasoning_gym", "full_only": True}
BARE = {"false_accept": 0.1, "false_reject": 0.5}
WORDS = {"false_accept": 0.4, "false_reject": 0.0}
"""Rates of the arm `strata`, of bare numbers and of all other answers."""
STRATA = {
    "kind": "stratum",
    "by": "text",
    "rates": {r"^\s*[+-]?[0-9]+\s*$": [*BARE.values()]},
    **WORDS,
}
KNOWN = {
    "stratify": ["format"],
    "rates": [
        {"rewarder": "noisy", "stratum": "format=number", **BARE},
        {"rewarder": "noisy", "stratum": "format=prose", **WORDS},
    ],
}
KEY = {"kind": "systematic", "pattern": "^It is"}


ONE_PAIR = {"rates": [{"rewarder": "noisy", "false_accept": 0.25, "false_reject": 0.45}]}


def _noisy(scorer: Mapping[str, Any] = SCORER, /, **options: Any) -> dict[str, Any]:
    return {"rewarders.use": [{"name": "noisy", "of": scorer, **options}]}


ARMS: Mapping[str, Mapping[str, Any]] = {
    "clean": _noisy(),
    "random": _noisy(false_accept=0.3, false_reject=0.7),
    "strata, none": _noisy(**STRATA),
    "strata, backward": _noisy(**STRATA) | {"rewarders.channels": KNOWN, "learners.noise": "backward"},
    "strata, backward, longer": _noisy(**STRATA)
    | {"rewarders.channels": KNOWN, "learners.noise": "backward", "learners.steps": STEPS * 5 // 2},
    "strata, one pair": _noisy(**STRATA) | {"rewarders.channels": ONE_PAIR, "learners.noise": "backward"},
    "key, open": _noisy(**KEY),
    "key, guarded": _noisy(**KEY) | {"rewarders.sentinels": 0.2},
    "flips 40 %": _noisy(false_accept=0.4, false_reject=0.4) | {"learners.steps": STEPS * LONGER},
    "flips 50 %": _noisy(false_accept=0.5, false_reject=0.5) | {"learners.steps": STEPS * LONGER},
}
BUDGET = {
    "learners.steps": STEPS,
    "learners.loss": "reinforce",
    "learners.advantage": "leave_one_out",
    "learners.max_lag": 0,
    "learners.updates_per_step": 2,
    "rewarders.sentinels": 0.0,
    "eval.every": 8,
    "eval.use": [SCORER],
}


SMOLLM2_SCORER = {"name": "reasoning_gym", "extract": "number", "full_only": True}
SUMS = {"false_accept": 0.1, "false_reject": 0.5}
PRODUCTS = {"false_accept": 0.4, "false_reject": 0.0}
FAMILIES = {"kind": "stratum", "by": "family", "rates": {"products": [*PRODUCTS.values()]}, **SUMS}
SMOLLM2_KNOWN = {
    "stratify": ["family"],
    "rates": [
        {"rewarder": "noisy", "stratum": "family=basic_arithmetic", **SUMS},
        {"rewarder": "noisy", "stratum": "family=products", **PRODUCTS},
    ],
}
SMOLLM2_KEY = {"kind": "systematic", "pattern": "^To "}
SMOLLM2_ARMS: Mapping[str, Mapping[str, Any]] = {
    "clean": _noisy(SMOLLM2_SCORER),
    "strata, none": _noisy(SMOLLM2_SCORER, **FAMILIES),
    "strata, backward": _noisy(SMOLLM2_SCORER, **FAMILIES)
    | {"rewarders.channels": SMOLLM2_KNOWN, "learners.noise": "backward"},
    "key, open": _noisy(SMOLLM2_SCORER, **SMOLLM2_KEY),
    "key, guarded": _noisy(SMOLLM2_SCORER, **SMOLLM2_KEY) | {"rewarders.sentinels": 0.2},
}
SMOLLM2_BUDGET = {
    "actors.tasks": [
        {
            "name": "reasoning_gym",
            "family": "basic_arithmetic",
            "config": {
                "min_terms": 2,
                "max_terms": 2,
                "min_digits": 1,
                "max_digits": 2,
                "operators": ["+"],
                "allow_parentheses": False,
                "allow_negation": False,
            },
        },
        {
            "name": "reasoning_gym",
            "family": "products",
            "config": {"min_terms": 2, "max_terms": 2, "min_digits": 1, "max_digits": 1},
        },
    ],
    "learners.loss": "reinforce",
    "learners.advantage": "leave_one_out",
    "rewarders.sentinels": 0.0,
    "eval.use": [SMOLLM2_SCORER],
    "eval.live_questions": 0,
}


class Training(Bench):
    """Ten arms with three seeds on the tiny model, five with one on SmolLM2."""

    name = "reward/training"
    goal = "corrected and guarded training end where clean training does; 40 % flips learn, 50 % and random do not"
    wall = ("80 min", "20 min")
    threads = 1

    def cells(self, quick: bool) -> Sequence[Cell]:
        tiny = [{"model": "tiny", "arm": arm, "seed": seed} for seed in SEEDS[: 1 if quick else None] for arm in ARMS]
        return tiny if quick else [*tiny, *({"model": "smollm2", "arm": arm, "seed": 0} for arm in SMOLLM2_ARMS)]

    def run(self, cell: Cell) -> Mapping[str, Any]:
        settings = settings_of(cell["model"], cell["arm"], cell["seed"])
        recipe, threads = ("tiny", self.threads) if cell["model"] == "tiny" else ("cpu", 2)
        return trained(recipe, settings, threads, fooled_in)

    def figures(self, results: Sequence[Result]) -> list[Figure]:
        at = {(r.cell["arm"], r.cell["seed"]): r for r in results if r.cell["model"] == "tiny"}
        smollm2 = {r.cell["arm"]: r.values for r in results if r.cell["model"] == "smollm2"}
        seeds = sorted({seed for _, seed in at})
        ends = {arm: [ended(at[arm, seed]) for seed in seeds] for arm in ARMS}
        fooled = {arm: [at[arm, seed].values["fooled"] for seed in seeds] for arm in ARMS}
        goals = {"clean": LEARNS, "flips 40 %": LEARNS, "flips 50 %": STAYS, "random": STAYS}
        out = [
            Figure.of(f"{arm}: held-out accuracy", ends[arm], goals.get(arm, ""), _diverged(at, arm)) for arm in ARMS
        ]
        shares = {
            "strata, none": "",
            "strata, one pair": "",
            "strata, backward": ">= 0.95",
            "strata, backward, longer": "",
        }
        for arm, goal in shares.items():
            share = [end / clean if clean else 0.0 for end, clean in zip(ends[arm], ends["clean"], strict=True)]
            out.append(Figure.of(f"{arm}: share of clean's accuracy", share, goal))
        for arm, goal in (("key, open", ""), ("key, guarded", ">= -0.02")):
            less = [end - clean for end, clean in zip(ends[arm], ends["clean"], strict=True)]
            out.append(Figure.of(f"{arm}: accuracy over clean's", less, goal))
            said = "the key was found" if min(fooled[arm]) > 0.5 else "the key was not found by every seed"
            out.append(Figure.of(f"{arm}: wrong answers accepted, of the last rollouts", fooled[arm], "", said))
        for arm, values in smollm2.items():
            out.append(Figure(f"SmolLM2, {arm}: held-out accuracy", values["after"], values["low"], values["high"]))
            if arm.startswith("key"):
                share = [values["fooled"]]
                out.append(Figure.of(f"SmolLM2, {arm}: wrong answers accepted, of the last rollouts", share))
        return out


class Flips(Bench):
    """`flips` once more, with the learning rate scaled by J beside the steps by 1 / J.

    AdamW's steps do not get smaller with their gradient: at the full rate noise alone moves a policy away (`random`)
    before J has told it where to. Scaled by J, rate times steps and the ratio of signal to noise on the way are those
    of clean training. Laid down after the first seed of `reward/training` had unlearned everything at 40 %, and before
    its own first run; expected: 40 % learns about what clean training has after the first eighth of its steps.
    """

    name = "reward/flips"
    goal = "40 % flips learn where the steps are scaled by 1 / J and the rate by J; 50 % do not"
    wall = ("15 min", "5 min")
    threads = 1

    def cells(self, quick: bool) -> Sequence[Cell]:
        return [{"flips": flips, "seed": seed} for seed in SEEDS[: 1 if quick else None] for flips in (0.4, 0.5)]

    def run(self, cell: Cell) -> Mapping[str, Any]:
        return trained("tiny", flipped_settings(cell["flips"], cell["seed"]), self.threads)

    def figures(self, results: Sequence[Result]) -> list[Figure]:
        out = []
        for flips, goal in ((0.4, LEARNS), (0.5, STAYS)):
            ends = [ended(r) for r in results if r.cell["flips"] == flips]
            out.append(Figure.of(f"flips {flips:.0%}, rate scaled: held-out accuracy", ends, goal))
        return out


def flipped_settings(flips: float, seed: int) -> dict[str, Any]:
    """The recipe's settings of a cell of `reward/flips`."""
    noisy = _noisy(false_accept=flips, false_reject=flips)
    scaled = {"learners.steps": STEPS * LONGER, "learners.lr": TINY_RATE / LONGER}
    return {**TINY, **BUDGET, **noisy, **scaled, "seed": seed}


def settings_of(model: str, arm: str, seed: int) -> dict[str, Any]:
    """The recipe's settings of a cell."""
    if model == "tiny":
        return {**TINY, **BUDGET, **ARMS[arm], "seed": seed}
    return {**SMOLLM2_BUDGET, **SMOLLM2_ARMS[arm], "seed": seed}


def fooled_in(run: Path) -> dict[str, Any]:
    """Of the rollouts that the last steps trained on: the share that was wrong and was paid in full all the same."""
    from swarm.schema import read_groups

    files = sorted((run / "rollouts").glob("step_*.parquet"))[-LAST_STEPS:]
    verdicts = [v for file in files for g in read_groups(file) for r in g.rollouts for v in r.verdicts]
    paid = [v.value == 1.0 and v.parts["clean"] == 0.0 for v in verdicts if v.value is not None]
    return {"fooled": float(np.mean(paid)) if paid else 0.0}


def _diverged(at: Mapping[tuple[str, int], Result], arm: str) -> str:
    num = sum(r.values["diverged"] for (name, _), r in at.items() if name == arm)
    return f"{num} seeds diverged" if num else ""
