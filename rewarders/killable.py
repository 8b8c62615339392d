"""A child process that can always be stopped: started ahead, fed jobs, killed at the time limit and replaced.

    event loop -- ask / ask_each --> one thread per Killable -- JSON lines --> child (rewarders.child) -> handler

Graders run candidate text through parsers that hang, call C code that ignores signals, or exit. So they live in a
process of their own: a fresh interpreter (never a fork of one with threads), in its own session so that its children
die with it. Its answers come back as JSON: the child handles hostile text, so nothing it sends is unpickled here.
The time limit counts from the moment a ready child is given a job; starting up is not charged to anyone.

All blocking work of a Killable is on its own one thread. The child is also started there, because Linux sends the
parent-death signal when the *thread* that started the child ends.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rewarders.process import ChildDied, ChildError, ChildFailure, ChildOverspent, ChildTimeout, Process

BARE = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "TZ", "LD_LIBRARY_PATH", "PYTHONHASHSEED")
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")


@dataclass(frozen=True, slots=True)
class Reply:
    """One job's outcome: a value, or the failure. `seconds` is the time since the child was given the job."""

    value: Any = None
    failure: ChildFailure | None = None
    seconds: float = 0.0


class Killable:
    """One child at a time that runs `handler` (`module:class`, made once from JSON-able `options`).

    `bare` hides the environment (keys, tokens) from the child; `memory_mb` limits its address space and `cpu_s` the
    processor time of one job (0: no limit); `first_on_path` goes before the parent's import path. The constructor
    returns at once, the child starts behind it.
    """

    def __init__(
        self,
        handler: str,
        options: Mapping[str, Any] | None = None,
        *,
        bare: bool = True,
        memory_mb: int = 0,
        cpu_s: float = 0.0,
        first_on_path: Sequence[str] = (),
        start_timeout_s: float = 120.0,
    ) -> None:
        path = [*first_on_path, *(p or str(Path.cwd()) for p in sys.path), str(Path(__file__).resolve().parent.parent)]
        self._setup: dict[str, Any] = {
            "handler": handler,
            "options": dict(options or {}),
            "path": list(dict.fromkeys(path)),
            "memory_bytes": memory_mb * 2**20,
            "cpu_s": cpu_s,
        }
        # A fixed hash seed, or the parent's: procedural data that iterates over sets must come out the same again.
        self._env = {"PYTHONHASHSEED": "0"} | {k: v for k, v in os.environ.items() if not bare or k in BARE}
        if bare:
            self._env |= ONE_THREAD
        self._start_timeout_s = start_timeout_s
        self._child: Process | None = None
        self._closed = False
        self._cpu_s = 0.0
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="killable")
        self._thread.submit(self._start)

    @property
    def pid(self) -> int | None:
        """Of the present child; None while there is none."""
        child = self._child
        return child.process.pid if child else None

    async def ask(self, payload: Any, timeout_s: float) -> Any:
        """The handler's value for one job. Raises ChildTimeout, ChildOverspent, ChildDied or ChildError."""
        [reply] = await self.ask_each([payload], timeout_s)
        if reply.failure:
            raise reply.failure
        return reply.value

    async def ask_each(self, payloads: Sequence[Any], timeout_s: float, prepare: Any = None) -> list[Reply]:
        """One reply per job, in order; a job that fails does not take the others with it.

        All jobs together get `timeout_s`. Half of it is shared out equally, so that every job has `timeout_s / 2n`
        for certain; a job may also use up the other half and what its predecessors left. `prepare` is a job that each
        child gets before the first of these, so that a replacement is as warm; it has a limit of its own.
        """
        stop = threading.Event()
        future = self._thread.submit(self._run, list(payloads), timeout_s, prepare, stop)
        try:
            return await asyncio.wrap_future(future)
        except asyncio.CancelledError:
            stop.set()
            child = self._child
            if future.running() and child:
                child.signal()
            raise

    def cpu_s(self) -> float:
        """CPU seconds of all children so far."""
        child = self._child
        return self._cpu_s + (child.cpu_s() if child else 0.0)

    def close(self) -> None:
        """Kill the child and wait for it. A job that is under way fails. May be called twice."""
        if self._closed:
            return
        self._closed = True
        child = self._child
        if child:
            child.signal()
        self._thread.submit(self._discard)
        self._thread.shutdown(wait=True)

    # Below runs on the thread.

    def _run(self, payloads: list[Any], timeout_s: float, prepare: Any, stop: threading.Event) -> list[Reply]:
        share = timeout_s / (2 * max(len(payloads), 1))
        left = timeout_s
        replies = []
        prepared: Process | None = None
        for i, payload in enumerate(payloads):
            if stop.is_set() or self._closed:
                replies.append(Reply(failure=ChildDied("the child was closed")))
                continue
            if prepare is not None and (prepared is None or self._child is not prepared):
                warm = self._one(prepare, timeout_s)
                if warm.failure:
                    replies.append(warm)
                    continue
                prepared = self._child
            reply = self._one(payload, left - share * (len(payloads) - 1 - i))
            left -= reply.seconds
            replies.append(reply)
        return replies

    def _one(self, payload: Any, limit_s: float) -> Reply:
        began = time.monotonic()
        try:
            data = json.dumps(payload).encode() + b"\n"
            child = self._ready()
            began = time.monotonic()
            answer = child.converse(data, limit_s)
        except (TypeError, ValueError) as error:
            return Reply(failure=ChildError(f"cannot be passed to another process: {error}"))
        except (ChildTimeout, ChildOverspent, ChildDied) as failure:
            seconds = time.monotonic() - began
            self._discard()
            self._start()
            return Reply(failure=failure, seconds=seconds)
        except ChildFailure as failure:
            return Reply(failure=failure)
        seconds = time.monotonic() - began
        if "value" in answer:
            return Reply(answer["value"], seconds=seconds)
        cause = str(answer.get("error", "the child broke the protocol"))
        return Reply(failure=ChildError(child.with_tail(cause)), seconds=seconds)

    def _ready(self) -> Process:
        """A child that said ready; started if there is none."""
        if self._child is None:
            self._start()
        child = self._child
        if self._closed:
            raise ChildDied("the child was closed")
        if child is None:
            raise ChildError("the child process could not be started")
        if not child.ready:
            try:
                answer = child.converse(b"", self._start_timeout_s)
            except ChildFailure as failure:
                self._discard()
                raise ChildError(f"the child process did not start: {failure}") from failure
            if "ready" not in answer:
                cause = child.with_tail(str(answer.get("failed", "it broke the protocol")))
                self._discard()
                raise ChildError(cause)
            child.ready = True
        return child

    def _start(self) -> None:
        if not self._closed:
            try:
                self._child = Process(self._setup, self._env)
            except OSError:  # no memory or no process left for now: the next job tries again and says so
                self._child = None

    def _discard(self) -> None:
        child, self._child = self._child, None
        if child:
            self._cpu_s += child.cpu_s()
            child.end()
