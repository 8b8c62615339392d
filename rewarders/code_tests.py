"""Tests of a program, read from task data, and judged from outside the program.

    {"input": "2\n", "output": "4\n"}               what it reads, and what it has to print
    {"function": "f", "args": [2], "output": 4}     a call, and what it has to return
    "assert f(2) == 4"                              an assert: only `f(2)` is run inside, `== 4` is done here
    {"inputs": [...], "outputs": [...]}             many of the first kind; of the second with "fn_name"

A list of these, one of them, their JSON, or a script of asserts, also in HumanEval's `def check(candidate):`. Expected
values never enter the sandbox: a program can answer what it likes, but does not see what would be right. So an assert
must be a question to the program on one side and a literal on the other; `code_asserts` does that.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rewarders.code_answers import Check, Equal, Malformed, read_answers
from rewarders.code_asserts import read_asserts, read_question
from rewarders.sandbox_box import Job, Run

MOST_TESTS = 1000


@dataclass(frozen=True, slots=True)
class Printed:
    """Output line by line, without white space at the ends of lines and empty lines at the end."""

    name: str
    job: Job
    output: bytes

    def problem(self, run: Run) -> str:
        """Why the program fails it; empty where it passes."""
        if run.failed:
            return _with_error(run)
        return "" if _lines(run.stdout) == _lines(self.output) else "another output"


@dataclass(frozen=True, slots=True)
class Asked:
    """Answers that have to pass a check each."""

    name: str
    job: Job
    checks: tuple[Check, ...]

    def problem(self, run: Run) -> str:
        """Why the program fails it; empty where it passes."""
        if run.failed:
            return _with_error(run)
        try:
            answers = read_answers(run.answer, len(self.checks))
            wrong = [check for check, answer in zip(self.checks, answers, strict=True) if not check.holds(answer)]
        except Malformed as error:
            return str(error)
        except RecursionError:
            return "its answer is nested too deeply"
        return "another answer" if wrong else ""


Test = Printed | Asked
"""One entry of a verdict's parts."""


def read_tests(data: Any, entry_point: str = "") -> list[Test]:
    """The tests of a task. `entry_point` is the function that HumanEval's `check` is given.

    Raises ValueError that names the test and why it cannot be judged.
    """
    if isinstance(data, str):
        data = _from_json(data)
    if isinstance(data, str):
        return list(_asserts(data, entry_point, "test"))
    if isinstance(data, Mapping):
        data = list(_rows(data)) if "inputs" in data else [data]
    if not isinstance(data, Sequence) or not data:
        raise ValueError(f"the tests are {str(data)[:80]!r}; wanted a list of tests, or a script of asserts")
    tests: list[Test] = []
    for number, test in enumerate(data, 1):
        tests += _asserts(test, entry_point, f"test {number}") if isinstance(test, str) else [_test(test, number)]
    if len(tests) > MOST_TESTS:
        raise ValueError(f"{len(tests)} tests; wanted at most {MOST_TESTS}")
    return tests


def _from_json(text: str) -> Any:
    if not text.lstrip().startswith(("[", "{")):
        return text
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"the tests look like JSON and are not: {error}") from error


def _rows(columns: Mapping[str, Any]) -> list[dict[str, Any]]:
    inputs, outputs, function = columns["inputs"], columns.get("outputs", ()), columns.get("fn_name")
    if len(inputs) != len(outputs):
        raise ValueError(f"the tests have {len(inputs)} inputs and {len(outputs)} outputs")
    kind = {"function": function} if function else {}
    name = "args" if function else "input"
    return [{**kind, name: given, "output": wanted} for given, wanted in zip(inputs, outputs, strict=True)]


def _test(test: Any, number: int) -> Test:
    name = f"test {number}"
    match test:
        case {"function": str(function), "args": [*args], "output": wanted}:
            try:
                ask = read_question(f"{function}({', '.join(_literal(value) for value in args)})")
            except (ValueError, SyntaxError) as error:
                raise ValueError(f"{name}: {error}") from error
            return Asked(name, Job(ask=f"({ask},)"), (Equal(wanted, lists_alike=True),))
        case {"input": given, "output": wanted}:
            return Printed(name, Job(stdin=_text(given, name)), _text(wanted, name))
    wanted = '{"input", "output"}, {"function", "args", "output"} or an assert'
    raise ValueError(f"{name} is {str(test)[:80]!r}; wanted {wanted}")


def _asserts(script: str, entry_point: str, name: str) -> list[Test]:
    try:
        found = read_asserts(script, entry_point)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error
    several = len(found) > 1
    return [
        Asked(f"{name}.{i}" if several else name, Job(prepare=a.prepare, ask=a.ask), a.checks)
        for i, a in enumerate(found, 1)
    ]


def _literal(value: Any) -> str:
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"the argument {value} is not finite")
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(_literal(item) for item in value)}]"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_literal(k)}: {_literal(v)}" for k, v in value.items()) + "}"
    if value is None or isinstance(value, (bool, int, float, str)):
        return repr(value)
    raise ValueError(f"the argument {str(value)[:40]!r} is a {type(value).__name__}; wanted JSON")


def _text(value: Any, name: str) -> bytes:
    if isinstance(value, (list, tuple)) and all(isinstance(line, str) for line in value):
        value = "\n".join(value)
    if not isinstance(value, str):
        raise ValueError(f"{name} has {repr(value)[:80]} as text; wanted a string or a list of lines")  # noqa: TRY004 - task data, not an argument
    return value.encode("utf-8", "surrogatepass")


def _lines(data: bytes) -> list[bytes]:
    return [line.rstrip() for line in data.rstrip().split(b"\n")]


def _with_error(run: Run) -> str:
    said = run.stderr.decode(errors="replace").strip().rpartition("\n")[2][:200]
    return f"{run.failed}: {said}" if said else run.failed
