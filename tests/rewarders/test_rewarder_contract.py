"""What every rewarder promises, over all of them."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from rewarders.exact import Exact
from rewarders.judge_simulator import JudgeSimulator
from rewarders.registry import REWARDERS, asks_judge
from swarm.roles import Rewarder
from swarm.types import Group, Status

USERS = """
def same(completions, answer, **columns):
    return [None if a is None else float(c == a) for c, a in zip(completions, answer)]
"""
UNKNOWING = ("rubric", "principles", "pairwise")
"""Those that judge without the prompt's answer."""
QUESTION, ANSWER = "State the final answer to the following arithmetic problem: 484 + 229 =", "713"
OPTIONS: dict[str, Any] = {
    "function": {"path": "contract_rewards:same"},
    "rubric": {"criteria": [f'It contains "{ANSWER}".']},
    "principles": {"principles": [f'It contains "{ANSWER}".']},
}
HOSTILE = [
    "",
    "a" * 2**20,
    "\0\0",
    "\ud800",
    "9**9**9",
    "$9^{9^{9^9}}$",
    "__import__('os').system('touch marker')",
    "{{}}{0}%s%n",
    "\\frac{" * 2000 + "}" * 2000,
    "\\boxed{" * 2000,
    "nan",
    "inf",
    "1e999",
    "NaN" * 5,
    "(" * 5000,
    "<answer>" * 5000,
    '{"value": 1.0}\n{"ready": true}',
]


OPINIONS = {"reward_model", "par", "lsc"}
"""Their scores have no right and wrong; their tests are their own."""
COMPOSED: dict[str, Callable[[], dict[str, Any]]] = {
    "gate": lambda: {"when": Exact(), "then": Exact()},
    "weighted": lambda: {"of": [Exact(), Exact()], "weights": [0.5, 0.5]},
    "route": lambda: {"to": {}, "otherwise": Exact()},
    "cascade": lambda: {"rule": Exact(), "appeal": Exact(), "replaces": True},
    "noisy": lambda: {"of": Exact()},
    "guard": lambda: {"of": Exact()},
    "hybrid": lambda: {"rule": Exact(), "soft": Exact()},
    "ensemble": lambda: {"of": [Exact(), Exact()], "how": "min"},
}


@pytest.fixture(scope="module", params=sorted(REWARDERS.keys() - OPINIONS))
def rewarder(request, tmp_path_factory, gone) -> Iterator[Any]:
    folder = tmp_path_factory.mktemp("cwd")
    (folder / "contract_rewards.py").write_text(USERS)
    before = Path.cwd()
    os.chdir(folder)
    try:
        options = OPTIONS.get(request.param, {}) | COMPOSED.get(request.param, dict)()
        if asks_judge(REWARDERS[request.param]):
            options = {**options, "judge": JudgeSimulator()}
        made = REWARDERS[request.param](**options)
        yield made
        pid = made.child.pid if hasattr(made, "child") else None
        made.close()
        assert pid is None or gone(pid)
    finally:
        os.chdir(before)


@pytest.fixture(scope="module")
def task() -> dict[str, Any]:
    """A reasoning-gym entry that every rewarder can judge: its answer is a number."""
    place = {"family": "chain_sum", "seed": 3, "size": 100, "index": 5, "config": {"max_terms": 2}}
    return {"task": place, "question": QUESTION, "answer": ANSWER}


def judge(rewarder: Rewarder, group: Group) -> list[Any]:
    return list(asyncio.run(rewarder.judge(group)))


def test_it_is_a_rewarder(rewarder) -> None:
    assert isinstance(rewarder, Rewarder)


def test_right_answers_score_more_than_wrong_ones_in_order(rewarder, make_group, task) -> None:
    if rewarder.name == "pairwise":  # it compares, and knows of no right answer
        return
    right = task["answer"]
    verdicts = judge(rewarder, make_group([right, "12345", right, "no idea"], **task))
    assert [v.status for v in verdicts] == [Status.SCORED] * 4, verdicts
    assert [v.value for v in verdicts] == [1.0, 0.0, 1.0, 0.0]
    assert {v.rewarder for v in verdicts} == {rewarder.name}


def test_a_group_of_one_gets_one_verdict(rewarder, make_group, task) -> None:
    assert len(judge(rewarder, make_group([task["answer"]], **task))) == 1


def test_without_an_answer_it_abstains(rewarder, make_group) -> None:
    if rewarder.name in UNKNOWING:
        return
    verdicts = judge(rewarder, make_group(["4", "5"]))
    assert [v.status for v in verdicts] == [Status.ABSTAINED] * 2
    assert all(v.cause for v in verdicts)


def test_hostile_text_neither_scores_nor_hangs_nor_runs(rewarder, make_group, task) -> None:
    verdicts = judge(rewarder, make_group([*HOSTILE, task["answer"]], **task))
    assert len(verdicts) == len(HOSTILE) + 1
    if rewarder.name != "pairwise":
        assert [v.value for v in verdicts[:-1] if v.value] == []
        assert verdicts[-1].value == 1.0
    assert all(v.cause for v in verdicts if v.status is not Status.SCORED)
    assert not Path("marker").exists()
    for verdict in verdicts:
        verdict.cause.encode()


def test_a_killed_child_is_replaced_and_its_death_is_no_zero(rewarder, make_group, task) -> None:
    if not hasattr(rewarder, "child"):
        return
    group = make_group([task["answer"]], **task)
    judge(rewarder, group)
    os.kill(rewarder.child.pid, signal.SIGKILL)
    [first] = judge(rewarder, group)
    assert first.status is Status.ERROR
    assert "SIGKILL" in first.cause
    assert judge(rewarder, group)[0].value == 1.0
