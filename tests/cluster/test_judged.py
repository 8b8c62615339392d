"""What judges were asked reaches the driver with the facts of groups."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from cluster.workers import RewarderWorker, parcel
from rewarders.chat import Reply
from rewarders.judge_simulator import JudgeSimulator
from swarm.config import parse
from tests.cluster.test_notices import group_of
from tests.rewarders.weak import sums


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
