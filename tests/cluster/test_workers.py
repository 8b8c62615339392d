"""The reward worker as a process runs it: the judges of recipe and node, and the store that workers share."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cluster.workers import RewarderWorker, parcel
from rewarders.judge_server import application, serving
from rewarders.judge_simulator import Faults, JudgeSimulator
from rewarders.shaping import as_rollout
from swarm import schema
from swarm.config import RunConfig, parse
from swarm.types import Finish, Group, GroupFacts, Prompt, Rollout, Span


def recipe(tmp_path: Path, endpoint: str) -> RunConfig:
    return parse(
        {
            "model": {"path": "tiny"},
            "actors": {"tasks": ["reasoning_gym"]},
            "rewarders": {
                "use": [
                    {"name": "yes_no", "judge": "j"},
                    {"name": "rubric", "judge": "j", "criteria": ['It says "so".'], "weight": 0.5},
                ],
                "judges": [{"name": "j", "model": "simulator", "endpoint": endpoint}],
                "sentinels": 0.0,
                "store": str(tmp_path / "verdicts.sqlite"),
            },
            "learners": {"steps": 1},
        },
        "recipe",
    )


@pytest.fixture
def group() -> Group:
    def rollout(text: str) -> Rollout:
        tokens = np.array([1], np.int32)
        return Rollout(tokens, np.zeros(1, np.float32), (Span(0, 0, 1),), text, Finish.STOP, np.ones(1, bool))

    rollouts = tuple(rollout(text) for text in ("so 4", "4", "so 5", "5", "5"))
    return Group("1.0", 1, 0, Prompt("p", "2 + 2?", "4"), np.array([3], np.int32), rollouts, "learner", 0, 1.0, False)


def scored(worker: RewarderWorker, group: Group) -> tuple[Group, tuple[float | None, ...]]:
    async def score() -> tuple[Group, tuple[float | None, ...]]:
        batch, facts = await worker.score(*parcel(group, {}))
        await worker.close()
        return schema.from_batch(batch), facts.rewards

    return asyncio.run(score())


def test_two_workers_ask_the_recipes_judge_once_for_each_response(tmp_path: Path, group: Group) -> None:
    judge = JudgeSimulator()
    with serving(application(judge)) as url:
        config = recipe(tmp_path, url)
        first, rewards = scored(RewarderWorker(config), group)
        assert judge.asked == 2 * 4  # "5" stands there twice
        second, again = scored(RewarderWorker(config), group)
        assert judge.asked == 2 * 4
    assert rewards == again == (1.5, 1.0, 0.5, 0.0, 0.0)
    for one, other in zip(first.rollouts, second.rollouts, strict=True):
        assert [(v.value, v.parts, v.version) for v in one.verdicts] == [
            (v.value, v.parts, v.version) for v in other.verdicts
        ]
    assert [v.version.partition("@")[0] for v in first.rollouts[0].verdicts] == ["yes_no", "rubric"]


def test_a_judge_of_the_node_stands_where_the_recipe_has_no_endpoint(tmp_path: Path, group: Group) -> None:
    served = JudgeSimulator(Faults(confidence=0.75))
    _, rewards = scored(RewarderWorker(recipe(tmp_path, ""), {"j": served}), group)
    assert rewards == pytest.approx((1.125, 0.875, 0.625, 0.375, 0.375))
    with pytest.raises(ValueError, match="yes_no: no judge 'j'"):
        RewarderWorker(recipe(tmp_path, ""))


def test_an_answer_in_the_right_form_is_not_correct_for_that() -> None:
    form = {"name": "weighted", "of": [{"name": "pattern", "pattern": ".*"}, {"name": "length", "most": 9}]}
    sections = {"actors": {"tasks": ["reasoning_gym"]}, "learners": {"steps": 1}, "model": {"path": "tiny"}}
    worker = RewarderWorker(parse(sections | {"rewarders": {"use": ["exact", form]}}, "test"))
    rollouts = tuple(map(as_rollout, ("4", "5")))
    group = Group("g", 0, 0, Prompt("p", "?", "4"), np.zeros(1, np.int32), rollouts, "learner", 0, 1.0, False)

    async def scored() -> GroupFacts:
        facts = (await worker.score(*parcel(group, {})))[1]
        await worker.close()
        return facts

    facts = asyncio.run(scored())
    assert (facts.rewards, facts.correct) == ((2.0, 1.0), (True, False))


def test_evaluations_are_judged_by_rewarders_of_their_own() -> None:
    wrong = {"name": "noisy", "of": "exact", "false_accept": 1.0, "false_reject": 1.0, "weight": 2.0}
    config = parse(
        {
            "model": {"path": "tiny"},
            "actors": {"tasks": ["reasoning_gym"]},
            "rewarders": {"use": [wrong]},
            "learners": {"steps": 1},
            "eval": {"use": [{"name": "exact", "weight": 0.5}]},
        },
        "test",
    )
    worker = RewarderWorker(config)
    rollouts = tuple(map(as_rollout, ("4", "5")))
    group = Group("g", 0, 0, Prompt("p", "?", "4"), np.zeros(1, np.int32), rollouts, "learner", 0, 1.0, False)

    async def rewards(ticket: int) -> tuple[float | None, ...]:
        batch, facts = parcel(replace(group, ticket=ticket), {})
        return (await worker.score(batch, facts))[1].rewards

    assert asyncio.run(rewards(0)) == (0.0, 2.0)
    assert asyncio.run(rewards(-1)) == (0.5, 0.0)
    asyncio.run(worker.close())
