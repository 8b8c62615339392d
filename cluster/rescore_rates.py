"""Error rates of several rewarders without gold, from how they judge a run's answers (`swarm rescore --rates`).

    N of their questions --> sentinels ------> votes of J rewarders --+--> Dawid-Skene --> rates of each, as a recipe's
    recorded answers ------------------------> votes of the same -----+                    `rewarders.channels.rates`
                                                                      '--> which of them err together

Sentinels hold the fit; without them rewarders that share a blind spot would certify one another (`rewarders.crowd`).
They are made before anything is judged and judged before the answers: what cannot be done is said before much is paid
for. A rewarder that never voted on the answers, or on a class of sentinels, is left out by name.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from cluster.workers import truth_of
from rewarders.crowd import RIGHT, Votes, dawid_skene, shared_errors, silence
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
        self._causes: dict[str, str] = {}
        """Why each rewarder newly gave no vote, where it did not."""

    @property
    def labels(self) -> list[str]:
        """The rewarders, in the order of the votes."""
        return list(self._specs)

    def votes(self, groups: Sequence[Group]) -> Votes:
        """Of judged groups: a row per rollout."""
        rows = [[self._vote(r.verdicts, label) for label in self._specs] for g in groups for r in g.rollouts]
        return np.array(rows, np.float64).reshape(-1, len(self._specs))

    def _vote(self, verdicts: Sequence[Any], label: str) -> float:
        verdict = next(v for v in verdicts if v.rewarder == label)
        if verdict.value is None:
            self._causes[label] = f"{verdict.status}: {verdict.cause}"
            return np.nan
        return float(verdict.value > self._accepts[label])

    def sentinels(self, prompts: Sequence[Prompt], num: int, seed: int) -> list[list[Sentinel]]:
        """Responses of known truth to each of `num` of the questions. Raises ConfigError where they are too few."""
        rng = random.Random(f"rates/{seed}")
        askable = sorted({p.id: p for p in prompts if is_askable(p)}.values(), key=lambda p: p.id)
        if len(askable) < 2:
            raise ConfigError("--rates: fewer than two recorded questions have an answer or tests; none can be made")
        chosen = rng.sample(askable, min(num, len(askable)))
        made = [self._of(prompt, [p for p in askable if p.id != prompt.id], rng) for prompt in chosen]
        classes = {_class(item) for items in made for item in items}
        if RIGHT not in classes or len(classes) < 2:
            raise ConfigError("--rates: no right and wrong answers can be made for these questions")
        return [items for items in made if items]

    async def known(
        self, made: Sequence[Sequence[Sentinel]], judge: Callable[[Group], Awaitable[Group]]
    ) -> dict[str, Votes]:
        """Votes on sentinels, by class. Raises ConfigError where fewer than two rewarders vote on each."""
        groups = await asyncio.gather(*(judge(as_group(items)) for items in made))
        votes, classes = self.votes(groups), np.array([_class(item) for items in made for item in items])
        found = {name: votes[classes == name] for name in (RIGHT, WRONG, ATTACK) if name in classes}
        silent = self._silent(np.zeros_like(votes), found)
        if len(self.labels) - len(silent) < 2:
            said = "; ".join(f"{label} {why}" for label, why in silent.items())
            raise ConfigError(
                f"--rates: fewer than two rewarders can be compared: {said}; mend that, give others with "
                "--set rewarders.use=[...], or take more questions"
            )
        return found

    def _silent(self, votes: Votes, known: dict[str, Votes]) -> dict[str, str]:
        """Rewarders that can be given no rates, and why."""
        silent = {self.labels[j]: where for j, where in silence(votes, known).items()}
        none = "there are none"
        return {label: f"gave no vote on {where} ({self._causes.get(label, none)})" for label, where in silent.items()}

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
        """What the votes say, as JSON; without rates where fewer than two rewarders voted."""
        silent = self._silent(votes, known)
        voted = [j for j, label in enumerate(self.labels) if label not in silent]
        labels = [self.labels[j] for j in voted]
        votes, known = votes[:, voted], {name: rows[:, voted] for name, rows in known.items()}
        given = (~np.isnan(votes)).sum(axis=0)
        found: dict[str, Any] = {
            "answers": len(votes),
            "unjudged": int(np.isnan(votes).all(axis=1).sum()),
            "sentinels": {name: len(rows) for name, rows in known.items()},
            "left_out": silent,
        }
        if len(labels) < 2:
            return found | {"right": None, "rewarders": {}, "shared": []}
        truth = dawid_skene(votes, known)
        rates = [
            {"votes": int(num), "false_accept": r.false_accept, "false_reject": r.false_reject}
            for num, r in zip(given, truth.rates, strict=True)
        ]
        shared = [
            {"rewarders": [labels[j] for j in s.judges], "on": s.on, "correlation": s.correlation, "p": s.p}
            for s in shared_errors(known)
        ]
        right = truth.classes[RIGHT]
        return found | {"right": right, "rewarders": dict(zip(labels, rates, strict=True)), "shared": shared}


def _class(item: Sentinel) -> str:
    if item.right:
        assert item.family == ANSWER
        return RIGHT
    return WRONG if item.family in ORDINARY else ATTACK


def show_rates(console: Console, found: dict[str, Any]) -> None:
    """The rates as a table, who is left out, who errs together, and lines for a recipe."""
    for label, why in found["left_out"].items():
        console.print(f"{label} {why}: it gets no rates", style="red", markup=False)
    if not found["rewarders"]:
        console.print("fewer than two rewarders voted on the answers: there are no rates", style="red")
        return
    num = sum(found["sentinels"].values())
    table = Table(title=f"rates without gold: {found['answers']} answers, held by {num} sentinels (Dawid-Skene)")
    for column in ("rewarder", "votes", "false accept", "false reject"):
        table.add_column(column, justify="left" if column == "rewarder" else "right")
    for label, r in found["rewarders"].items():
        table.add_row(label, str(r["votes"]), f"{r['false_accept']:.3f}", f"{r['false_reject']:.3f}")
    console.print(table)
    unjudged = f" ({found['unjudged']} without any vote left out)" if found["unjudged"] else ""
    console.print(f"share of right answers: {found['right']:.3f}{unjudged}")
    for s in found["shared"]:
        both = " and ".join(s["rewarders"])
        text = f"{both} err together on {s['on']} answers (correlation {s['correlation']:.2f}, p {s['p']:.1g}): "
        console.print(text + "they are not independent, and their rates above are too good", style="red")
    console.print("for a recipe:\n[rewarders.channels]\nrates = [", highlight=False, markup=False)
    for label, r in found["rewarders"].items():
        rates = f"false_accept = {r['false_accept']:.4f}, false_reject = {r['false_reject']:.4f}"
        console.print(f'    {{ rewarder = "{label}", {rates} }},', highlight=False, markup=False, soft_wrap=True)
    console.print("]", markup=False)
