"""`swarm replay`: the learner once more over the recorded batches, to the weights that were logged, step by step.

Neither actors nor Ray take part. The learner gets a process of its own with the threads and the memory settings of the
run's: the order of sums, hence every bit of the weights, depends on them. (A run that was placed inline had those of
its shell; so has its replay.) Equal weights are promised on one machine with one set of versions, and for the recipe as
it is now: a schedule of the learning rate spans `learners.steps`, so a run that was resumed to more steps had two.
"""

from __future__ import annotations

import json
import tempfile
from contextlib import closing
from typing import Any

from rich.console import Console

from cluster import environment
from cluster.check import check
from cluster.child import apart
from cluster.models import resolve
from swarm import checkpoints, recovery
from swarm.config import RunConfig
from swarm.errors import ConfigError, SwarmError
from swarm.journal import RunFolder
from swarm.ledger import Ledger

LEARNER = "cluster.replay_learner"


def replay(folder: RunFolder, *, console: Console, since: int = 0, steps: int | None = None) -> dict[str, Any]:
    """Train again from the initial model, or from the checkpoint of step `since`, as far as the run got or `steps` far.

    Returns what was compared; `differs` is None or names the first step and tensor that are not as they were. Raises
    ConfigError where the run cannot be replayed, SwarmError where the learner fails.
    """
    config = check(folder.config)
    with folder.locked():
        chain = _chain(folder, since, steps)
        known = recovery.logged(folder, chain)
        if not known:
            raise ConfigError(f"{folder.root}: no digests of these steps in metrics.jsonl: nothing to compare with")
        tensors = _tensors(folder, chain)
        model = resolve(config.model.path, say=console.print)
        last = max(chain)
        console.print(f"replaying steps {since + 1} to {last} of {folder.root}")
        result: dict[str, Any] = {"run": str(folder.root), "since": since, "last": last, "compared": 0, "differs": None}

        failures: list[str] = []

        def heard(text: str) -> None:
            line = json.loads(text)
            step = line["step"]
            if "error" in line:
                failures.append(f"{folder.root}: step {step} cannot be replayed: {line['error']}")
                return
            if step not in known:
                console.print(f"step {step}: trained; the run did not live to log its digest")
                return
            result["compared"] += 1
            if line["digest"] == known[step]:
                console.print(f"step {step} of {last}: equal ({line['digest'][:8]}, {line['seconds']:.1f} s)")
                return
            tensor = _first_other(tensors.get(step, {}), line["tensors"])
            result["differs"] = {"step": step, "tensor": tensor, "digest": line["digest"], "logged": known[step]}

        with tempfile.NamedTemporaryFile("w", prefix="swarm-replay-", suffix=".json") as plan:
            json.dump([[step, lineage, known.get(step)] for step, lineage in chain.items()], plan)
            plan.flush()
            arguments = (folder.root, model, since, plan.name)
            apart(LEARNER, *arguments, say=heard, environment=_environment(config), failure=SwarmError)
        if failures:
            raise SwarmError(failures[0])
    return result


def verdict(result: dict[str, Any]) -> str:
    """The result in one line."""
    differs = result["differs"]
    if differs is None:
        return f"all {result['compared']} sets of weights are equal, to step {result['last']}"
    where = (
        f"{differs['tensor']} is the first tensor that differs" if differs["tensor"] else "its tensors were not kept"
    )
    return (
        f"{result['run']}: the weights of step {differs['step']} are not those of the run: digest {differs['digest']}, "
        f"logged was {differs['logged']}; {where}"
    )


def _chain(folder: RunFolder, since: int, steps: int | None) -> dict[int, int]:
    """Step to lineage of what is to be trained again, with `since` itself where its checkpoint is compared first."""
    if not folder.ledger.is_file():
        raise ConfigError(f"{folder.root}: no ledger.sqlite: the run has not begun, or its folder is not whole")
    with closing(Ledger(folder.ledger)) as ledger:
        chain = ledger.chain()
    if not chain:
        raise ConfigError(f"{folder.root}: no step was trained yet: nothing to replay")
    if since:
        _check_checkpoint(folder, since)
    if since >= max(chain):
        raise ConfigError(f"--since {since}: the run got to step {max(chain)}; nothing was trained after it")
    wanted = {step: lineage for step, lineage in chain.items() if step >= since}
    if steps is not None:
        wanted = {step: lineage for step, lineage in wanted.items() if step <= since + steps}
    missing = [step for step in wanted if step > since and not folder.batch(step).is_file()]
    if missing:
        newer = [step for step in _whole(folder) if step >= max(missing)]
        mend = f"; --since {newer[0]} begins after them" if newer and newer[0] < max(wanted) else ""
        raise ConfigError(
            f"{folder.root}: {len(missing)} of {len(wanted)} steps have no recorded batch, "
            f"{folder.batch(missing[0]).name} among them{mend}"
        )
    return wanted


def _check_checkpoint(folder: RunFolder, since: int) -> None:
    problem = checkpoints.check(checkpoints.path_of(folder.checkpoints, since))
    if problem:
        whole = ", ".join(map(str, _whole(folder))) or "none"
        raise ConfigError(f"--since {since}: no whole checkpoint of that step ({problem}); whole are: {whole}")


def _whole(folder: RunFolder) -> list[int]:
    """Steps of the checkpoints that are whole, in order."""
    found = sorted(folder.checkpoints.glob("step_*"))
    return [checkpoints.step_of(path) for path in found if checkpoints.check(path) is None]


def _tensors(folder: RunFolder, chain: dict[int, int]) -> dict[int, dict[str, str]]:
    """Step to the digests of its tensors, where they were kept."""
    lines = folder.read("digests.jsonl")
    return {line["step"]: line["tensors"] for line in lines if chain.get(line["step"]) == line["lineage"]}


def _first_other(kept: dict[str, str], found: dict[str, str]) -> str | None:
    """The first tensor that differs, in the order in which they are published."""
    return next((name for name in kept if kept[name] != found.get(name)), None)


def _environment(config: RunConfig) -> dict[str, str]:
    learners = config.learners
    if config.cluster.placement == "inline":
        return {"DS_ACCELERATOR": "cuda" if learners.gpus else "cpu"}
    return environment.of_worker(learners.threads, learners.gpus)
