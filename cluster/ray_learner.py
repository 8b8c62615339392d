"""The learner on Ray: one process per rank, driven as one, and replaced as one.

Every call goes to all ranks. A rank that dies leaves the others in a collective that never ends, so the whole set is
killed and started again, and the caller gets DeadActor. Until the new set is restored every call gets it too: whoever
asks next (a step, or a checkpoint that was being written) must not meet a learner that has forgotten its steps.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from typing import Any, TypeVar

import ray
from ray.exceptions import RayActorError, RayError

from cluster.ray_calls import BOOT_TRIES, CLOSE_S, Notice, brief, host_of, own
from cluster.workers import LEARNER, LearnerWorker
from swarm.config import RunConfig
from swarm.errors import DeadActor, StarvedError, SwarmError
from swarm.roles import Usage

GRACE_S = 10.0
"""How long the other ranks are waited for once one has failed: its failure is often that another one died, which Ray
tells a moment later."""

T = TypeVar("T")


class RankActor:
    """One rank's process. The learner has a thread of its own, in which its calls follow each other; what must not
    wait for a step is answered beside it."""

    def __init__(self, config: RunConfig, model: str, rank: int) -> None:
        self._config, self._model, self._rank = config, model, rank
        self._thread = ThreadPoolExecutor(1, "learner")
        self._store: Any = None
        self._worker: LearnerWorker | None = None
        self._since: float | None = None
        """When the call that runs began."""

    async def listen(self) -> str:
        """Open the store in which the ranks meet; its HOST:PORT, on the address by which Ray knows this host."""

        def listen() -> str:
            from learners.ranks import listen

            self._store, address = listen(ray.util.get_node_ip_address())
            return address

        return await self._in_turn(listen)

    async def ready(self, address: str) -> int:
        """Make the learner, with the store at `address` (empty with one rank). The process id."""

        def make() -> None:
            if address and self._store is None:
                from learners.ranks import meet

                self._store = meet(address)
            self._worker = LearnerWorker(self._config, self._model, self._rank, self._store)

        await self._in_turn(make)
        return os.getpid()

    async def call(self, method: str, *args: Any) -> Any:
        """What the learner's `method` answers, after the calls before it."""
        return await self._in_turn(getattr(self._learner, method), *args)

    async def saved(self) -> None:
        await asyncio.to_thread(self._learner.saved)

    async def usage(self) -> Usage:
        """As of now, also in the middle of a call."""
        usage, since = self._learner.usage(), self._since
        spent = time.monotonic() - since if since is not None else 0.0
        return replace(usage, busy_s=usage.busy_s + spent, idle_s=usage.idle_s - spent)

    async def close(self) -> None:
        if self._worker is not None:
            await self._in_turn(self._worker.close)

    async def _in_turn(self, function: Callable[..., T], *args: Any) -> T:
        def run() -> T:
            self._since = time.monotonic()
            try:
                return function(*args)
            finally:
                self._since = None

        return await asyncio.get_running_loop().run_in_executor(self._thread, run)

    @property
    def _learner(self) -> LearnerWorker:
        assert self._worker is not None, "called before it was ready"
        return self._worker


class RayLearner:
    """All ranks of the learner."""

    def __init__(self, start: Callable[[int], Any], ranks: int, notice: Notice) -> None:
        """`start(rank)` starts a process and returns its Ray handle."""
        self._start, self._num, self._notice = start, ranks, notice
        self._processes: list[Any] = []
        self._pids: list[int] = []
        self.host = ""
        """Ray's id of the host of rank 0, which publishes."""
        self._turn = asyncio.Lock()
        self._death = ""
        """Why the present processes have to be restored before they serve."""
        self._fatal: StarvedError | None = None

    def start(self) -> None:
        """Begin to start the processes."""
        self._processes = [self._start(rank) for rank in range(self._num)]

    async def ready(self) -> None:
        """Until they have met and have made the learner."""
        ranks = self._processes
        address = await own(ranks[0].listen.remote()) if self._num > 1 else ""
        self._pids = await _all_of([rank.ready.remote(address) for rank in ranks])
        self.host = await own(ranks[0].__ray_call__.remote(host_of))
        for rank, pid in enumerate(self._pids):
            self._notice("ready", worker=name_of(rank), pid=pid)

    async def call(self, method: str, *args: Any) -> list[Any]:
        """What the learner's method answers, by rank. Raises DeadActor where a rank died: all are replaced then, and
        `restore` is the only call that they take."""
        return await self._ask(method == "restore", lambda rank: rank.call.remote(method, *args))

    async def saved(self) -> None:
        """Until all ranks have written what `save` took; does not wait for other calls."""
        await self._ask(False, lambda rank: rank.saved.remote())

    async def usage(self) -> Mapping[str, Usage]:
        """By name of the rank; none while it is being replaced."""
        found = {}
        for rank, process in enumerate(self._processes):
            with suppress(RayError):  # dead or dying: the next call of work will find out
                if not self._turn.locked():
                    found[name_of(rank)] = await process.usage.remote()
        return found

    async def close(self) -> None:
        """Let them remove what they published, and end them."""
        closing = asyncio.gather(*(p.close.remote() for p in self._processes), return_exceptions=True)
        with suppress(TimeoutError):  # they are about to be killed
            await asyncio.wait_for(closing, CLOSE_S)
        self._kill()

    async def _ask(self, restores: bool, ask: Callable[[Any], Awaitable[Any]]) -> list[Any]:
        async with self._turn:  # not while they are being replaced
            if self._fatal:
                raise self._fatal
            if self._death and not restores:
                raise DeadActor(self._death)
            ranks = self._processes
        try:
            answers = await _all_of([ask(rank) for rank in ranks])
        except _RankDied as died:
            await self._replace(ranks, died)
            raise DeadActor(died.cause) from None
        if restores:
            self._death = ""
        return answers

    async def _replace(self, ranks: list[Any], died: _RankDied) -> None:
        """Start new processes for these, once, however many calls noticed the death."""
        async with self._turn:
            if self._processes is not ranks:
                return
            cause = self._death = died.cause
            self._notice("died", worker=name_of(died.rank), pid=self._pids[died.rank], cause=cause)
            for _ in range(BOOT_TRIES):
                self._kill()
                self.start()
                try:
                    await self.ready()
                except (RayError, SwarmError, OSError) as error:
                    cause = str(error)
                    self._notice("boot_failed", worker=LEARNER, cause=cause)
                else:
                    return
            self._fatal = StarvedError(f"{LEARNER} did not start {BOOT_TRIES} times in a row; the last time: {cause}")
            raise self._fatal

    def _kill(self) -> None:
        for process in self._processes:
            ray.kill(process)


class _RankDied(DeadActor):
    """Which rank, and why."""

    def __init__(self, rank: int, cause: str) -> None:
        super().__init__(cause)
        self.rank, self.cause = rank, cause


async def _all_of(refs: list[Awaitable[Any]]) -> list[Any]:
    """The answers of all ranks. Raises _RankDied where one died, else the first error of any."""
    tasks = [asyncio.ensure_future(own(ref)) for ref in refs]
    try:
        _, pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
        if pending and not any(isinstance(e, RayActorError) for e in _errors(tasks).values()):
            await asyncio.wait(pending, timeout=GRACE_S)
        errors = _errors(tasks)
    finally:
        for task in tasks:
            task.cancel()
    for rank, error in errors.items():
        if isinstance(error, RayActorError):
            raise _RankDied(rank, brief(error))
    for error in errors.values():
        raise error
    return [task.result() for task in tasks]


def _errors(tasks: list[asyncio.Task[Any]]) -> dict[int, BaseException]:
    return {i: error for i, task in enumerate(tasks) if task.done() and (error := task.exception())}


def name_of(rank: int) -> str:
    """Of a rank in events and usage: `learner`, `learner-1`, ..."""
    return f"{LEARNER}-{rank}" if rank else LEARNER
