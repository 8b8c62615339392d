from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from rewarders.function import Function, check_function
from swarm.types import Status

USERS = '''
import asyncio, os, signal, sys, time
import os.path as elsewhere
never_called = lambda **columns: []

async def by_mode(prompts, completions, mode, answer=None, completion_ids=None):
    """One function for all of the cases, so that one child serves them."""
    kind, num = mode[0], len(completions)
    if kind == "raises":
        raise LookupError("no such table")
    if kind == "short":
        return [1.0] * (num - 1)
    if kind == "scalar":
        return 1.0
    if kind == "mixed":
        return [1, None, float("nan"), "0.5"]
    if kind == "huge":
        return [10**400, float("inf"), True, -2]
    if kind == "hangs":
        while True:
            pass
    if kind == "prints":
        for _ in range(20000):
            print("chatter " * 20)
        return [0.5] * num
    if kind == "exits":
        sys.exit("enough")
    if kind == "kills":
        os.kill(os.getpid(), signal.SIGKILL)
    if kind == "unprintable":
        class Odd(Exception):
            def __str__(self):
                raise RuntimeError
        raise Odd
    await asyncio.sleep(0)
    assert prompts == ["?"] * num and answer == ["4"] * num and completion_ids == [[1, 2]] * num
    return [float(len(c)) for c in completions]

def wants_more(completions, colour):
    return [1.0] * len(completions)

def takes_all(**columns):
    return [float(sum(columns["table"][0])), float(len(columns))]

def no_completions(prompts):
    return []

class Rewards:
    def method(self): ...
'''


@pytest.fixture(scope="module")
def users_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("users")
    (folder / "users_rewards.py").write_text(USERS)
    (folder / "broken_rewards.py").write_text("def f(:\n")
    (folder / "absent_import.py").write_text("import nothing_of_this_name\ndef f(completions): ...\n")
    (folder / "users_package").mkdir()
    (folder / "users_package" / "__init__.py").write_text("raise RuntimeError('checking must not import')\n")
    (folder / "users_package" / "inner.py").write_text("def f(completions, **columns): ...\n")
    return folder


@pytest.fixture(autouse=True)
def in_users_folder(users_folder, monkeypatch) -> None:
    monkeypatch.chdir(users_folder)


@pytest.fixture(scope="module")
def function(users_folder) -> Iterator[Function]:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(users_folder)
        made = Function(path="users_rewards:by_mode", timeout_s=20.0)
        yield made
        made.close()


def judge(function: Function, group: Any) -> list[Any]:
    return asyncio.run(function.judge(group))


def test_an_async_function_gets_the_columns_that_it_names(function, make_group) -> None:
    verdicts = judge(function, make_group(["a", "bbb"], "4", task={"mode": "fine", "other": 1}))
    assert [v.value for v in verdicts] == [1.0, 3.0]


@pytest.mark.parametrize(
    ("mode", "cause"),
    [
        ("raises", r"LookupError: no such table \(line \d+ of users_rewards.py\)"),
        ("short", "wanted a list of 4 numbers or None, one per completion; got 3"),
        ("scalar", r"wanted a list of 4 numbers or None, one per completion; got 1.0 \(float\)"),
        ("exits", "SystemExit: enough"),
        ("kills", "killed by SIGKILL"),
        ("unprintable", "Odd: .*cannot be printed"),
    ],
)
def test_its_own_failure_is_an_error_with_the_cause(function, make_group, mode, cause) -> None:
    verdicts = judge(function, make_group(["a"] * 4, "4", task={"mode": mode}))
    assert {v.status for v in verdicts} == {Status.ERROR}
    assert all(re.search(cause, v.cause) for v in verdicts), verdicts[0].cause


def test_each_value_is_judged_alone(function, make_group) -> None:
    one, none, nan, text = judge(function, make_group(["a"] * 4, "4", task={"mode": "mixed"}))
    assert one.value == 1.0
    assert none.status is Status.ABSTAINED
    assert nan.status is Status.ERROR
    assert "wanted a finite number or None; got nan" in nan.cause
    assert text.status is Status.ERROR
    assert "got '0.5' (str)" in text.cause


def test_numbers_beyond_float_are_errors(function, make_group) -> None:
    huge, inf, true, minus = judge(function, make_group(["a"] * 4, "4", task={"mode": "huge"}))
    assert (huge.status, inf.status) == (Status.ERROR, Status.ERROR)
    assert (true.value, minus.value) == (1.0, -2.0)


def test_a_chatty_function_is_no_trouble(function, make_group) -> None:
    assert [v.value for v in judge(function, make_group(["a"] * 2, "4", task={"mode": "prints"}))] == [0.5, 0.5]


def test_a_hang_is_a_timeout_and_the_next_group_is_served(users_folder, make_group) -> None:
    function = Function(path="users_rewards.by_mode", timeout_s=0.5)
    try:
        verdicts = judge(function, make_group(["a"] * 2, "4", task={"mode": "hangs"}))
        assert {v.status for v in verdicts} == {Status.TIMEOUT}
        assert judge(function, make_group(["a"], "4", task={"mode": "raises"}))[0].status is Status.ERROR
    finally:
        function.close()


def test_an_unknown_required_column_is_named_with_those_there_are(make_group) -> None:
    function = Function(path="users_rewards:wants_more")
    try:
        [verdict] = judge(function, make_group(["a"], "4", task={"size": 1}))
    finally:
        function.close()
    assert verdict.status is Status.ERROR
    assert "asks for colour; there is answer, completion_ids, completions, prompts, size" in verdict.cause


def test_task_data_may_be_numpy(make_group) -> None:
    function = Function(path="users_rewards:takes_all")
    try:
        verdicts = judge(function, make_group(["a", "b"], task={"table": np.array([1.5, 2.0])}))
        assert [v.value for v in verdicts] == [3.5, 5.0]
        [bad] = judge(function, make_group(["a"], task={"table": object()}))
    finally:
        function.close()
    assert bad.status is Status.ERROR
    assert "cannot be passed to another process" in bad.cause


def test_an_import_that_fails_in_the_child_is_an_error_verdict(make_group) -> None:
    function = Function(path="absent_import:f")
    try:
        [verdict] = judge(function, make_group(["a"]))
    finally:
        function.close()
    assert "ModuleNotFoundError: No module named 'nothing_of_this_name'" in verdict.cause


@pytest.mark.parametrize("path", ["users_rewards:by_mode", "users_rewards.by_mode", "users_package.inner:f"])
def test_a_good_path_has_no_problem(path) -> None:
    assert check_function(path) is None


def test_names_that_only_importing_would_explain_pass() -> None:
    assert check_function("users_rewards:Rewards.method") is None
    assert check_function("users_rewards:never_called") is None
    assert check_function("math:sqrt") is None


@pytest.mark.parametrize(
    ("path", "problem"),
    [
        ("users_rewards:by_mood", 'did you mean "by_mode"'),
        ("users_reward:by_mode", 'did you mean "users_rewards"'),
        ("users_package.iner:f", 'did you mean "inner"'),
        ("users_rewards.deeper:f", "is a module, not a package"),
        ("broken_rewards:f", "not valid Python"),
        ("users_rewards:no_completions", "wanted \\(prompts, completions, \\*\\*columns\\)"),
        ("by_mode", "wanted package.module:function"),
        ("users rewards:f", "wanted package.module:function"),
        ("users_rewards:", "wanted package.module:function"),
        ("", "wanted package.module:function"),
    ],
)
def test_a_bad_path_is_explained_without_importing_anything(path, problem) -> None:
    found = check_function(path)
    assert found is not None
    assert re.search(problem, found), found
    with pytest.raises(ValueError, match=problem):
        Function(path=path)
