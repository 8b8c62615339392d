"""The process of `swarm replay`: the run's learner, trained on recorded batches, telling the digests of its weights.

    python -m cluster.replay_learner RUN MODEL SINCE PLAN [RANK ADDRESS]

A learner of several ranks starts the others like itself, on this host; only the first one speaks.

PLAN is a JSON file: [[step, lineage, digest or null], ...]. It begins with step SINCE, whose checkpoint is restored,
and goes on with the steps after it; where SINCE is 0, it begins with step 1 on the initial model. On stdout comes a
line of JSON for each set of weights, or one with `error` where an error of our own tree ended it.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TextIO

from cluster.check import check
from cluster.child import own_stdout
from cluster.workers import LearnerWorker
from learners.ranks import listen, meet
from swarm import checkpoints, schema
from swarm.errors import SwarmError
from swarm.journal import RunFolder


def main(root: str, model: str, since: str, plan: str, rank: str = "0", address: str = "") -> None:
    """Go through the plan in order, to its end or to the first set of weights that is not the logged one."""
    folder, say = RunFolder(Path(root)), own_stdout()
    with ExitStack() as stack:
        config, store = check(folder.config), None
        if address:
            store = meet(address)
        elif config.learners.ranks > 1:
            store, address = listen("127.0.0.1")
            for other in range(1, config.learners.ranks):
                command = [sys.executable, "-m", "cluster.replay_learner", root, model, since, plan]
                started = subprocess.Popen([*command, str(other), address], stdout=subprocess.DEVNULL)
                stack.callback(_end, started)
        steps = json.loads(Path(plan).read_text())
        step = int(since)
        try:
            learner = LearnerWorker(config, model, int(rank), store)
            stack.callback(learner.close)
            for step, lineage, logged in steps:
                began = time.monotonic()
                _go(learner, folder, step, lineage, first=step == int(since))
                weights = learner.publish()
                if weights is None:
                    continue  # the first rank tells, and ends the others where it is enough
                seconds = time.monotonic() - began
                _tell(say, step=step, digest=weights.digest, tensors=weights.tensors, seconds=seconds)
                if logged not in (None, weights.digest):
                    break
        except SwarmError as error:
            _tell(say, step=step, error=f"{type(error).__name__}: {error}")


def _go(learner: LearnerWorker, folder: RunFolder, step: int, lineage: int, first: bool) -> None:
    """To the weights of `step`: from its checkpoint where it is the `first`, else by its batch."""
    if first:
        learner.restore(checkpoints.path_of(folder.checkpoints, step) / "learner", lineage)
    else:
        learner.belong(lineage)
        learner.step(step, None, *[schema.to_batch(group) for group in schema.read_groups(folder.batch(step))])


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()


def _tell(say: TextIO, **facts: Any) -> None:
    print(json.dumps(facts), file=say, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
