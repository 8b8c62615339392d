"""What a reward worker has to tell reaches the driver with the facts of its groups."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from cluster.workers import RewarderWorker, parcel
from rewarders.chat import Reply
from rewarders.judge_simulator import JudgeSimulator
from rewarders.registry import REWARDERS
from swarm.config import parse
from swarm.errors import RewarderError
from swarm.types import Finish, Group, Prompt, Rollout, Span
from tests.rewarders.weak import Weak, key_of, sums


def group_of(prompt: Prompt, ticket: int) -> Group:
    tokens = np.array([1, 2], np.int32)
    rollout = Rollout(tokens, np.zeros(2, np.float32), (Span(0, 0, 2),), "no", Finish.STOP, np.ones(2, bool))
    rollouts = tuple(replace(rollout, text=text) for text in (str(prompt.answer), "no", "0", "x") * 2)
    return Group(f"{ticket}.0", ticket, 0, prompt, tokens, rollouts, "learner", 0, 1.0, False)


def test_what_judges_were_asked_travels_with_the_facts_of_the_next_group() -> None:
    recipe = {
        "model": {"path": "tiny"},
        "actors": {"tasks": ["none"]},
        "rewarders": {
            "use": [{"name": "guard", "of": {"name": "yes_no", "judge": "j"}}],
            "judges": [{"name": "j", "model": "m"}],
            "sentinels": 0.0,
        },
        "learners": {"steps": 1},
    }

    class Fails(JudgeSimulator):
        """Once."""

        async def ask(self, messages: Any, *, max_tokens: int, choices: Sequence[str] = ()) -> Reply:
            if self.asked == 20:
                self.asked += 1
                raise ConnectionError("gone")
            return await super().ask(messages, max_tokens=max_tokens, choices=choices)

    async def go() -> list[Mapping[str, int]]:
        judge = Fails()
        worker = RewarderWorker(parse(recipe, "test"), {"j": judge})
        found = []
        for ticket, prompt in zip((0, -1, 1), sums(3), strict=True):
            batch, facts = parcel(group_of(prompt, ticket), {})
            _, scored = await worker.score(batch, facts)
            found.append(scored.judged)
        assert judge.asked == sum(each.get("reward/judge_calls", 0) for each in found)
        await worker.close()
        return found

    first, held_out, second = asyncio.run(go())
    assert set(first) == {"reward/judge_calls", "reward/judge_prompt_tokens", "reward/judge_completion_tokens"}
    assert first["reward/judge_completion_tokens"] == first["reward/judge_calls"] > 0
    assert first["reward/judge_prompt_tokens"] > 10 * first["reward/judge_calls"]
    assert not held_out
    assert second["reward/judge_calls"] > first["reward/judge_calls"]  # those of the evaluation are among them
    assert second["reward/judge_completion_tokens"] == second["reward/judge_calls"] - 1  # of one nothing is known


def test_what_a_watch_finds_travels_with_the_facts_of_the_next_group(monkeypatch) -> None:
    monkeypatch.setitem(REWARDERS, "weak", lambda: Weak(key_of("Thought process:")))
    recipe = {
        "model": {"path": "tiny"},
        "actors": {"tasks": ["none"]},
        "rewarders": {"use": ["weak"], "breaker": 0.3},
        "learners": {"steps": 1},
    }

    async def go() -> list[str]:
        worker = RewarderWorker(parse(recipe, "test"))
        events = []
        for ticket, prompt in enumerate(sums(20) * 5):
            batch, facts = parcel(group_of(prompt, ticket), {})
            try:
                notices = (await worker.score(batch, facts))[1].notices
            except RewarderError as failure:  # the breaker is open
                notices = failure.notices
            events += [str(notice["event"]) for notice in notices]
            await asyncio.sleep(0)
        await worker.close()
        return events

    first, second, *figures = asyncio.run(go())
    assert (first, second) == ("breaker", "quarantine")
    assert set(figures) == {"sentinels"}
