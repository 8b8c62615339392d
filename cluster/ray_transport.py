"""Published weights from host to host through Ray's object store, as deltas where that is possible.

    learner's host: courier.read  --bytes-->  object store  --once per host-->  courier.patch or .hold --> actors map it

Couriers are processes of their own, so the learner goes on stepping while its weights travel. They are started when the
first actor turns out to be on another host; where all share the learner's there are none, and nothing travels.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from cluster.courier import Courier
from cluster.ray_calls import CLOSE_S, Notice, brief, own
from swarm.errors import ActorError, SwarmError
from swarm.types import Weights

TRIES = 2
"""Attempts to bring a set to a host before its actors are given up."""


@dataclass(slots=True)
class _Host:
    """What one host has: its courier, and the newest set that it holds."""

    process: Any
    digest: str = ""
    path: str = ""
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


class Transport:
    """Brings sets of weights to the hosts of actors."""

    def __init__(self, notice: Notice) -> None:
        self._notice = notice
        self._hosts: dict[str, _Host] = {}

    async def bring(self, weights: Weights, source: str, host: str) -> str:
        """The path of `weights` on `host`, where they are afterwards; `source` is the host of their learner.

        A courier that is dead is replaced, and the set goes whole. Raises ActorError where it did not arrive.
        """
        if host == source:
            return weights.path
        error: RayError | None = None
        for _ in range(TRIES):
            there = self._host(host)
            async with there.lock:  # one set at a time, once for all actors of that host
                if there.digest == weights.digest:
                    return there.path
                try:
                    there.path = await self._carry(weights, self._host(source), there)
                    there.digest = weights.digest
                    return there.path
                except RayError as lost:
                    error = lost
            await self._forget_dead(source, host)
        assert error is not None
        raise ActorError(f"weights of step {weights.version.step} did not arrive: {brief(error)}")

    async def _carry(self, weights: Weights, here: _Host, there: _Host) -> str:
        began, step, delta = time.monotonic(), weights.version.step, weights.delta
        if delta is not None and delta.base == there.digest and delta.bytes < weights.bytes:
            try:
                content = here.process.read.remote(delta.path)
                path: str = await own(there.process.patch.remote(weights, content))
                self._notice("carried", step=step, how="delta", bytes=delta.bytes, seconds=time.monotonic() - began)
                return path
            except ActorError as error:
                self._notice("delta_refused", step=step, cause=str(error))
        path = await own(there.process.hold.remote(weights, here.process.read.remote(weights.path)))
        self._notice("carried", step=step, how="full", bytes=weights.bytes, seconds=time.monotonic() - began)
        return path

    def _host(self, host: str) -> _Host:
        if host not in self._hosts:
            place = NodeAffinitySchedulingStrategy(host, soft=False)
            remote = ray.remote(num_cpus=0, scheduling_strategy=place)(Courier)
            self._hosts[host] = _Host(remote.remote())
        return self._hosts[host]

    async def _forget_dead(self, *hosts: str) -> None:
        for host in hosts:
            there = self._hosts.get(host)
            try:
                if there is not None:
                    await there.process.__ray_ready__.remote()
            except RayError as error:
                if self._hosts.get(host) is there:
                    del self._hosts[host]
                    self._notice("courier_died", host=host[:8], cause=brief(error))

    async def close(self) -> None:
        for there in self._hosts.values():
            with suppress(RayError, SwarmError, TimeoutError):  # it is about to be killed
                await asyncio.wait_for(own(there.process.close.remote()), CLOSE_S)
            ray.kill(there.process)
