"""The process of `swarm replay`: the run's learner, trained on recorded batches, telling the digests of its weights.

    python -m cluster.replay_learner RUN MODEL SINCE PLAN

PLAN is a JSON file: [[step, lineage, digest or null], ...]. It begins with step SINCE, whose checkpoint is restored,
and goes on with the steps after it; where SINCE is 0, it begins with step 1 on the initial model. On stdout comes a
line of JSON for each set of weights, or one with `error` where an error of our own tree ended it.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any, TextIO

from cluster.check import check
from cluster.workers import LearnerWorker
from swarm import checkpoints, schema
from swarm.errors import SwarmError
from swarm.journal import RunFolder


def main(root: str, model: str, since: str, plan: str) -> None:
    """Go through the plan in order, to its end or to the first set of weights that is not the logged one."""
    folder, start, say = RunFolder(Path(root)), int(since), _own_stdout()
    step = start
    try:
        learner = LearnerWorker(check(folder.config), model)
        try:
            for step, lineage, logged in json.loads(Path(plan).read_text()):
                began = time.monotonic()
                if step == start:
                    learner.restore(checkpoints.path_of(folder.checkpoints, start) / "learner", lineage)
                else:
                    learner.belong(lineage)
                    groups = schema.read_groups(folder.batch(step))
                    learner.step(step, None, *[schema.to_batch(group) for group in groups])
                weights = learner.publish()
                assert weights is not None  # of the first rank
                _tell(say, step=step, digest=weights.digest, tensors=weights.tensors, seconds=time.monotonic() - began)
                if logged not in (None, weights.digest):
                    break
        finally:
            learner.close()
    except SwarmError as error:
        _tell(say, step=step, error=f"{type(error).__name__}: {error}")


def _tell(say: TextIO, **facts: Any) -> None:
    print(json.dumps(facts), file=say, flush=True)


def _own_stdout() -> TextIO:
    """Standard output for our lines alone: what libraries print goes to stderr."""
    own = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    return own


if __name__ == "__main__":
    main(*sys.argv[1:])
