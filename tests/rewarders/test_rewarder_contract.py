"""What every rewarder promises, over all of them."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from swarm.roles import Rewarder
from swarm.types import Group, Status
from tests.rewarders.examples import EXAMPLES, USERS, Example


@pytest.fixture(scope="module", params=sorted(EXAMPLES))
def example(request) -> Example:
    return EXAMPLES[request.param]


@pytest.fixture(scope="module")
def rewarder(example, tmp_path_factory, gone) -> Iterator[Any]:
    folder = tmp_path_factory.mktemp("cwd")
    (folder / "contract_rewards.py").write_text(USERS)
    before = Path.cwd()
    os.chdir(folder)
    try:
        made = example.make()
        yield made
        pid = made.child.pid if hasattr(made, "child") else None
        made.close()
        assert pid is None or gone(pid)
    finally:
        os.chdir(before)


def judge(rewarder: Rewarder, group: Group) -> list[Any]:
    return list(asyncio.run(rewarder.judge(group)))


def test_it_is_a_rewarder(rewarder) -> None:
    assert isinstance(rewarder, Rewarder)


def test_right_answers_score_more_than_wrong_ones_in_order(rewarder, make_group, example) -> None:
    first, second = example.wrong
    verdicts = judge(rewarder, make_group([example.right, first, example.right, second], **example.group))
    assert [v.status for v in verdicts] == [Status.SCORED] * 4, verdicts
    right, wrong = example.values
    assert [v.value for v in verdicts] == [right, wrong, right, wrong]
    assert {v.rewarder for v in verdicts} == {rewarder.name}


def test_a_group_of_one_gets_one_verdict(rewarder, make_group, example) -> None:
    assert len(judge(rewarder, make_group([example.right], **example.group))) == 1


def test_without_an_answer_it_abstains(rewarder, make_group, example) -> None:
    verdicts = judge(rewarder, make_group(["4", "5"]))
    wanted = Status.ABSTAINED if example.needs_answer else Status.SCORED
    assert [v.status for v in verdicts] == [wanted] * 2
    assert all(v.cause for v in verdicts if v.status is Status.ABSTAINED)


def test_a_killed_child_is_replaced_and_its_death_is_no_zero(rewarder, make_group, example) -> None:
    if not hasattr(rewarder, "child"):
        return
    group = make_group([example.right], **example.group)
    judge(rewarder, group)
    os.kill(rewarder.child.pid, signal.SIGKILL)
    [first] = judge(rewarder, group)
    assert first.status is Status.ERROR
    assert "SIGKILL" in first.cause
    assert judge(rewarder, group)[0].value == example.values[0]
