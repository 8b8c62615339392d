"""A certificate: what a recipe's rewarders said of responses whose truth is known, and whether that is good enough.

    held-out prompts --suites--> sentinels --each rewarder--> tallies --thresholds--> passed, or refused with figures

It holds each rewarder's version, so that a change of source, options or libraries makes it stale. A rewarder that does
not judge truth (length, format; `about_truth = False` on its class) is not examined.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rewarders.suites import Sentinel, as_group, sentinels, suites_for, tolerance_for, wording_for
from rewarders.tallies import ACCEPT, Tallies, as_figures
from swarm.config import Spec
from swarm.roles import Rewarder
from swarm.types import Prompt

MOST_HOLES = 3
"""Kept of each family."""
GROUP = 16
"""Sentinels judged as one group."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a rewarder must keep to."""

    least_j: float = 0.5
    """Of the lower bound of J."""
    worst_family: float = 0.05
    """False-accept rate of the worst family of wrong responses, at most."""
    most_unscored: float = 0.2
    """Share of all items that it gave no value for, at most."""


@dataclass(slots=True)
class Examination:
    """What one rewarder did."""

    tallies: Tallies = field(default_factory=Tallies)
    holes: list[dict[str, Any]] = field(default_factory=list)
    """Wrong responses that it accepted: family, text, question, answer, value."""
    causes: dict[str, int] = field(default_factory=dict)
    """Why items had no value, with counts."""


async def examine(
    rewarder: Rewarder, spec: Spec, prompts: Sequence[Prompt], *, timeout_s: float, seed: int = 0
) -> Examination:
    """Have a rewarder judge sentinels, one of each of its families a prompt. A failure counts as unscored."""
    found, rng = Examination(), random.Random(seed)
    accept = float(getattr(rewarder, "accept", ACCEPT))
    suites, wording, tolerance = suites_for(spec), wording_for(spec), tolerance_for(spec)
    for i, prompt in enumerate(prompts):
        others = [*prompts[:i], *prompts[i + 1 :]]
        items = sentinels(prompt, others, suites, wording, rng, tolerance)
        rng.shuffle(items)  # no place in a group says anything
        for start in range(0, len(items), GROUP):
            part = items[start : start + GROUP]
            for item, (value, cause) in zip(part, await _values(rewarder, part, timeout_s), strict=True):
                found.tallies.add(item, value, accept)
                if value is None:
                    found.causes[cause] = found.causes.get(cause, 0) + 1
                elif not item.right and value > accept:
                    _add_hole(found.holes, item, value)
    return found


async def _values(
    rewarder: Rewarder, items: Sequence[Sentinel], timeout_s: float
) -> Sequence[tuple[float | None, str]]:
    try:
        async with asyncio.timeout(10 * timeout_s):  # a limit for what has none; those that have one answer before
            verdicts = list(await rewarder.judge(as_group(items)))
    except Exception as error:  # noqa: BLE001 - a rewarder's failure is what is being examined
        return [(None, f"{type(error).__name__}: {error}")] * len(items)
    if len(verdicts) != len(items):
        return [(None, f"answered {len(verdicts)} verdicts for {len(items)} rollouts")] * len(items)
    return [(v.value, f"{v.status}: {v.cause}") for v in verdicts]


def _add_hole(holes: list[dict[str, Any]], item: Sentinel, value: float) -> None:
    if sum(hole["family"] == item.family for hole in holes) < MOST_HOLES:
        about = {"question": item.prompt.text[:200], "answer": item.prompt.answer}
        holes.append({"family": item.family, "text": item.text[:200], "value": value} | about)


def faults(examination: Examination, limits: Limits) -> list[str]:
    """What a rewarder is refused for, one line each; none where it passes."""
    tallies = examination.tallies
    right, wrong = tallies.pooled(True), tallies.pooled(False)
    unscored, every = right.unscored + wrong.unscored, right.num + wrong.num + right.unscored + wrong.unscored
    found = []
    if unscored > limits.most_unscored * every or not every:
        why = max(examination.causes, key=lambda c: examination.causes[c], default="no question has an answer")
        found.append(f"{unscored} of {every} items got no value ({why})")
    j = tallies.j()
    if j is None:
        found.append("no right answer, or no wrong one, was scored: J is unknown")
    elif j[1] < limits.least_j:
        found.append(f"J is {j[0]:.2f} ({j[1]:.2f} to {j[2]:.2f}): its lower bound is below {limits.least_j:g}")
    worst = tallies.worst()
    if worst and worst[1].rate > limits.worst_family:
        name, tally = worst
        rate = f"{tally.wrongly} of {tally.num} ({tally.rate:.2f})"
        found.append(f"worst family: {name}: {rate} accepted, at most {limits.worst_family:g} may be")
    return found


def certificate(
    examined: Mapping[str, Examination], versions: Mapping[str, str], limits: Limits, about: Mapping[str, Any]
) -> dict[str, Any]:
    """The certificate as JSON, by label of the rewarders; those that were not examined have their version only.
    `about` says what was examined, for people."""
    rewarders = {
        label: {"version": version, "examined": label in examined, "faults": []}
        | (_of(examined[label], limits) if label in examined else {})
        for label, version in versions.items()
    }
    body = {
        **about,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "limits": asdict(limits),
        "passed": bool(examined) and all(not r["faults"] for r in rewarders.values()),
        "rewarders": rewarders,
        "channels": {label: found.tallies.channels() for label, found in examined.items()},
    }
    return body | {"digest": digest_of(body)}


def _of(found: Examination, limits: Limits) -> dict[str, Any]:
    j, worst = found.tallies.j(), found.tallies.worst()
    tallies = sorted(found.tallies.families().items(), key=lambda item: (item[1].right, -item[1].rate, item[0]))
    return {
        "items": sum(t.num + t.unscored for _, t in tallies),
        "faults": faults(found, limits),
        "j": dict(zip(("value", "low", "high"), j, strict=True)) if j else None,
        "worst": as_figures(*worst) if worst else None,
        "families": [as_figures(name, tally) for name, tally in tallies],
        "holes": found.holes,
        "causes": found.causes,
    }


def digest_of(body: Mapping[str, Any]) -> str:
    """Of all but the digest itself."""
    text = json.dumps({key: value for key, value in body.items() if key != "digest"}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def problem_of(path: Path, versions: Mapping[str, str], tasks: Any, make: str) -> str | None:
    """Why a file is no certificate for rewarders of these versions on questions of these task sources (JSON, as the
    certificate has it), or None. `make` is the command that makes one."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        whole = found["digest"] == digest_of(found)
        theirs = {label: rewarder["version"] for label, rewarder in found["rewarders"].items()}
        bad = [f"{label}: {fault}" for label, r in found["rewarders"].items() for fault in r["faults"]]
        passed, examined_on = found["passed"], found["tasks"]
    except FileNotFoundError:
        return f"{path}: no such certificate; make one with `{make}`"
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        return f"{path}: not a certificate ({type(error).__name__}: {error}); make one with `{make}`"
    if not whole:
        return f"{path}: the certificate was changed after it was made; make a new one with `{make}`"
    if stale := [label for label in {*versions, *theirs} if versions.get(label) != theirs.get(label)]:
        return _stale(path, stale, make)
    if examined_on != tasks:
        return f"{path}: of other questions (those of {found.get('recipe')}, with other actors.tasks); run `{make}`"
    if not passed:
        why = "; ".join(bad) or "no rewarder judges truth"
        return f"{path}: refused: {why}; mend the rewarder or use another, then run `{make}`"
    return None


def rates_problem(path: Path, versions: Mapping[str, str], make: str) -> str | None:
    """Why the error counts in a file (`channels`) are not those of rewarders of these versions, or None. Counts
    without a version beside them (a certificate's `rewarders`) are somebody's own, as rates by hand."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        examined = found.get("rewarders", {})
        theirs = {label: examined[label]["version"] for label in found["channels"] if label in examined}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        return f"{path}: not a certificate ({type(error).__name__}: {error}); make one with `{make}`"
    stale = [label for label, version in theirs.items() if versions.get(label, version) != version]
    return _stale(path, stale, make) if stale else None


def _stale(path: Path, labels: Sequence[str], make: str) -> str:
    names = ", ".join(sorted(labels))
    return f"{path}: stale: rewarder {names} is another one now (source, options or libraries); run `{make}`"
