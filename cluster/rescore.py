"""`swarm rescore`: the recorded rollouts of a run judged again, by the rewarders of its recipe or by others.

    RUN/rollouts/step_*.parquet --> reward worker (with the verdict store, where the recipe names one)
                                      |--> RUN/rescored-N/step_*.parquet, config.toml: never over what is there
                                      |--> a table: what the other verdicts would have changed
                                      '--> `--rates`: how often each of several rewarders errs

Judges that the run's node served are served by this process.
Nothing is trained. A reward is the weighted sum of verdicts, before by the run's recipe and after by the present one;
an answer flips where it was correct (`swarm.scores.correct`) by the one recipe and is not by the other.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from cluster.check import check
from cluster.rescore_rates import Crowd, show_rates
from cluster.served_judge import served_here
from cluster.workers import RewarderWorker, reward_weights, truth_of
from rewarders.crowd import Votes
from rewarders.suites import Sentinel
from swarm import schema, scores
from swarm.config import RunConfig
from swarm.errors import ConfigError, SchemaError, boundary
from swarm.journal import RunFolder
from swarm.types import Group, Prompt

AT_ONCE = 8
"""Groups that are judged at a time."""
EQUAL = 1e-9
"""Rewards that differ by less are the same."""


@dataclass(slots=True)
class Tally:
    """Two rewards of each rollout, counted."""

    rollouts: int = 0
    compared: int = 0
    """Rollouts with a reward before and after; the figures below are over these."""
    same: int = 0
    """Equal rewards."""
    up: int = 0
    """Not correct before, correct after."""
    down: int = 0
    lost: int = 0
    """With a reward before, without one after."""
    won: int = 0
    before: float = 0.0
    after: float = 0.0

    def add(self, before: float | None, after: float | None, was: bool | None, now: bool | None) -> bool:
        """Count one rollout by its rewards and by whether it `was` and is correct; whether any reward changed."""
        self.rollouts += 1
        if before is None or after is None:
            self.lost += before is not None
            self.won += after is not None
            return (before is None) != (after is None)
        self.compared += 1
        same = abs(before - after) < EQUAL
        self.same += same
        self.up += was is False and now is True
        self.down += was is True and now is False
        self.before += before
        self.after += after
        return not same

    def figures(self) -> dict[str, Any]:
        """As JSON: shares and means are None where nothing was compared."""
        num = self.compared
        return {
            "rollouts": self.rollouts,
            "compared": num,
            "agreement": self.same / num if num else None,
            "up": self.up,
            "down": self.down,
            "lost": self.lost,
            "won": self.won,
            "mean_before": self.before / num if num else None,
            "mean_after": self.after / num if num else None,
        }


@dataclass(slots=True)
class _Found:
    sources: dict[str, Tally] = field(default_factory=dict)
    changed: list[int] = field(default_factory=list)
    """Steps in which any reward changed."""
    written: str = ""
    """The folder."""
    rates: dict[str, Any] = field(default_factory=dict)


def rescore(
    folder: RunFolder, *, console: Console, overrides: Sequence[str] = (), questions: int = 0
) -> dict[str, Any]:
    """Judge all recorded groups again and write them beside. With sentinels on so many `questions` of the run, also the
    rewarders' error rates without gold (`cluster.rescore_rates`). Raises ConfigError where that cannot be done."""
    with folder.locked():
        before, after = check(folder.config), check(folder.config, overrides)
        crowd = Crowd(after.rewarders.use) if questions else None
        steps = [
            (int(path.stem.removeprefix("step_")), path) for path in sorted(folder.rollouts.glob("step_*.parquet"))
        ]
        if not steps:
            raise ConfigError(f"{folder.rollouts}: no recorded rollouts")
        made = crowd.sentinels(_prompts(steps), questions, after.seed) if crowd else []
        with served_here(after, console.print) as served:
            try:
                worker = RewarderWorker(_patient(after), served)
            except ValueError as error:
                raise ConfigError(str(error)) from None
            found = asyncio.run(_all(worker, steps, folder, before, after, console, crowd, made))
        counts = {name: dict(statuses) for name, statuses in worker.counts().items()}
    total = Tally()
    for tally in found.sources.values():
        for name in Tally.__slots__:
            setattr(total, name, getattr(total, name) + getattr(tally, name))
    return {
        "run": str(folder.root),
        "written": found.written,
        "steps": len(steps),
        "steps_affected": found.changed,
        "sources": {source: tally.figures() for source, tally in sorted(found.sources.items())},
        "all": total.figures(),
        "verdicts": counts,
        **({"rates": found.rates} if crowd else {}),
    }


def show(console: Console, result: dict[str, Any]) -> None:
    """The result as a table, a row per task source."""
    table = Table(title=f"{result['run']}: rewards before and after")
    for column in ("source", "rollouts", "agreement", "flips up", "flips down", "mean before", "mean after"):
        table.add_column(column, justify="left" if column == "source" else "right")
    for source, f in [*result["sources"].items(), ("all", result["all"])]:
        shown = [_shown(f[name]) for name in ("rollouts", "agreement", "up", "down", "mean_before", "mean_after")]
        table.add_row(source or "-", *shown)
    console.print(table)
    affected = result["steps_affected"]
    which = f": {', '.join(map(str, affected[:20]))}{', ...' if len(affected) > 20 else ''}" if affected else ""
    console.print(f"{len(affected)} of {result['steps']} steps have a reward that changed{which}")
    if result["all"]["lost"] or result["all"]["won"]:
        console.print(f"{result['all']['lost']} rollouts lost their reward, {result['all']['won']} got one")
    for name, statuses in result["verdicts"].items():
        console.print(f"{name}: " + ", ".join(f"{count} {status}" for status, count in sorted(statuses.items())))
    console.print(f"written to {result['written']}")
    if "rates" in result:
        show_rates(console, result["rates"])


def _patient(config: RunConfig) -> RunConfig:
    """With judges that are waited for, since nothing else waits here, and without sentinels: these judge a run."""
    changes = {"backlog": AT_ONCE, "patience_s": 0.0, "stand_in": 0.0}
    judges = [judge.model_copy(update=changes) for judge in config.rewarders.judges]
    rewarders = config.rewarders.model_copy(update={"judges": judges, "sentinels": 0.0})
    return config.model_copy(update={"rewarders": rewarders})


async def _all(
    worker: RewarderWorker,
    steps: Sequence[tuple[int, Path]],
    folder: RunFolder,
    before: RunConfig,
    after: RunConfig,
    console: Console,
    crowd: Crowd | None,
    made: Sequence[Sequence[Sentinel]],
) -> _Found:
    found, old, new = _Found(), _Rule.of(before), _Rule.of(after)
    votes: list[Votes] = []
    known: dict[str, Votes] = {}
    places = asyncio.Semaphore(AT_ONCE)

    async def judged(group: Group) -> Group:
        async with places:
            return await worker.judge(group)

    try:
        if crowd:
            console.print(f"judging {sum(map(len, made))} sentinels on {len(made)} questions")
            known = await crowd.known(made, judged)
        target = _beside(folder)
        (target / "config.toml").write_text(after.to_toml())
        found.written = str(target)
        for step, path in steps:
            groups = _read(step, path)
            again = await asyncio.gather(*(judged(group) for group in groups))
            schema.write_groups(target / path.name, again)
            changes = [_compare(found, *pair, old, new) for pair in zip(groups, again, strict=True)]
            if any(changes):
                found.changed.append(step)
            console.print(f"step {step}: {sum(changes)} of {sum(len(g.rollouts) for g in groups)} rewards changed")
            if crowd:
                votes.append(crowd.votes(again))
        if crowd:
            found.rates = crowd.fit(np.concatenate(votes), known)
    finally:
        await worker.close()
    return found


def _prompts(steps: Sequence[tuple[int, Path]]) -> list[Prompt]:
    return [group.prompt for step, path in steps for group in _read(step, path)]


def _read(step: int, path: Path) -> list[Group]:
    with boundary(SchemaError, f"step {step}"):
        return schema.read_groups(path)


@dataclass(frozen=True, slots=True)
class _Rule:
    """What a recipe makes of verdicts."""

    weights: dict[str, float]
    truth: frozenset[str]

    @classmethod
    def of(cls, config: RunConfig) -> _Rule:
        return cls(reward_weights(config), truth_of(config.rewarders.use))

    def rewards(self, group: Group) -> tuple[float | None, ...]:
        return scores.rewards([rollout.verdicts for rollout in group.rollouts], self.weights)

    def correct(self, group: Group) -> tuple[bool | None, ...]:
        return scores.correct([rollout.verdicts for rollout in group.rollouts], self.weights, self.truth)


def _compare(found: _Found, was: Group, now: Group, old: _Rule, new: _Rule) -> int:
    """Rewards of one group that changed."""
    tally = found.sources.setdefault(was.prompt.source, Tally())
    rows = zip(old.rewards(was), new.rewards(now), old.correct(was), new.correct(now), strict=True)
    return sum([tally.add(*row) for row in rows])


def _beside(folder: RunFolder) -> Path:
    """A new folder in the run's, with the first free number."""
    for number in itertools.count(1):
        target = folder.root / f"rescored-{number}"
        try:
            target.mkdir()
        except FileExistsError:
            continue
        return target
    raise AssertionError


def _shown(value: float | None) -> str:
    if value is None:
        return "-"
    return str(value) if isinstance(value, int) else f"{value:.3f}"
