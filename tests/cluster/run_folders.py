"""Run folders for tests, written through the real journal and ledger: a run of 20 steps that learned."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from cluster.statistics import proportion
from swarm.journal import Journal, RunFolder
from swarm.ledger import Ledger
from swarm.types import Prompt

START = 1_700_000_000.0
STEP_S = 3.0
GROUPS = 2


def make(parent: Path, steps: int = 20) -> RunFolder:
    """A whole run: evaluations, syncs, usage, a death, a failed and a dropped prompt, checkpoints."""
    folder = RunFolder.create(parent, "demo")
    folder.config.write_text(f'name = "demo"\n[model]\npath = "tiny"\n[learners]\nmax_lag = 2\nsteps = {steps}\n')
    journal = Journal(folder)
    event(journal, 5.0, "ready", worker="actor-0", pid=11)
    event(journal, 9.0, "evaluated", step=0, accuracy=0.1, questions=40, when="before")
    event(journal, 10.0, "usage", workers=usage(0.0))
    for number in range(1, steps + 1):
        at = 10.0 + STEP_S * number
        journal.step(step(number, at, reward=0.1 + 0.8 * number / steps + 0.05 * math.sin(5 * number)))
        event(
            journal, at, "synced", step=number, pause_s=0.1 + 0.01 * number, stage_s=0.1, canary_mean=0.04, in_flight=3
        )
        if number % 5 == 0 and number < steps:
            event(journal, at, "evaluated", step=number, accuracy=0.1 + 0.8 * number / steps, questions=20)
    event(journal, 30.0, "died", worker="actor-0", pid=11, cause="killed")
    end = 10.0 + STEP_S * steps
    event(journal, end, "usage", workers=usage(STEP_S * steps))
    event(journal, end, "checkpoint", step=steps, folder=f"step_{steps:06d}")
    event(journal, end + 4, "evaluated", step=steps, accuracy=0.9, questions=40, when="after")
    event(journal, end + 5, "memory", peak_bytes=3 * 2**30)
    journal.close()
    evaluation(folder, "before", 0, right=4)
    evaluation(folder, "after", steps, right=36)
    fill_ledger(folder, steps)
    return folder


def event(journal: Journal, run_s: float, kind: str, process: float = START, **facts: Any) -> None:
    """An event at a time of our choosing: facts come last in the journal's records."""
    journal.event(kind, at=process + run_s, run_s=run_s, **facts)


def step(number: int, run_s: float, process: float = START, **facts: Any) -> dict[str, Any]:
    """A line of metrics.jsonl."""
    return {
        "at": process + run_s,
        "run_s": run_s,
        "step": number,
        "lineage": 0,
        "reward": 0.5,
        "rollouts": 8 * GROUPS,
        "tokens": 1200,
        "trained_tokens": 900,
        "step_s": 1.8,
        "learner_shares": {"wait": 0.2, "step": 0.6, "sync": 0.15, "other": 0.05},
        "learn/lag_mean_steps": 0.75,
        "learn/lag_max_steps": float(min(number - 1, 2)),
    } | facts


def usage(seconds: float) -> dict[str, dict[str, float]]:
    """Counters of all workers after so many seconds of training: 1.6 of 2 cores were at work."""
    return {
        "actor-0": {
            "busy_s": 0.7 * seconds,
            "idle_s": 0.25 * seconds,
            "paused_s": 0.05 * seconds,
            "cpu_s": 0.7 * seconds,
        },
        "rewarder-0": {"busy_s": 0.1 * seconds, "idle_s": 0.9 * seconds, "paused_s": 0.0, "cpu_s": 0.1 * seconds},
        "learner": {"busy_s": 0.6 * seconds, "idle_s": 0.4 * seconds, "paused_s": 0.0, "cpu_s": 0.8 * seconds},
    }


def evaluation(folder: RunFolder, when: str, at: int, right: int, questions: int = 40) -> None:
    """Question i is answered right where i < right; the answers are i + 1."""
    answers = [
        {
            "question": f"What is {i} | 1 + [{i}]?",
            "answer": str(i + 1),
            "text": str(i + 1) if i < right else "I think\nit is *seven*",
            "reward": float(i < right),
            "correct": i < right,
            "failure": "",
        }
        for i in range(questions)
    ]
    low, high = proportion(right, questions)
    record = {"step": at, "accuracy": right / questions, "low": low, "high": high, "questions": questions}
    (folder.root / f"eval_{when}.json").write_text(json.dumps(record | {"answers": answers}))


def fill_ledger(folder: RunFolder, steps: int) -> None:
    ledger = Ledger(folder.ledger)
    assert steps * GROUPS > 5, "tickets 3 to 5 have stories of their own"
    for ticket in range(steps * GROUPS + 1):
        ledger.asked(ticket, 0, Prompt(id=str(ticket), text="?"), {})
    ledger.failed(3, 0, "ActorError: actor-0 died after 12.5 s")
    ledger.asked(3, 1, Prompt(id="3", text="?"), {})
    ledger.failed(4, 0, "ActorError: actor-0 died after 7.25 s")
    ledger.asked(4, 1, Prompt(id="4", text="?"), {})
    ledger.dropped(5, 0, "PromptRefused: prompt of 900 tokens")
    ledger.asked(5, 1, Prompt(id="other", text="?"), {})
    for ticket in range(steps * GROUPS):
        ledger.pooled(ticket, 1 if ticket in (3, 4, 5) else 0, 10.0 + ticket % 4)
    for number in range(steps):
        ledger.trained(0, number + 1, range(number * GROUPS, (number + 1) * GROUPS))
    ledger.close()
