"""Real rank processes for tests: each runs the functions it is sent, with learners on the small model."""

from __future__ import annotations

import multiprocessing
import os
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

PATIENCE_S = 600
"""Until a test gives up on processes that do nothing; nothing is asserted about time."""


class Ranks:
    """`num` processes that can make learners together."""

    def __init__(self, num: int, model: Path) -> None:
        self.num = num
        context = multiprocessing.get_context("spawn")
        self.pipes, self.processes = [], []
        before = dict(os.environ)
        os.environ |= {"DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"}  # read when a library is loaded
        try:
            for rank in range(num):
                ours, theirs = context.Pipe()
                process = context.Process(target=_serve, args=(theirs, rank, num, model), daemon=True)
                process.start()
                self.pipes.append(ours)
                self.processes.append(process)
        finally:
            os.environ.clear()
            os.environ |= before
        address = self._answer(0)
        for pipe in self.pipes[1:]:
            pipe.send(address)

    def run(self, function: Callable[..., Any], *args: Any) -> list[Any]:
        """What `function(make_learner, *args)` returned, by rank. Learners that it made are closed."""
        for pipe in self.pipes:
            pipe.send((function, args))
        return [self._answer(rank) for rank in range(self.num)]

    def close(self) -> None:
        for process in self.processes:
            process.kill()
            process.join()

    def _answer(self, rank: int) -> Any:
        pipe = self.pipes[rank]
        assert pipe.poll(PATIENCE_S), f"rank {rank} says nothing"
        fine, answer = pipe.recv()
        assert fine, f"rank {rank}: {answer}"
        return answer


def _serve(pipe: Any, rank: int, num: int, model: Path) -> None:
    from learners.learner import PolicyLearner
    from learners.ranks import listen, meet
    from swarm.config import LearnersSection
    from swarm.types import PolicyVersion

    if rank == 0:
        store, address = listen("127.0.0.1")
        pipe.send((True, address))
    else:
        store = meet(pipe.recv())
    made: list[PolicyLearner] = []

    def make(dtype: str = "float32", **options: Any) -> PolicyLearner:
        section = LearnersSection(**({"steps": 10, "lr": 1e-3, "micro_tokens": 40, "ranks": num} | options))
        made.append(
            PolicyLearner(
                model,
                dtype=dtype,
                section=section,
                reward_weights={"exact": 1.0},
                seed=3,
                version=PolicyVersion("me", 0, 0),
                max_tokens=8,
                rank=rank,
                store=store,
            )
        )
        return made[-1]

    while True:
        function, args = pipe.recv()
        try:
            pipe.send((True, function(make, *args)))
        except Exception:  # noqa: BLE001 - it is told to the test
            pipe.send((False, traceback.format_exc()))
        while made:
            made.pop().close()
