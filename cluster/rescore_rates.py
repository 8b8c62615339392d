"""Error rates of several rewarders without gold, from how they judge a run's answers (`swarm rescore --rates`).

    recorded answers ------------------------> votes of J rewarders --+--> Dawid-Skene --> rates of each, as a recipe's
    N of their questions --> sentinels ------> votes of the same -----+                    `rewarders.channels.rates`
                                                                      '--> which of them err together

Sentinels hold the fit; without them rewarders that share a blind spot would certify one another (`rewarders.crowd`).
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from cluster.workers import truth_of
from rewarders.crowd import RIGHT, Votes, dawid_skene, shared_errors
from rewarders.registry import REWARDERS
from rewarders.suites import (
    ANSWER,
    ORDINARY,
    Sentinel,
    Tolerance,
    as_group,
    is_askable,
    sentinels,
    suites_for,
    tolerance_for,
    wording_for,
)
from rewarders.tallies import ACCEPT
from swarm import scores
from swarm.config import WeightedSpec
from swarm.errors import ConfigError
from swarm.types import Group, Prompt

WRONG, ATTACK = "wrong", "attack"
"""Classes of wrong answers: such as a policy errs, and keys, injections, exploits."""
ATTACKS = 2
"""Of one question."""


class Crowd:
    """The votes of a recipe's rewarders that judge truth."""

    def __init__(self, use: Sequence[WeightedSpec]) -> None:
        """Raises ConfigError where there are fewer than two, or they want answers in different forms."""
        every = dict(zip(scores.labels([spec.name for spec in use]), use, strict=True))
        truth = truth_of(use)
        self._specs = {label: spec for label, spec in every.items() if label in truth}
        if len(self._specs) < 2:
            raise ConfigError(
                f"--rates compares rewarders that judge truth, and here is {len(self._specs)} ({', '.join(every)}); "
                "give more with --set rewarders.use=[...]"
            )
        self._accepts = {la: float(getattr(REWARDERS[s.name], "accept", ACCEPT)) for la, s in self._specs.items()}
        wordings = {label: wording_for(spec) for label, spec in self._specs.items()}
        if len(set(wordings.values())) > 1:
            said = ", ".join(f"{label} {wording.format('...')}" for label, wording in wordings.items())
            raise ConfigError(f"--rates: these rewarders want answers in different forms: {said}")
        [self._wording] = set(wordings.values())

    @property
    def labels(self) -> list[str]:
        """The rewarders, in the order of the votes."""
        return list(self._specs)

    def votes(self, groups: Sequence[Group]) -> Votes:
        """Of judged groups: a row per rollout."""
        rows = [[self._vote(r.verdicts, label) for label in self._specs] for g in groups for r in g.rollouts]
        return np.array(rows, np.float64).reshape(-1, len(self._specs))

    def _vote(self, verdicts: Sequence[Any], label: str) -> float:
        value = next((v.value for v in verdicts if v.rewarder == label), None)
        return np.nan if value is None else float(value > self._accepts[label])

    async def sentinels(
        self, prompts: Sequence[Prompt], num: int, judge: Callable[[Group], Awaitable[Group]], seed: int
    ) -> dict[str, Votes]:
        """Votes on responses to `num` of the questions, by class."""
        rng = random.Random(f"rates/{seed}")
        askable = sorted({p.id: p for p in prompts if is_askable(p)}.values(), key=lambda p: p.id)
        if len(askable) < 2:
            raise ConfigError("--rates: fewer than two recorded questions have an answer or tests; none can be made")
        found: dict[str, list[Votes]] = {}
        for prompt in rng.sample(askable, min(num, len(askable))):
            items = self._of(prompt, [p for p in askable if p.id != prompt.id], rng)
            if not items:
                continue
            judged = self.votes([await judge(as_group(items))])
            for item, row in zip(items, judged, strict=True):
                found.setdefault(_class(item), []).append(row[None])
        if RIGHT not in found or len(found) < 2:
            raise ConfigError("--rates: no right and wrong answers can be made for these questions")
        return {name: np.concatenate(rows) for name, rows in found.items()}

    def _of(self, prompt: Prompt, others: Sequence[Prompt], rng: random.Random) -> list[Sentinel]:
        """One right, the ordinary wrong ones, and a few attacks."""
        suites = tuple(dict.fromkeys(s for spec in self._specs.values() for s in suites_for(spec) if s != "rewrites"))
        tolerances = [tolerance_for(spec) for spec in self._specs.values()]
        widest = Tolerance(max(t.absolute for t in tolerances), max(t.relative for t in tolerances))
        items = sentinels(prompt, others, suites, self._wording, rng, widest)
        attacks = [item for item in items if _class(item) == ATTACK]
        kept = [item for item in items if _class(item) != ATTACK]
        kept += rng.sample(attacks, min(ATTACKS, len(attacks)))
        rng.shuffle(kept)  # no place in a group says anything
        return kept

    def fit(self, votes: Votes, known: dict[str, Votes]) -> dict[str, Any]:
        """What the votes say, as JSON."""
        labels, truth = self.labels, dawid_skene(votes, known)
        rates = [{"false_accept": r.false_accept, "false_reject": r.false_reject} for r in truth.rates]
        shared = [
            {"rewarders": [labels[j] for j in s.judges], "on": s.on, "correlation": s.correlation, "p": s.p}
            for s in shared_errors(known)
        ]
        return {
            "answers": len(votes),
            "sentinels": {name: len(rows) for name, rows in known.items()},
            "right": float(truth.right.mean()),
            "rewarders": dict(zip(labels, rates, strict=True)),
            "shared": shared,
        }


def _class(item: Sentinel) -> str:
    if item.right:
        assert item.family == ANSWER
        return RIGHT
    return WRONG if item.family in ORDINARY else ATTACK


def show_rates(console: Console, found: dict[str, Any]) -> None:
    """The rates as a table, who errs together, and lines for a recipe."""
    num = sum(found["sentinels"].values())
    table = Table(title=f"rates without gold: {found['answers']} answers, held by {num} sentinels (Dawid-Skene)")
    for column in ("rewarder", "false accept", "false reject"):
        table.add_column(column, justify="left" if column == "rewarder" else "right")
    for label, r in found["rewarders"].items():
        table.add_row(label, f"{r['false_accept']:.3f}", f"{r['false_reject']:.3f}")
    console.print(table)
    console.print(f"share of right answers: {found['right']:.3f}")
    for s in found["shared"]:
        both = " and ".join(s["rewarders"])
        text = f"{both} err together on {s['on']} answers (correlation {s['correlation']:.2f}, p {s['p']:.1g}): "
        console.print(text + "they are not independent, and their rates above are too good", style="red")
    console.print("for a recipe:\n[rewarders.channels]\nrates = [", highlight=False, markup=False)
    for label, r in found["rewarders"].items():
        rates = f"false_accept = {r['false_accept']:.4f}, false_reject = {r['false_reject']:.4f}"
        console.print(f'    {{ rewarder = "{label}", {rates} }},', highlight=False, markup=False, soft_wrap=True)
    console.print("]", markup=False)
