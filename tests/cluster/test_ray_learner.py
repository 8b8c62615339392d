"""The set of ranks as one learner, over stand-ins for Ray's handles: who dies, who hangs, who is told."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from ray.exceptions import RayActorError

from cluster import ray_learner
from cluster.ray_learner import RayLearner
from swarm.errors import DeadActor, DivergedError, StarvedError


class Handle:
    """A rank's process; `act(rank, life, method)` is awaited for each call."""

    def __init__(self, act: Callable[..., Any], rank: int, life: int, calls: list[Any]) -> None:
        self.rank, self.life, self.killed = rank, life, False

        def remote(method: str) -> Any:
            async def ask(*args: Any) -> Any:
                assert not self.killed, "a call of a killed process"
                calls.append((rank, life, method, *args))
                return await act(rank, life, args[0] if method == "call" else method)

            return SimpleNamespace(remote=lambda *args: asyncio.ensure_future(ask(*args)))

        for method in ("listen", "ready", "call", "saved", "usage", "close"):
            setattr(self, method, remote(method))
        self.__ray_call__ = SimpleNamespace(remote=lambda _: asyncio.ensure_future(_host()))


async def _host() -> str:
    return "this host"


class Set:
    """A learner of `num` ranks, with its events and all processes that were ever started."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, num: int, act: Callable[..., Any]) -> None:
        self.events: list[tuple[str, str]] = []
        self.calls: list[Any] = []
        self.handles: list[Handle] = []

        async def answer(rank: int, life: int, method: str) -> Any:
            found = await act(rank, life, method)
            return {"listen": "host:1", "ready": 100 * life + rank}.get(method) if found is None else found

        def start(rank: int) -> Handle:
            life = sum(h.rank == rank for h in self.handles)
            self.handles.append(Handle(answer, rank, life, self.calls))
            return self.handles[-1]

        monkeypatch.setattr(ray_learner.ray, "kill", lambda handle: setattr(handle, "killed", True))
        self.learner = RayLearner(start, num, lambda kind, **facts: self.events.append((kind, facts["worker"])))

    async def ready(self) -> RayLearner:
        self.learner.start()
        await self.learner.ready()
        return self.learner


async def never() -> None:
    await asyncio.Event().wait()


def test_every_rank_is_asked_and_answers_come_by_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    async def act(rank: int, life: int, method: str) -> Any:
        return rank if method == "step" else None

    async def main() -> None:
        ranks = Set(monkeypatch, 3, act)
        learner = await ranks.ready()
        assert await learner.call("step", 1) == [0, 1, 2]
        assert ranks.events == [("ready", "learner"), ("ready", "learner-1"), ("ready", "learner-2")]
        assert [c for c in ranks.calls if c[2] == "ready"] == [(rank, 0, "ready", "host:1") for rank in range(3)]
        await learner.close()
        assert all(handle.killed for handle in ranks.handles)

    asyncio.run(main())


def test_one_rank_needs_nobody_to_meet(monkeypatch: pytest.MonkeyPatch) -> None:
    async def act(rank: int, life: int, method: str) -> Any:
        assert method != "listen"

    ranks = Set(monkeypatch, 1, act)
    asyncio.run(ranks.ready())
    assert ranks.calls == [(0, 0, "ready", "")]


@pytest.mark.parametrize("others", ["hang", "complain first"])
def test_a_dead_rank_takes_its_set_with_it_and_is_told_until_the_state_is_back(
    monkeypatch: pytest.MonkeyPatch, others: str
) -> None:
    gone = asyncio.Event()

    async def act(rank: int, life: int, method: str) -> Any:
        if method != "step" or life:
            return
        if rank == 1:
            await gone.wait()
            raise RayActorError(error_msg="killed")
        if others == "hang":
            gone.set()
            await never()
        asyncio.get_running_loop().call_later(0, gone.set)
        raise RuntimeError("Connection closed by peer")

    async def main() -> None:
        ranks = Set(monkeypatch, 2, act)
        learner = await ranks.ready()
        found = await asyncio.gather(learner.call("step"), learner.call("step"), return_exceptions=True)
        assert [type(error) for error in found] == [DeadActor, DeadActor], found
        assert ranks.events[2:] == [("died", "learner-1"), ("ready", "learner"), ("ready", "learner-1")]
        assert [handle.killed for handle in ranks.handles] == [True, True, False, False]
        for ask in (lambda: learner.call("step"), learner.saved, lambda: learner.call("publish")):
            with pytest.raises(DeadActor):
                await ask()
        await learner.call("restore", None, 0)
        await learner.call("step")

    asyncio.run(main())


def test_what_all_ranks_say_is_raised_as_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    async def act(rank: int, life: int, method: str) -> Any:
        if method == "step":
            raise DivergedError("the loss is nan")
        if method == "saved" and rank == 1:
            raise OSError(28, "No space left on device")

    async def main() -> None:
        ranks = Set(monkeypatch, 2, act)
        learner = await ranks.ready()
        with pytest.raises(DivergedError, match="the loss is nan"):
            await learner.call("step")
        with pytest.raises(OSError, match="No space left"):
            await learner.saved()
        await learner.call("publish")
        assert not any(kind == "died" for kind, _ in ranks.events)

    asyncio.run(main())


def test_a_set_that_does_not_start_again_ends_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    async def act(rank: int, life: int, method: str) -> Any:
        if (method == "ready" and life and rank == 1) or method == "step":
            raise RayActorError(error_msg="killed")

    async def main() -> None:
        ranks = Set(monkeypatch, 2, act)
        learner = await ranks.ready()
        for _ in range(2):
            with pytest.raises(StarvedError, match="did not start 3 times in a row"):
                await learner.call("step")
        assert [kind for kind, _ in ranks.events].count("boot_failed") == 3

    asyncio.run(main())
