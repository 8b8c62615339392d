"""Bench of the verifiers: what a killable process, and the mending around a library, cost; and what they are good for.

A round judges the same seeded groups by each arm, in turns, in one process. Speed is in verdicts per second of
processor time, the parent's and all children's: that is per core, and is not disturbed by what else runs.
"""

from __future__ import annotations

import asyncio
import os
import random
import resource
import signal
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from cluster.bench import Bench, Cell, Figure, Result
from rewarders.worker import RewardWorker
from swarm.config import RewardersSection, Spec
from swarm.types import Finish, Group, Prompt, Rollout, Span

GROUPS, SIZE = 100, 8
SLICE, FEW = 20, 25
"""Groups that an arm judges before the next one has its turn, and those with towers that the library alone is given:
it takes five seconds for each."""
TOWERS = ("$9^{9^{9^{9}}}$", "\\boxed{2^{10^{10}}}", "\\boxed{(10^6)!}", "9^9^9")
"""One rollout in a hundred. The first three do not end by themselves."""
FORMS = ("So it is \\boxed{%s}.", "The answer is $%s$.", "We get\n\n\\boxed{%s}", "The answer is %s")
WORK = "First we write down what is given, then we add the terms one by one and look at what is left. "
RETRIES = int(RewardersSection.model_fields["retries"].default)
CPU_S = 0.5


def make_groups(seed: int, towers: int = 0) -> tuple[list[Group], list[float]]:
    """Groups with a rational answer, half of their rollouts right, and the values that are due. Each tower takes the
    place of a wrong answer."""
    rng = random.Random(seed)
    groups, due = [], []
    for number in range(GROUPS):
        bottom = rng.choice((1, 1, 1, 3, 7))
        top = rng.randint(2, 140) * bottom + (1 if bottom > 1 else 0)  # in lowest terms
        texts = []
        for i in range(SIZE):
            value = top + (0 if i % 2 else bottom * rng.randint(1, 9))
            shown = str(value) if bottom == 1 else f"\\frac{{{value}}}{{{bottom}}}"
            form = rng.choice(FORMS if bottom == 1 else FORMS[:3])
            texts.append(WORK * rng.randint(1, 6) + form % shown)
            due.append(float(i % 2))
        answer = str(top) if bottom == 1 else f"{top}/{bottom}"
        groups.append(_group(number, answer, texts))
    for i in range(towers):
        place = i * GROUPS // towers
        rollouts = list(groups[place].rollouts)
        rollouts[0] = replace(rollouts[0], text=TOWERS[i % len(TOWERS)])
        groups[place] = replace(groups[place], rollouts=tuple(rollouts))
    return groups, due


def _group(number: int, answer: str, texts: Sequence[str]) -> Group:
    def rollout(text: str) -> Rollout:
        one = np.zeros(1, np.float32)
        return Rollout(one.astype(np.int32), one, (Span(0, 0, 1),), text, Finish.STOP, one.astype(bool))

    prompt = Prompt(f"p{number}", "What is it?", answer)
    rollouts = tuple(rollout(text) for text in texts)
    return Group(f"g{number}", number, 0, prompt, np.zeros(1, np.int32), rollouts, "bench", 0, 1.0, cache_kept=False)


class Direct:
    """math-verify as its README calls it, the answer parsed once per group."""

    def score(self, groups: Sequence[Group]) -> list[float | None]:
        """One value per rollout."""
        from math_verify import parse, verify

        found: list[float | None] = []
        for group in groups:
            gold = parse(f"${group.prompt.answer}$")
            found += [float(verify(gold, parse(rollout.text))) for rollout in group.rollouts]
        return found

    def cpu_s(self) -> float:
        """Processor seconds so far."""
        return time.process_time()


class Ours:
    """A reward worker with one rewarder."""

    def __init__(self) -> None:
        spec = Spec(name="math_verify", options={"cpu_s": CPU_S})
        self.worker = RewardWorker([spec], timeout_s=10.0, retries=RETRIES)

    def score(self, groups: Sequence[Group]) -> list[float | None]:
        """One value per rollout; None where there is none."""
        return asyncio.run(self._score(groups))

    async def _score(self, groups: Sequence[Group]) -> list[float | None]:
        scored = [await self.worker.score(group) for group in groups]
        return [rollout.verdicts[0].value for group in scored for rollout in group.rollouts]

    def cpu_s(self) -> float:
        """Processor seconds so far, of children that ended too."""
        ended = resource.getrusage(resource.RUSAGE_CHILDREN)
        return time.process_time() + ended.ru_utime + ended.ru_stime + self.child.cpu_s()

    @property
    def child(self) -> Any:
        """The killable process of the rewarder."""
        return self.worker._rewarders[0].child  # type: ignore[attr-defined]


class Verifiers(Bench):
    """Rounds of math_verify and of the library alone, each with and without power towers, and one run under fire."""

    name = "reward/verifiers"
    goal = (
        "the math path gives at least 80 % of the verdicts per core of math-verify alone, loses less than a tenth to "
        "1 % power towers, and nothing when its processes are killed"
    )
    wall = ("5 min", "2 min")
    apart = True
    threads = 1

    def cells(self, quick: bool) -> Sequence[Cell]:
        rounds: list[Cell] = [{"what": "math", "round": i} for i in range(2 if quick else 6)]
        return [*rounds, {"what": "kills", "kills": 3 if quick else 12}]

    def run(self, cell: Cell) -> dict[str, Any]:
        return {"math": _math_round, "kills": _under_fire}[cell["what"]](cell)

    def figures(self, results: Sequence[Result]) -> list[Figure]:
        rounds = [r.values for r in results if r.cell["what"] == "math"]
        [fire] = [r.values for r in results if r.cell["what"] == "kills"]

        def rate(arm: str) -> list[float]:
            return [r[arm]["verdicts"] / r[arm]["cpu_s"] for r in rounds]

        def lost(arm: str) -> list[float]:
            return [1 - b / a for a, b in zip(rate(arm), rate(f"{arm} towers"), strict=True)]

        note = f"{GROUPS} groups of {SIZE} a round, {len(rounds)} rounds"
        ratios = [ours / direct for ours, direct in zip(rate("ours"), rate("direct"), strict=True)]
        shot = f"{fire['kills']} kills, {fire['retried']} verdicts asked again"
        return [
            Figure.of("math: verdicts per processor second over those of math-verify alone", ratios, ">= 0.8", note),
            Figure.of("math: verdicts per processor second", rate("ours")),
            Figure.of("math-verify alone: verdicts per processor second", rate("direct")),
            Figure.of("math: share of the rate lost to 1 % power towers", lost("ours"), "<= 0.1", f"{CPU_S} s each"),
            Figure.of("math-verify alone: share of the rate lost to them", lost("direct")),
            Figure.of("math: right and wrong answers beside them misjudged", [r["ours towers"]["bad"] for r in rounds]),
            Figure.of("rollouts without a verdict after kills", [fire["missing"]], "<= 0", shot),
            Figure.of("verdicts that kills changed", [fire["changed"]], "<= 0"),
        ]


def _math_round(cell: Cell) -> dict[str, Any]:
    """All arms in turns, slice by slice, after a warm-up; which goes first alternates. Then the library with towers."""
    ours, direct, seed = Ours(), Direct(), cell["round"]
    clean, due = make_groups(seed)
    towers, _ = make_groups(seed, GROUPS * SIZE // 100)
    for arm in (ours, direct):
        arm.score(make_groups(1000 + seed)[0][:5])
    arms: dict[str, tuple[Any, list[Group]]] = {
        "direct": (direct, clean),
        "ours": (ours, clean),
        "ours towers": (ours, towers),
    }
    order = sorted(arms, reverse=bool(seed % 2))
    slices: dict[str, list[dict[str, Any]]] = {name: [] for name in arms}
    for begin in range(0, GROUPS, SLICE):
        for name in order:
            arm, groups = arms[name]
            slices[name].append(_measured(arm, groups, due, begin, SLICE))
    out: dict[str, Any] = {
        name: {key: sum(s[key] for s in found) for key in found[0]} for name, found in slices.items()
    }
    out["direct towers"] = _measured(direct, towers, due, 0, FEW)
    ours.worker.close()
    return out


def _measured(arm: Any, groups: Sequence[Group], due: Sequence[float], begin: int, num: int) -> dict[str, Any]:
    """What an arm makes of `num` groups from `begin` on."""
    some = groups[begin : begin + num]
    wanted = due[begin * SIZE : (begin + num) * SIZE]
    attacks = [rollout.text in TOWERS for group in some for rollout in group.rollouts]
    began, began_cpu = time.monotonic(), arm.cpu_s()
    found = arm.score(some)
    return {
        "verdicts": len(found),
        "cpu_s": arm.cpu_s() - began_cpu,
        "wall_s": time.monotonic() - began,
        "bad": sum(f != d for f, d, attack in zip(found, wanted, attacks, strict=True) if not attack),
        "paid": sum(f == 1.0 for f, attack in zip(found, attacks, strict=True) if attack),
    }


def _under_fire(cell: Cell) -> dict[str, Any]:
    """Kill the child, at a random moment of every fourth group, until it was killed so often."""
    ours = Ours()
    groups, due = make_groups(0)
    rng = random.Random(0)
    ours.score(groups[:5])
    kills, missing, changed = 0, 0, 0
    for number in range(4 * cell["kills"]):
        place = number % GROUPS
        shot = None
        if number % 4 == 0:
            shot = _shoot(ours.child.pid, rng.uniform(0, 0.03))
            kills += 1
        found = ours.score([groups[place]])
        if shot:
            shot.join()
        wanted = due[place * SIZE : (place + 1) * SIZE]
        missing += sum(f is None for f in found)
        changed += sum(f is not None and f != d for f, d in zip(found, wanted, strict=True))
    retried = ours.worker.counts()["math_verify"].get("retried", 0)
    ours.worker.close()
    return {"kills": kills, "missing": missing, "changed": changed, "retried": retried}


def _shoot(pid: int, after_s: float) -> threading.Timer:
    kill: Callable[..., None] = os.kill
    timer = threading.Timer(after_s, kill, (pid, signal.SIGKILL))
    timer.start()
    return timer
