"""`swarm run` and `swarm resume`: one node from a recipe to its summary."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from cluster import build
from cluster.memory import MemorySampler
from cluster.statistics import proportion
from swarm import evaluation, loop, recovery
from swarm.config import RunConfig
from swarm.errors import SwarmError
from swarm.journal import Journal, RunFolder
from swarm.ledger import Ledger
from swarm.roles import Crew
from swarm.shares import Shares

USAGE_EVERY_S = 2.0
"""How often workers are asked how busy they are."""

EXAM_LINES = 4
"""Into how many parts the progress of a long evaluation is told."""


class Interrupted(SwarmError):
    """The run was stopped by a signal; what it had is in its checkpoint."""

    exit_code = 130


async def train(config: RunConfig, model: Path, folder: RunFolder, journal: Journal, resume: bool) -> None:
    """Run to the end, or to a stop. The run folder then has all that a summary is made from."""
    stream = build.make_stream(config)
    questions = stream.held_out(config.eval.questions)
    ledger = Ledger(folder.ledger)
    memory = MemorySampler()
    memory.start()
    stop: _Stop | None = None
    try:
        async with build.crew_for(config, model, journal.event) as crew:
            node = build.make_node(config, crew, journal, ledger, stream)
            stop = _stop_on_signal(node, journal)
            if resume:
                await recovery.resume(node)
            await crew.sync(await crew.publish())
            if not (folder.root / "eval_before.json").exists():
                await _examine(crew, questions, folder, journal, node.step, "before")
            usage = _UsageLog(crew, journal)
            await usage.sample()
            sampling = asyncio.create_task(usage.keep_sampling())
            node.shares = Shares()
            try:
                await loop.run(node)
                await usage.sample()
            finally:
                sampling.cancel()
                journal.event("shares", learner=node.shares.read(), wall_s=node.shares.wall())
            if node.step >= node.steps:
                await _examine(crew, questions, folder, journal, node.step, "after")
            stop.disarm()
    except asyncio.CancelledError:
        if stop is None or not stop.now:
            raise
    finally:
        journal.event("memory", peak_bytes=memory.stop())
        ledger.close()
    if not node.saved:
        raise SwarmError(
            f"{folder.checkpoints}: the last checkpoint could not be written; make room, then "
            f"`swarm resume {folder.root}` brings step {node.step} back from the recorded batches"
        )
    if stop.now:
        raise Interrupted(
            f"stopped at once, in step {node.step + 1} of {node.steps}; "
            f"`swarm resume {folder.root}` goes on from the newest checkpoint"
        )
    if node.step < node.steps:
        raise Interrupted(f"stopped after step {node.step} of {node.steps}; go on with `swarm resume {folder.root}`")


async def _examine(
    crew: Crew, prompts: Sequence[Any], folder: RunFolder, journal: Journal, step: int, when: str
) -> None:
    """Ask the held-out questions greedily and keep the answers."""
    journal.event("phase", text=f"asking {len(prompts)} held-out questions")
    part = max(1, len(prompts) // EXAM_LINES)

    def told(so_far: list[evaluation.Outcome]) -> None:
        if len(so_far) % part == 0 and len(so_far) < len(prompts):
            share = evaluation.accuracy(so_far)
            journal.event("phase", text=f"{len(so_far)} of {len(prompts)} answered, {share:.3f} of them right")

    outcomes = await evaluation.evaluate(crew, prompts, told=told)
    correct = sum(o.num_correct for o in outcomes)
    low, high = proportion(correct, len(outcomes))
    answers = []
    for outcome in outcomes:
        rollout = (await crew.fetch(outcome.handle)).rollouts[0] if outcome.handle else None
        verdicts = rollout.verdicts if rollout else ()
        answers.append(
            {
                "question": outcome.prompt.text,
                "answer": outcome.prompt.answer,
                "text": rollout.text if rollout else "",
                "verdicts": {v.rewarder: v.value for v in verdicts if v.value is not None},
                "stratum": next((v.stratum for v in verdicts if v.stratum), ""),
                "reward": outcome.rewards[0],
                "correct": outcome.num_correct > 0,
                "failure": outcome.failure,
            }
        )
    record = {
        "step": step,
        "accuracy": evaluation.accuracy(outcomes),
        "low": low,
        "high": high,
        "questions": len(outcomes),
        "answers": answers,
    }
    (folder.root / f"eval_{when}.json").write_text(json.dumps(record, indent=1))
    journal.event(
        "evaluated", step=step, accuracy=record["accuracy"], questions=len(outcomes), low=low, high=high, when=when
    )


class _UsageLog:
    """Logs how busy the workers are, from the loop's start on."""

    def __init__(self, crew: Crew, journal: Journal) -> None:
        self._crew, self._journal = crew, journal
        self._first: dict[str, dict[str, float]] = {}

    async def sample(self) -> None:
        workers = {}
        for name, usage in (await self._crew.usage()).items():
            now = asdict(usage)
            first = self._first.setdefault(name, now)
            if now["cpu_s"] < first["cpu_s"]:  # a new process in this seat counts from its own start
                first = self._first[name] = dict.fromkeys(now, 0.0)
            workers[name] = {key: value - first[key] for key, value in now.items()}
        self._journal.event("usage", workers=workers)

    async def keep_sampling(self) -> None:
        while True:
            await asyncio.sleep(USAGE_EVERY_S)
            await self.sample()


class _Stop:
    """First signal: drain and checkpoint. Second: stop now."""

    def __init__(self, node: loop.Node, journal: Journal) -> None:
        self._node, self._journal = node, journal
        self._main = asyncio.current_task()
        self._asked = False
        self.now = False
        """Whether a second signal has come."""

    def __call__(self) -> None:
        if self._asked:
            assert self._main is not None
            self.now = True
            self._main.cancel("stopped by a second signal")
            return
        self._asked = True
        self._journal.event("stopping", how="finishing what runs, then a checkpoint; once more to stop now")
        self._closing = asyncio.ensure_future(self._node.pool.close())

    def disarm(self) -> None:
        for kind in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().remove_signal_handler(kind)


def _stop_on_signal(node: loop.Node, journal: Journal) -> _Stop:
    stop = _Stop(node, journal)
    for kind in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(kind, stop)
    return stop
