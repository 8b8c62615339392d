"""`reward/judge_plane`: what a slow judge does to generation.

The whole loop runs inline (transformers engine, tiny model, one compute thread each) in a process per cell, with the
tiny recipe's rule and, beside it, the `yes_no` rewarder over a judge that sleeps 2 s and then says yes. Inline is the
harder case: judge requests share an event loop with everything else; what an HTTP client would add is left out. A
constant judge moves no advantage, and the learning rate is next to nothing, so all arms generate and train alike.

Arms stand next to each other, seed by seed. What is compared is what the engine generates in a window of fixed length
that begins once the pool has been turned over three times. With `max_lag` 1 there are too few tickets to hide 2 s (see
`rewarders.backlog`): these cells show what that costs, and what patience saves.

Tokens/s of cells that run one after another differ by a third on a shared machine, whatever their arm. So there is a
second measure that the machine's speed hardly moves: the share of the window in which the engine has nothing to do.

The first run (2026-11-21) had windows from the first turn of the pool on and not the second measure. It gave 0.84 (0.68
to 1.11) of the tokens/s for `max_lag` 8 with a judge. Probes of 40 s then showed that with a judge the learner is still
catching up in the first ten seconds of such a window, and takes processor time from the engine, which itself was idle
for 5 % of the time with a judge and without. Hence the later start and the second measure, laid down before their run.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cluster.bench import Bench, Cell, Figure, Result

if TYPE_CHECKING:
    from rewarders.chat import Reply

RECIPE = Path(__file__).parent / "recipes/tiny.toml"
SLEEP_S = 2.0
WINDOW_S = 20.0
TURNS = 3
"""Of the pool, before the window."""
SEEDS = (0, 1, 2, 3, 4)
BACKLOG = 8
PATIENCE_S = 0.1
PLENTY = 100_000
"""Requests at once: a judge whose latency is all that it costs."""
FEW = 32
"""Requests at once, so 2 groups/s: several times less than are generated."""

ARMS: Mapping[tuple[int, str], Mapping[str, Any] | None] = {
    (8, "no judge"): None,
    (8, "judge"): {"concurrent": PLENTY, "backlog": BACKLOG},
    (8, "overloaded"): {"concurrent": FEW, "backlog": BACKLOG},
    (1, "no judge"): None,
    (1, "judge"): {"concurrent": PLENTY, "backlog": BACKLOG},
    (1, "impatient"): {"concurrent": PLENTY, "backlog": BACKLOG, "patience_s": PATIENCE_S},
}
"""Settings of the judge by `max_lag` and arm."""
GOALS = {(8, "judge"): ">= 0.95", (8, "overloaded"): ">= 0.95", (1, "judge"): "", (1, "impatient"): ">= 0.95"}


class JudgePlane(Bench):
    """Generation with and without a judge that takes 2 s."""

    name = "reward/judge_plane"
    goal = "a judge that sleeps 2 s a call costs at most 5 % of generation; its backlog is bounded; label age is known"
    wall = ("22 min", "4 min")
    apart = True
    threads = 1

    def cells(self, quick: bool) -> Sequence[Cell]:
        seeds = SEEDS[: 1 if quick else None]
        # Every second seed goes backwards: on a shared machine the later arms may be in a slower phase.
        return [
            {"max_lag": lag, "arm": arm, "seed": s} for s in seeds for lag, arm in list(ARMS)[:: -1 if s % 2 else 1]
        ]

    def run(self, cell: Cell) -> Mapping[str, Any]:
        with tempfile.TemporaryDirectory() as parent:
            return asyncio.run(_measure(cell, Path(parent)))

    def figures(self, results: Sequence[Result]) -> list[Figure]:
        found = {(r.cell["max_lag"], r.cell["arm"], r.cell["seed"]): r.values for r in results}
        seeds = sorted({seed for _, _, seed in found})
        out = []
        for lag, arm in ARMS:
            own = [found[lag, arm, seed] for seed in seeds]
            place = f"max_lag {lag}, {arm}"
            out.append(
                Figure.of(f"{place}: share of time that the learner waits", [v["learner_waits_frac"] for v in own])
            )
            if arm == "no judge":
                out.append(Figure.of(f"{place}: generated tokens/s", [v["tokens_per_s"] for v in own]))
                idle = [v["engine_idle_frac"] for v in own]
                out.append(Figure.of(f"{place}: share of time that the engine has nothing to do", idle))
                continue
            without = [found[lag, "no judge", seed] for seed in seeds]
            pairs = list(zip(own, without, strict=True))
            ratios = [v["tokens_per_s"] / base["tokens_per_s"] for v, base in pairs]
            out.append(Figure.of(f"{place}: generation against no judge", ratios, GOALS[lag, arm]))
            more = [v["engine_idle_frac"] - base["engine_idle_frac"] for v, base in pairs]
            limit = "<= 0.05" if GOALS[lag, arm] else ""
            out.append(Figure.of(f"{place}: more time with nothing to do for the engine than without", more, limit))
            out.append(Figure.of(f"{place}: most groups that waited", [v["backlog"] for v in own], f"<= {BACKLOG}"))
            out.append(Figure.of(f"{place}: rollouts trained on without a label", [v["displaced_frac"] for v in own]))
            for what in ("mean", "max"):
                ages = [v[f"label_age_{what}_s"] for v in own if v[f"label_age_{what}_s"] is not None]
                name = f"{place}: {what} label age, s"
                out.append(Figure.of(name, ages) if ages else Figure.missing(name, "", "no label came in time"))
        return out


class Sleeper:
    """A `ChatModel` that takes 2 s for everything and accepts it."""

    name = "sleeper"

    async def ask(
        self, messages: Sequence[Mapping[str, str]], *, max_tokens: int, choices: Sequence[str] = ()
    ) -> Reply:
        from rewarders.chat import Reply

        await asyncio.sleep(SLEEP_S)
        return Reply("yes", {choice: float(choice == "yes") for choice in choices}, 1, 1)

    def close(self) -> None:
        """Nothing to release."""


async def _measure(cell: Cell, parent: Path) -> dict[str, Any]:
    """One arm: the window's generation, and of the steps in it what their metrics say of labels."""
    from cluster import build
    from cluster.check import check
    from cluster.inline import InlineCrew
    from cluster.models import resolve
    from cluster.workers import ActorWorker, LearnerWorker, RewarderWorker, reward_weights
    from swarm import loop
    from swarm.journal import Journal, RunFolder
    from swarm.ledger import Ledger

    config = check(RECIPE, _settings(cell))
    model = str(resolve(config.model.path, say=lambda _: None))
    actor, rewarder = ActorWorker(config, model, 0), RewarderWorker(config, {"slow": Sleeper()})
    crew = InlineCrew([actor], [rewarder], LearnerWorker(config, model), reward_weights(config))
    steps: list[Mapping[str, Any]] = []
    turned_over = asyncio.Event()

    def told(kind: str, record: Mapping[str, Any]) -> None:
        if kind == "step":
            steps.append(record)
            if record["step"] >= TURNS * (config.learners.max_lag + 2):
                turned_over.set()

    folder = RunFolder.create_at(parent / "run")
    journal, ledger = Journal(folder, [told]), Ledger(folder.ledger)
    try:
        node = build.make_node(config, crew, journal, ledger, build.make_stream(config))
        await crew.sync(await crew.publish())
        running = asyncio.create_task(loop.run(node))
        waiting = asyncio.create_task(turned_over.wait())
        await asyncio.wait([running, waiting], return_when=asyncio.FIRST_COMPLETED)
        first, before, began = len(steps), await actor.usage(), time.monotonic()
        waited = node.shares.seconds["wait"]
        done, _ = await asyncio.wait([running], timeout=WINDOW_S)
        seconds, after = time.monotonic() - began, await actor.usage()
        waited = node.shares.seconds["wait"] - waited
        if done:
            running.result()
            raise RuntimeError(f"{dict(cell)}: the run ended before the window")
        await node.pool.close()
        await running  # the learner's thread must be through before the crew is closed
    finally:
        await crew.close()
        ledger.close()
        journal.close()
    return {
        "tokens_per_s": (after.tokens - before.tokens) / seconds,
        "engine_idle_frac": (after.idle_s - before.idle_s) / seconds,
        "learner_waits_frac": waited / seconds,
        "steps": len(steps) - first,
        "backlog": rewarder.longest_backlog,
        **_labels(steps[first:]),
    }


def _settings(cell: Cell) -> list[str]:
    judge = ARMS[cell["max_lag"], cell["arm"]]
    settings = [
        'cluster.placement="inline"',
        'actors.engine="transformers"',
        f"seed={cell['seed']}",
        f"learners.max_lag={cell['max_lag']}",
        "learners.steps=100000",
        "learners.checkpoint_every=100000",
        "learners.lr=1e-12",
        "eval.live_questions=0",
    ]
    if judge is None:
        return settings
    options = "".join(f", {key} = {value}" for key, value in judge.items())
    rule = '{ name = "reasoning_gym", full_only = true }'
    return [
        *settings,
        f'rewarders.use=[{rule}, {{ name = "yes_no", judge = "slow" }}]',
        f'rewarders.judges=[{{ name = "slow", model = "sleeper"{options} }}]',
    ]


def _labels(steps: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Of the steps of the window. Ages are None where no label came in time."""
    ages = [s["reward/label_age_mean_s"] for s in steps if "reward/label_age_mean_s" in s]
    return {
        "label_age_mean_s": float(np.mean(ages)) if ages else None,
        "label_age_max_s": max((s.get("reward/label_age_max_s", 0.0) for s in steps), default=0.0) if ages else None,
        "displaced_frac": float(np.mean([s["reward/displaced_frac"] for s in steps])) if steps else 0.0,
    }
