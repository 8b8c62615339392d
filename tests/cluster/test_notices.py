"""What a reward worker has to tell reaches the driver with the facts of its groups."""

from __future__ import annotations

import asyncio
import pickle
from dataclasses import replace

import numpy as np
import pytest

from cluster.workers import RewarderWorker, parcel
from rewarders.registry import REWARDERS
from swarm.config import parse
from swarm.errors import RewarderError
from swarm.types import Finish, Group, Prompt, Rollout, Span, Verdict
from tests.rewarders.weak import Weak, key_of, sums


def group_of(prompt: Prompt, ticket: int) -> Group:
    tokens = np.array([1, 2], np.int32)
    rollout = Rollout(tokens, np.zeros(2, np.float32), (Span(0, 0, 2),), "no", Finish.STOP, np.ones(2, bool))
    rollouts = tuple(replace(rollout, text=text) for text in (str(prompt.answer), "no", "0", "x") * 2)
    return Group(f"{ticket}.0", ticket, 0, prompt, tokens, rollouts, "learner", 0, 1.0, False)


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
                _, scored = await worker.score(batch, facts)
            except RewarderError as error:  # the breaker is open
                notices = error.notices
            else:
                notices = scored.notices
            events += [str(notice["event"]) for notice in notices]
            await asyncio.sleep(0)
        await worker.close()
        return events

    first, second, *figures = asyncio.run(go())
    assert (first, second) == ("breaker", "quarantine")
    assert set(figures) == {"sentinels", "breaker_closed"}


def test_it_also_travels_with_a_group_that_nobody_could_judge(monkeypatch) -> None:
    """While the breaker of the only rewarder is open there is no other."""

    class Down(Weak):
        async def judge(self, group: Group) -> list[Verdict]:
            raise ConnectionError("down")

    monkeypatch.setitem(REWARDERS, "weak", Down)
    recipe = {
        "model": {"path": "tiny"},
        "actors": {"tasks": ["none"]},
        "rewarders": {"use": ["weak"]},
        "learners": {"steps": 1},
    }

    async def go() -> tuple[str, ...]:
        worker = RewarderWorker(parse(recipe, "test"))
        worker._worker._watches[0].events.append({"event": "breaker", "cause": "it is bad"})
        told = []
        for ticket in (-1, 0, 1):
            with pytest.raises(RewarderError) as caught:
                await worker.score(*parcel(group_of(sums(1)[0], ticket), {}))
            crossed = pickle.loads(pickle.dumps(caught.value))
            told += [f"{ticket}: {notice['event']}" for notice in crossed.notices]
        await worker.close()
        return tuple(told)

    assert asyncio.run(go()) == ("0: breaker", "0: sentinels")
