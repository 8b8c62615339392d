"""Judges that this node serves on Ray: an actor for each, and the chat interface over its handle.

    reward worker --ChatOverRay.ask--> JudgeActor (its own process, restarted by Ray) --> ServedJudge --> engine

A judge that dies fails the requests that it had with ConnectionError; they become verdicts `error`, which are asked
again. Ray starts another process in its place, and what is asked meanwhile waits for it, up to `timeout_s`. The crew
watches each judge, so that a death is an event of the run, and restarts are not for ever.

`concurrent` requests of each reward worker are under way; more wait in the worker, and there the clock does not run.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import ActorUnavailableError, RayActorError, RayTaskError

from cluster import environment
from cluster.ray_calls import Notice, brief, own
from cluster.served_judge import ServedJudge, served_name
from rewarders.chat import Reply
from swarm.config import JudgeSection, RunConfig

RESTARTS = 100
"""Deaths of one judge that a run bears."""
LOOK_S = 0.5
"""Between two looks at whether a judge is back."""


class JudgeActor:
    """What runs in the judge's process."""

    def __init__(self, section: JudgeSection, folder: Path, dtype: str) -> None:
        self._judge = ServedJudge(section, folder, dtype)

    async def ready(self) -> int:
        """The process id, once the engine has booted."""
        return os.getpid()

    async def ask(self, messages: list[dict[str, str]], max_tokens: int, choices: list[str]) -> Reply:
        """As `ChatModel.ask`."""
        return await self._judge.ask(messages, max_tokens=max_tokens, choices=choices)

    async def last(self) -> None:
        """Does not return: it fails when this process dies."""
        await asyncio.Event().wait()


class ChatOverRay:
    """`rewarders.chat.ChatModel` over a judge's handle; goes to the reward workers by pickling."""

    def __init__(self, name: str, process: Any, section: JudgeSection, workers: int) -> None:
        """`workers` share the judge, which serves `concurrent` requests at a time: one may wait for theirs."""
        self.name = name
        self._process, self._limit_s, self._concurrent = process, workers * section.timeout_s, section.concurrent
        self._slots: asyncio.Semaphore | None = None  # made where it is used: this goes through pickling

    async def ask(
        self, messages: Sequence[Mapping[str, str]], *, max_tokens: int, choices: Sequence[str] = ()
    ) -> Reply:
        """See `ChatModel`; waits for a judge that is being restarted."""
        self._slots = self._slots or asyncio.Semaphore(self._concurrent)
        async with self._slots, asyncio.timeout(self._limit_s):
            await _answers(self._process)
            try:
                asked = self._process.ask.remote([dict(m) for m in messages], max_tokens, list(choices))
                reply: Reply = await own(asked)
            except RayActorError as error:
                raise ConnectionError(f"judge {self.name} died: {brief(error)}") from None
            except RayTaskError as error:  # which is a ValueError too where that is its cause, but says a page
                raise error.cause from None
            return reply

    def close(self) -> None:
        """Nothing: the judge is the crew's."""


class RayJudges:
    """The served judges of a recipe: started, watched, ended."""

    def __init__(self, config: RunConfig, folders: Mapping[str, Path], notice: Notice) -> None:
        """`folders` are the models of the judges by name."""
        self._notice = notice
        self._watches: list[asyncio.Task[None]] = []
        self._processes: dict[str, Any] = {}
        self.chats: dict[str, ChatOverRay] = {}
        for section in config.rewarders.served:
            folder = folders[section.name]
            kind = ray.remote(
                num_cpus=section.threads,
                num_gpus=section.gpus,
                runtime_env={"env_vars": environment.of_worker(section.threads, section.gpus)},
                max_concurrency=1000,
                max_restarts=RESTARTS,
            )(JudgeActor)
            process = self._processes[section.name] = kind.remote(section, folder, config.model.dtype)
            name = served_name(section, folder)
            self.chats[section.name] = ChatOverRay(name, process, section, config.rewarders.num)

    async def ready(self) -> None:
        """Wait until every judge serves."""
        for name, process in self._processes.items():
            self._watches.append(asyncio.create_task(self._watch(name, process, await self._booted(name, process))))

    async def close(self) -> None:
        """End them all."""
        for watch in self._watches:
            watch.cancel()
        for process in self._processes.values():
            ray.kill(process)

    async def _booted(self, name: str, process: Any) -> int:
        pid: int = await _answers(process)
        self._notice("ready", worker=f"judge-{name}", pid=pid)
        return pid

    async def _watch(self, name: str, process: Any, pid: int) -> None:
        while True:
            try:
                await process.last.remote()
            except RayActorError as error:
                self._notice("died", worker=f"judge-{name}", pid=pid, cause=brief(error))
            try:
                pid = await self._booted(name, process)
            except RayActorError as error:  # Ray has given it up; whoever asks it is told
                self._notice("boot_failed", worker=f"judge-{name}", cause=brief(error))
                return


async def _answers(process: Any) -> int:
    """The judge's process id, once it answers. Raises RayActorError where Ray has given it up."""
    while True:
        try:
            pid: int = await own(process.ready.remote())
            return pid
        except ActorUnavailableError:
            await asyncio.sleep(LOOK_S)
