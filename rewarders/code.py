"""Programs by their tests: each runs in a sandbox, what it prints and answers is judged outside of it.

use = [{ name = "code", reward = "share", parallel = 2 }]

The tests come from the prompt's task data, see `code_tests` for their forms. They are judged by
`sandbox` (runs the program, one fork per test), `code_asserts` (splits asserts) and `code_answers` (compares).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal, get_args

import numpy as np

from rewarders.code_tests import Test, read_tests
from rewarders.process import ChildFailure, ChildTimeout
from rewarders.sandbox import Limits, Sandbox
from rewarders.verdicts import for_all, scored, unscored
from rewarders.verpo import dense_reward
from swarm.types import Group, Prompt, Status, Verdict

Program = Literal["fenced", "whole"]
Reward = Literal["all", "share", "verpo"]
PYTHON = ("", "python", "py", "python3")


class Code:
    """1 where the program passes all tests, else 0 (`reward = "all"`); the parts of the verdict say which it passes.

    `reward = "share"` is the share of passed tests, `"verpo"` weighs them by how few programs of the group pass them
    (`verpo`, with `all_weight`). `program` is the last closed fenced block of Python, or the whole completion; without
    one the value is 0. A program that crashes, hangs or exceeds a limit fails that test; a sandbox that fails is an
    error or timeout. Abstains where the prompt has no tests in `tests` (a key of its task data) or some that cannot be
    judged from outside; `entry_point` is the key that names the function of HumanEval's `check`.

    `timeout_s` is for one program and all its tests: what it leaves no time for is failed. `test_s` and `cpu_s` are
    for one test, `memory_mb` for each of at most `processes` processes; `parallel` programs run at once.
    """

    def __init__(
        self,
        *,
        program: Program = "fenced",
        reward: Reward = "all",
        all_weight: float = 0.5,
        tests: str = "tests",
        entry_point: str = "entry_point",
        timeout_s: float = 10.0,
        test_s: float = 5.0,
        cpu_s: int = 2,
        memory_mb: int = 512,
        processes: int = 8,
        output_kb: int = 1024,
        parallel: int = 1,
    ) -> None:
        for name, value, kinds in (("program", program, get_args(Program)), ("reward", reward, get_args(Reward))):
            if value not in kinds:
                raise ValueError(f"{name} = {value!r}: wanted one of {', '.join(kinds)}")
        if not 0 <= all_weight <= 1:
            raise ValueError(f"all_weight = {all_weight}: wanted a number in [0, 1]")
        if not timeout_s > 0 or not test_s > 0:
            raise ValueError(f"timeout_s = {timeout_s}, test_s = {test_s}: wanted more than 0 seconds")
        self.name = "code"
        self._program, self._reward, self._all_weight = program, reward, all_weight
        self._tests, self._entry_point = tests, entry_point
        self._timeout_s = timeout_s
        limits = Limits(cpu_s=cpu_s, wall_s=test_s, memory_mb=memory_mb, processes=processes, output_kb=output_kb)
        self.sandbox = Sandbox(limits, parallel=parallel)

    async def judge(self, group: Group) -> list[Verdict]:
        """One verdict per rollout, in order."""
        tests = self._read(group.prompt)
        if isinstance(tests, str):
            return for_all(group, unscored(self.name, Status.ABSTAINED, tests))
        programs = [last_program(r.text) if self._program == "fenced" else r.text for r in group.rollouts]
        unlike = list(dict.fromkeys(p for p in programs if p))
        tried = await asyncio.gather(*(self._try(program, tests) for program in unlike))
        by_program = dict(zip(unlike, tried, strict=True))
        none = replace(scored(self.name, 0.0, cause="no program found"), parts={test.name: 0.0 for test in tests})
        return self._weighed([by_program[p] if p else none for p in programs])

    def close(self) -> None:
        """End all sandboxes."""
        self.sandbox.close()

    def _read(self, prompt: Prompt) -> list[Test] | str:
        """The tests, or why there are none to judge by."""
        if self._tests not in prompt.task:
            return f"the prompt's task data has no {self._tests!r}"
        try:
            return read_tests(prompt.task[self._tests], str(prompt.task.get(self._entry_point) or ""))
        except ValueError as error:
            return f"{self._tests}: {error}"

    async def _try(self, program: str, tests: Sequence[Test]) -> Verdict:
        """A program's verdict, with the share of passed tests as its value."""
        began = time.monotonic()
        try:
            found = await self.sandbox.run(
                program,
                [test.job for test in tests],
                self._timeout_s,
                lambda number, run: (tests[number].problem(run), run.seconds),
            )
        except ChildFailure as failure:
            status = Status.TIMEOUT if isinstance(failure, ChildTimeout) else Status.ERROR
            return unscored(self.name, status, str(failure), time.monotonic() - began)
        problems = {test.name: problem for test, (problem, _) in zip(tests, found, strict=True)}
        parts = {name: float(not problem) for name, problem in problems.items()}
        cause = next((f"{name}: {problem}" for name, problem in problems.items() if problem), "")
        seconds = sum(spent for _, spent in found)
        return replace(scored(self.name, sum(parts.values()) / len(parts), seconds, cause), parts=parts)

    def _weighed(self, verdicts: list[Verdict]) -> list[Verdict]:
        """The values that `reward` asks for."""
        which = [i for i, verdict in enumerate(verdicts) if verdict.status is Status.SCORED]
        if self._reward == "share" or not which:
            return verdicts
        passed = np.array([list(verdicts[i].parts.values()) for i in which], bool)
        dense = dense_reward(passed, self._all_weight) if self._reward == "verpo" else passed.min(axis=1)
        for i, value in zip(which, dense.tolist(), strict=True):
            verdicts[i] = replace(verdicts[i], value=float(value))
        return verdicts


def last_program(text: str) -> str | None:
    """The last closed fenced block that is Python or says nothing, or None. Linear in the length of the text."""
    found: str | None = None
    opened: tuple[str, str] | None = None
    lines: list[str] = []
    for line in text.split("\n"):
        fence = _fence(line)
        if opened is None:
            opened, lines = fence, []
        elif fence and not fence[1] and fence[0].startswith(opened[0]):
            if opened[1] in PYTHON:
                found = "\n".join(lines)
            opened = None
        else:
            lines.append(line)
    return found


def _fence(line: str) -> tuple[str, str] | None:
    """The marks of a fence and the first word after them, or None."""
    line = line.strip()
    rest = line.lstrip(line[:1]) if line.startswith(("```", "~~~")) else "`"
    if "`" in rest:
        return None
    word = rest.split(maxsplit=1)[0] if rest.strip() else ""
    return line[: len(line) - len(rest)], word.lower()
