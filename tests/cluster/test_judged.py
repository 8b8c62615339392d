"""What judges were asked reaches the driver with the facts of groups."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cluster.evidence import Evidence
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


def test_a_budget_is_that_of_the_place_whichever_process_is_in_it(tmp_path: Path) -> None:
    judge = {"name": "j", "model": "m", "endpoint": "http://127.0.0.1:9/v1", "budget_tokens": 1000}
    recipe = {
        "model": {"path": "tiny"},
        "actors": {"tasks": ["none"]},
        "rewarders": {"use": [{"name": "yes_no", "judge": "j"}], "judges": [judge], "sentinels": 0.0},
        "learners": {"steps": 1},
    }

    def spent(worker: RewarderWorker) -> int:
        found: int = worker.evidence()["spent"]["j"]
        return found

    def exchange(evidence: Evidence, worker: RewarderWorker) -> None:
        evidence.saw("rewarder-0", json.loads(json.dumps(worker.evidence())))
        worker.hear(evidence.others("rewarder-0"), evidence.before("rewarder-0"))

    async def go() -> None:
        evidence = Evidence()
        first, second, third = (RewarderWorker(parse(recipe, "test")) for _ in range(3))
        exchange(evidence, first)
        first._endpoints["j"].spent_tokens += 400
        exchange(evidence, first)
        evidence.save(tmp_path)
        second._endpoints["j"].spent_tokens += 5  # before it hears of the dead one
        for _ in range(2):
            exchange(evidence, second)
            assert spent(second) == 405
        resumed = Evidence()
        resumed.recall(tmp_path)
        exchange(resumed, third)
        assert spent(third) == 400
        prompt = sums(1)[0]
        third._endpoints["j"].spent_tokens += 590
        judged = await third.judge(group_of(prompt, 0))
        assert all("990 of budget_tokens = 1000 are used up" in r.verdicts[0].cause for r in judged.rollouts)
        for worker in (first, second, third):
            await worker.close()

    asyncio.run(go())
