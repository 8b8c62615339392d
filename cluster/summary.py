"""The end-of-run summary, from a run folder alone: `summary.json`, `summary.md`, and the same in the terminal.

Reads config.toml, metrics.jsonl, events.jsonl, ledger.sqlite and the evaluations `eval_before.json`, `eval_after.json`:

    {"step": 0, "accuracy": 0.085, "low": 0.05, "high": 0.13, "questions": 200,
     "answers": [{"question", "answer", "text", "verdicts", "stratum", "decided", "reward", "correct", "failure"}, ...]}

(`verdicts` by rewarder; `low`, `high`: 95 % Wilson interval; `failure` is why a question has no answer). What a run did
not get to is null.
"""

from __future__ import annotations

import json
import math
import os
import platform
import re
import tomllib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console

from cluster import figures
from cluster.debias import corrected_accuracy
from cluster.evidence import found_in
from cluster.report import markdown, show
from rewarders.channels import State
from rewarders.tallies import Tallies, as_figures
from swarm.journal import RunFolder
from swarm.ledger import Ledger
from swarm.metrics import length_bias, work_conserving_bound

Summary = dict[str, Any]

SAMPLES = 4
"""Questions whose answers are shown."""
CAUSES = 8
"""Different causes of failure that are listed."""


def write_summary(folder: RunFolder) -> Summary:
    """Make the summary and write both files. Works on a run that was cut off at any point."""
    summary = summarise(folder)
    (folder.root / "summary.json").write_text(json.dumps(summary, indent=1) + "\n")
    (folder.root / "summary.md").write_text(markdown(summary, folder))
    return summary


def print_summary(console: Console, summary: Summary) -> None:
    """The summary on a rich Console."""
    show(console, summary)


def summarise(folder: RunFolder) -> Summary:
    """All figures of a run, JSON-able; ratios in [0, 1], times in seconds."""
    config = tomllib.loads(folder.config.read_text()) if folder.config.exists() else {}
    metrics, events = folder.read("metrics.jsonl"), folder.read("events.jsonl")
    before, after = read_eval(folder, "before"), read_eval(folder, "after")
    taken, finished, counts, causes = _ledger(folder.ledger)
    bias = length_bias(taken, finished)
    learners = config.get("learners", {})
    steps = figures.surviving(metrics)
    found_out = found_in(folder.checkpoints)
    found: Summary = _plain(
        {
            "run": str(folder.root.resolve()),
            "name": config.get("name"),
            "model": config.get("model", {}).get("path"),
            "steps": steps[-1]["step"] if steps else 0,
            "planned_steps": learners.get("steps"),
            "accuracy": {
                when: _accuracy(e, config, found_out["channels"]) for when, e in (("before", before), ("after", after))
            },
            "samples": samples(before, after),
            "reward": {
                f"{when}{kind}": _reward(part, name)
                for kind, name in (("", "reward"), ("_debiased", "learn/reward_debiased_mean"))
                for when, part in (("first", steps[:5]), ("last", steps[-5:]))
            },
            "time": _time(metrics, events),
            "throughput": _throughput(metrics, events),
            "memory": {"peak_bytes": max((e["peak_bytes"] for e in events if e["event"] == "memory"), default=None)},
            "sync": _sync(events),
            "lag": {
                "mean": figures.mean_lag(steps),
                "largest": max((v for m in steps if (v := figures.lag(m, "max")) is not None), default=None),
                "allowed": learners.get("max_lag"),
            },
            "sentinels": {name: _sentinels(known) for name, known in found_out["watches"].items()},
            "breakers": dict(Counter(e["rewarder"] for e in events if e["event"] == "breaker")),
            "unscored": _unscored(events),
            "length_bias": dict(zip(("value", "low", "high"), bias, strict=True)) | {"groups": len(taken)},
            "prompts": counts,
            "failures": causes,
            "deaths": dict(Counter(e["worker"] for e in events if e["event"] == "died")),
            "checkpoints": _checkpoints(events),
            "lineages": [
                {k: e.get(k) for k in ("lineage", "step", "cause")} for e in events if e["event"] == "lineage"
            ],
            "machine": _machine(),
        }
    )
    return found


def read_eval(folder: RunFolder, when: str) -> Summary | None:
    """`eval_before.json` or `eval_after.json`; None where it is not there or was cut off."""
    try:
        found: Summary = json.loads((folder.root / f"eval_{when}.json").read_text())
    except (OSError, ValueError):
        return None
    return found


def samples(before: Summary | None, after: Summary | None, num: int = SAMPLES) -> list[Summary]:
    """Answers to the same questions before and after: first those that became right (three of four, where there are
    so many), then the rest in the order asked, so that what still fails or got worse is seen too."""
    earlier = {a["question"]: a for a in (before or {}).get("answers", [])}
    later = {a["question"]: a for a in (after or {}).get("answers", [])}
    if not earlier or not later:
        pairs = [(q, earlier.get(q), later.get(q)) for q in earlier or later]
    else:
        pairs = [(q, earlier[q], later[q]) for q in earlier if q in later]
    gained = [p for p in pairs if p[1] and p[2] and p[2]["correct"] and not p[1]["correct"]]
    gained = gained[: max(1, num * 3 // 4)]
    others = [p for p in pairs if p not in gained]
    others.sort(key=lambda p: bool(p[2] and p[2]["correct"]))
    return [
        {"question": q, "answer": (a or b or {}).get("answer"), "before": _answer(a), "after": _answer(b)}
        for q, a, b in (gained + others)[:num]
    ]


def _answer(answer: Summary | None) -> Summary | None:
    return {k: answer.get(k) for k in ("text", "correct", "reward")} if answer else None


def _accuracy(evaluation: Summary | None, config: Mapping[str, Any], measured: State) -> Summary | None:
    """Without the answers; beside it what is left of it once the rewarder's errors are taken off."""
    if evaluation is None:
        return None
    unanswered = sum(bool(a.get("failure")) for a in evaluation.get("answers", []))
    found = {k: evaluation.get(k) for k in ("step", "accuracy", "low", "high", "questions")}
    corrected = corrected_accuracy(config, evaluation, measured)
    return found | {"unanswered": unanswered} | ({"corrected": asdict(corrected)} if corrected else {})


def _unscored(events: Sequence[figures.Record]) -> Summary:
    """The newest alarm of each rewarder whose verdicts had too often no value, and how often it went off."""
    alarms = [e for e in events if e["event"] == "unscored"]
    times = Counter(e["rewarder"] for e in alarms)
    newest = {e["rewarder"]: {k: e[k] for k in ("without", "of", "cause")} for e in alarms}
    return {name: found | {"times": times[name]} for name, found in newest.items()}


def _reward(steps: Sequence[figures.Record], name: str) -> float | None:
    known = [m[name] for m in steps if m.get(name) is not None]
    return sum(known) / len(known) if known else None


def _sentinels(known: Mapping[str, Any]) -> Summary:
    """How a rewarder did on responses whose truth is known: counts, its worst family, and the forms in quarantine."""
    tallies = Tallies.of(known["families"])
    right, wrong, worst = tallies.pooled(True), tallies.pooled(False), tallies.worst()
    return {
        "right": right.num,
        "rejected_right": right.wrongly,
        "wrong": wrong.num,
        "accepted_wrong": wrong.wrongly,
        "worst": as_figures(*worst) if worst else None,
        "quarantine": [form["example"] for form in known["quarantine"]],
    }


def _time(metrics: Sequence[figures.Record], events: Sequence[figures.Record]) -> Summary:
    done = figures.work(metrics, events)
    spent = done.spent_s if done else {}
    return {
        "wall_s": figures.wall_seconds([*metrics, *events]),
        "first_step_s": metrics[0]["run_s"] if metrics else None,
        "learner": figures.learner_shares(metrics, events),
        "actors": figures.shares_of(spent, "actor"),
        "rewarders": figures.shares_of(spent, "rewarder"),
        "processes": len(figures.processes([*metrics, *events])),
    }


def _throughput(metrics: Sequence[figures.Record], events: Sequence[figures.Record]) -> Summary:
    """Rates over the time between usage events, which is when the loop ran; without them over the steps."""
    cores = _cores()
    done = figures.work(metrics, events)
    if done is None:
        speed = figures.rate(metrics) if len(figures.processes(metrics)) == 1 else None
        return {
            "train_s": speed and speed.seconds,
            "tokens_per_s": speed and speed.tokens_per_s,
            "trained_tokens_per_s": speed and speed.trained_per_s,
            "cores": cores,
            "cpu_s": None,
            "work_conserving_bound": None,
            "share_of_bound": None,
        }
    trained = done.trained_tokens / done.seconds
    bound = work_conserving_bound(done.trained_tokens, sum(done.cpu_s.values()), cores)
    return {
        "train_s": done.seconds,
        "tokens_per_s": done.tokens / done.seconds,
        "trained_tokens_per_s": trained,
        "cores": cores,
        "cpu_s": {name: round(s, 2) for name, s in done.cpu_s.items()},
        "work_conserving_bound": bound,
        "share_of_bound": trained / bound if bound > 0 else None,
    }


def _sync(events: Sequence[figures.Record]) -> Summary:
    syncs = [e for e in events if e["event"] == "synced"]
    return {
        "count": len(syncs),
        "pause_median_s": median(e["pause_s"] for e in syncs) if syncs else None,
        "pause_worst_s": max((e["pause_s"] for e in syncs), default=None),
        "canary_mean_largest": max((e["canary_mean"] for e in syncs if "canary_mean" in e), default=None),
    }


def _checkpoints(events: Sequence[figures.Record]) -> Summary:
    return {
        "written": sum(e["event"] == "checkpoint" for e in events),
        "failed": [e["cause"] for e in events if e["event"] == "checkpoint_failed"],
        "broken": [e["problem"] for e in events if e["event"] == "checkpoint_broken"],
    }


def _ledger(path: Path) -> tuple[list[float], list[float], dict[str, int] | None, dict[str, int]]:
    """Lengths taken and finished, counts, and failures by cause: numbers in causes are ignored, rare causes summed."""
    if not path.exists():
        return [], [], None, {}
    ledger = Ledger(path)
    try:
        taken, finished = ledger.lengths()
        counts, raw = ledger.counts(), ledger.causes()
    finally:
        ledger.close()
    causes: Counter[str] = Counter()
    for cause, number in raw.items():
        causes[re.sub(r"\d+(\.\d+)?", "#", " ".join(cause.split()))[:120]] += number
    listed = dict(causes.most_common(CAUSES))
    if rest := causes.total() - sum(listed.values()):
        listed["other causes"] = rest
    return taken, finished, counts, listed


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _machine() -> Summary:
    """Where and under what load the summary was made; a run and its summary share the machine."""
    return {
        "cores": _cores(),
        "load_1_5_15_min": [round(x, 2) for x in os.getloadavg()] if hasattr(os, "getloadavg") else None,
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
    }


def _plain(value: Any) -> Any:
    """JSON has no nan and no infinity: they become null."""
    if isinstance(value, Mapping):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
