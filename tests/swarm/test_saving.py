"""Checkpoints in the background: what a cancellation leaves."""

from __future__ import annotations

import asyncio
import threading

import pytest

from swarm.saving import _to_its_end


def test_a_thread_that_writes_has_ended_before_a_cancellation_goes_on() -> None:
    begun, may_end, done = threading.Event(), threading.Event(), threading.Event()

    def write() -> None:
        begun.set()
        may_end.wait()
        done.set()

    async def go() -> bool:
        task = asyncio.ensure_future(_to_its_end(asyncio.to_thread(write)))
        await asyncio.to_thread(begun.wait)
        task.cancel()
        asyncio.get_running_loop().call_later(0.01, may_end.set)
        with pytest.raises(asyncio.CancelledError):
            await task
        return done.is_set()

    assert asyncio.run(go()), "its folder would have been removed under its hands"
