"""A served judge under Ray: it answers through a reward worker, and a kill costs nothing but time."""

from __future__ import annotations

import asyncio
import os
import pickle
import signal
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cluster import build
from cluster.check import check
from cluster.ray_judge import ChatOverRay
from rewarders.chat import Reply
from swarm.config import JudgeSection
from swarm.errors import RewarderError
from swarm.roles import Crew
from swarm.types import Finish, Group, Prompt, Rollout, Span
from tests.cluster.small import make_model, write_recipe
from tests.cluster.yes_model import make_yes_model

PATIENCE_S = 600


def group(ticket: int) -> Group:
    tokens = np.array([52], np.int32)
    made = Rollout(tokens, np.zeros(1, np.float32), (Span(0, 0, 1),), "4", Finish.STOP, np.ones(1, bool))
    prompt = Prompt(f"p{ticket}", "2 + 2 = ?", "4", "test")
    rollouts = (made, replace(made, text="5"))
    return Group(f"{ticket}.0", ticket, 0, prompt, np.array([50], np.int32), rollouts, "learner", 0, 1.0, False)


async def scored(crew: Crew, ticket: int) -> Group:
    return await crew.fetch(await crew.score(await crew.adopt(group(ticket))))


class Remote:
    """A method of a process: `method.remote(...)`."""

    def __init__(self, method: Callable[..., Awaitable[Any]]) -> None:
        self.remote = method


class SlowJudge:
    """The judge's process: two requests at a time, the others wait."""

    def __init__(self) -> None:
        self.ready, self.ask = Remote(self._ready), Remote(self._ask)
        self.waiting = self.most = 0
        self._slots = asyncio.Semaphore(2)

    async def _ready(self) -> int:
        return 1

    async def _ask(self, messages: list[dict[str, str]], max_tokens: int, choices: list[str]) -> Reply:
        self.waiting += 1
        self.most = max(self.most, self.waiting)
        async with self._slots:
            await asyncio.sleep(0.1)
        self.waiting -= 1
        return Reply(messages[0]["content"])


def test_what_waits_for_a_busy_judge_is_not_late() -> None:
    async def main() -> None:
        judge = SlowJudge()
        section = JudgeSection(name="own", model="m", concurrent=2, timeout_s=0.5)
        chats = [pickle.loads(pickle.dumps(ChatOverRay("own", None, section, workers=2))) for _ in range(2)]
        for chat in chats:
            chat._process = judge
        asked = [
            chat.ask([{"role": "user", "content": str(i)}], max_tokens=1) for i, chat in enumerate(chats * 10)
        ]  # 1 s of work for a judge whose limit is half of that
        assert [reply.text for reply in await asyncio.gather(*asked)] == [str(i) for i in range(20)]
        assert judge.most == 4

    asyncio.run(main())


@pytest.mark.slow
@pytest.mark.timeout(2 * PATIENCE_S)
def test_a_judge_answers_through_a_reward_worker_and_is_replaced_when_it_is_killed(tmp_path: Path) -> None:
    judge = make_yes_model(tmp_path / "yes")
    section = f'{{ name = "own", model = "{judge}", engine = "transformers", timeout_s = 120.0 }}'
    recipe = write_recipe(tmp_path, make_model(tmp_path / "small"), steps=1)
    use = 'rewarders.use=[{ name = "yes_no", judge = "own" }]'
    config = check(recipe, [use, f"rewarders.judges=[{section}]"])
    events: list[tuple[str, dict[str, Any]]] = []

    def pids(kind: str) -> list[int]:
        return [facts["pid"] for what, facts in events if what == kind and facts["worker"] == "judge-own"]

    async def main() -> None:
        back = asyncio.Event()

        def told(kind: str, **facts: Any) -> None:
            events.append((kind, facts))
            if len(pids("ready")) == 2:
                back.set()

        async with build.crew_for(config, Path(config.model.path), told, with_learner=False) as crew:
            first = await scored(crew, 0)
            assert all(r.verdicts[0].value > 0.9 for r in first.rollouts)
            [pid] = pids("ready")
            under_way = [asyncio.create_task(scored(crew, ticket)) for ticket in range(1, 9)]
            await asyncio.sleep(0)
            os.kill(pid, signal.SIGKILL)
            async with asyncio.timeout(PATIENCE_S):
                for ended in await asyncio.gather(*under_way, return_exceptions=True):
                    # Asked again by the worker, or a failure that the loop asks again: never a value of its own.
                    if isinstance(ended, BaseException):
                        assert isinstance(ended, RewarderError)
                        assert "judge" in str(ended)
                    else:
                        assert all(r.verdicts[0].value > 0.9 for r in ended.rollouts)
                again = await scored(crew, 9)
            assert all(r.verdicts[0].value > 0.9 for r in again.rollouts)
            await back.wait()
        assert pids("died") == [pid]
        assert pids("ready")[1] != pid

    asyncio.run(main())
