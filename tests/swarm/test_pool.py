"""The pool under random schedules: lag, order, and that nothing is lost or taken twice."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swarm.pool import Pool, capacity, window
from swarm.types import GroupFacts, Handle


@dataclass
class Trace:
    """What one simulated run did."""

    admitted: list[int] = field(default_factory=list)
    taken: list[list[int]] = field(default_factory=list)
    lags: list[int] = field(default_factory=list)
    waited_for_learner: bool = True
    left: list[int] = field(default_factory=list)


def handle(ticket: int, step: int = 0) -> Handle:
    return Handle(step, GroupFacts(str(ticket), ticket, f"p{ticket}", "", 1, 1, 1.0, step, step))


async def passes(num: int) -> None:
    for _ in range(num):
        await asyncio.sleep(0)


async def drive(  # noqa: C901 - three small tasks that share their variables
    pool: Pool, *, size: int, steps: int, seed: int, failures: float, release_early: bool = False, close: bool = False
) -> Trace:
    """Producers, a learner and a hand-out on one pool, as in `swarm.loop` but with nothing else; delays in passes."""
    rng, trace, now, synced = random.Random(seed), Trace(), 0, 0

    async def produce() -> None:
        while (ticket := await pool.admit()) is not None:
            trace.admitted.append(ticket)
            while True:
                begun = synced  # the oldest token has the weights that the actors hold now
                await passes(int(rng.lognormvariate(1.0, 1.2)))
                if rng.random() >= failures:
                    break
            await pool.put(ticket, handle(ticket, begun))

    async def hand_out(version: int, tickets: list[int]) -> None:
        nonlocal synced
        await passes(rng.randrange(6))
        synced = version
        if not release_early:
            await pool.release(tickets)

    async with asyncio.TaskGroup() as tasks:
        producers = [tasks.create_task(produce()) for _ in range(pool.capacity)]
        travelling: asyncio.Task[None] | None = None
        while now < steps:
            batch = await pool.take(size)
            assert len(batch) == size
            trace.taken.append(list(batch))
            trace.lags += [now - h.ref for h in batch.values()]
            if release_early:  # the planted fault: before the step, not after the sync
                await pool.release(batch)
            await passes(rng.randrange(8))
            now += 1
            if travelling:
                await travelling
            travelling = tasks.create_task(hand_out(now, list(batch)))
        if close:
            await pool.close()
            await asyncio.wait(producers)
            trace.left = [h.facts.ticket for h in pool.ready]
        for producer in producers:
            producer.cancel()
    return trace


shapes = st.tuples(st.integers(0, 4), st.integers(1, 9))


@given(shape=shapes, seed=st.integers(0, 10**6), failures=st.sampled_from([0.0, 0.2, 0.6]))
def test_no_group_is_trained_on_beyond_max_lag_and_none_is_lost_or_taken_twice(
    shape: tuple[int, int], seed: int, failures: float
) -> None:
    max_lag, size = shape
    pool = Pool(capacity(max_lag, size), window(max_lag, size))
    trace = asyncio.run(drive(pool, size=size, steps=12, seed=seed, failures=failures, close=True))
    assert max(trace.lags) <= max_lag
    assert min(trace.lags) >= 0
    taken = [ticket for batch in trace.taken for ticket in batch]
    assert len(taken) == 12 * size
    assert trace.admitted == list(range(len(trace.admitted)))
    assert Counter(taken + trace.left) == Counter(trace.admitted)


@given(size=st.integers(1, 12), width=st.integers(1, 6), extra=st.integers(0, 12), seed=st.integers(0, 10**6))
def test_the_formula_of_the_docstring_bounds_lag_for_any_capacity_and_window(
    size: int, width: int, extra: int, seed: int
) -> None:
    pool = Pool(size + width - 1 + extra, width)
    trace = asyncio.run(drive(pool, size=size, steps=10, seed=seed, failures=0.3))
    assert max(trace.lags) <= (pool.capacity + pool.window - 2) // size


@settings(max_examples=20, deadline=None)
@given(shape=shapes, seed=st.integers(0, 10**6))
def test_a_group_is_passed_by_fewer_than_window_later_ones(shape: tuple[int, int], seed: int) -> None:
    max_lag, size = shape
    pool = Pool(capacity(max_lag, size), window(max_lag, size))
    taken = [t for b in asyncio.run(drive(pool, size=size, steps=12, seed=seed, failures=0.3)).taken for t in b]
    for place, ticket in enumerate(taken):
        assert sum(other > ticket for other in taken[:place]) <= pool.window - 1


@given(max_lag=st.integers(0, 50), size=st.integers(1, 200))
def test_capacity_and_window_give_exactly_max_lag_and_room_for_a_batch(max_lag: int, size: int) -> None:
    room, width = capacity(max_lag, size), window(max_lag, size)
    assert (room + width - 2) // size == max_lag
    assert room >= size + width - 1 or max_lag == 0
    assert room >= size * min(2, max_lag + 1)  # from a lag of 1 on, one batch is made while another is trained on


@pytest.mark.parametrize("max_lag", [0, 1, 3])
def test_releasing_before_the_step_breaks_the_bound_so_the_check_can_fail(max_lag: int) -> None:
    worst = 0
    for seed in range(5):
        pool = Pool(capacity(max_lag, 4), window(max_lag, 4))
        trace = asyncio.run(drive(pool, size=4, steps=15, seed=seed, failures=0.2, release_early=True))
        worst = max(worst, *trace.lags)
    assert worst > max_lag


@settings(max_examples=10, deadline=None)
@given(size=st.integers(1, 8), seed=st.integers(0, 10**6))
def test_max_lag_0_is_strictly_synchronous(size: int, seed: int) -> None:
    pool = Pool(capacity(0, size), window(0, size))
    trace = asyncio.run(drive(pool, size=size, steps=8, seed=seed, failures=0.3))
    assert set(trace.lags) == {0}
    assert trace.taken == [list(range(i * size, (i + 1) * size)) for i in range(8)]


def test_a_group_that_never_finishes_holds_up_all_but_the_window() -> None:
    async def scenario() -> list[int]:
        pool = Pool(12, 3)
        tickets = [await pool.admit() for _ in range(12)]
        for ticket in tickets[1:]:
            await pool.put(ticket, handle(ticket))
        passed = list(await pool.take(2))
        stuck = asyncio.ensure_future(pool.take(1))
        await passes(5)
        assert not stuck.done()
        await pool.put(0, handle(0))
        return passed + list(await stuck)

    assert asyncio.run(scenario()) == [1, 2, 0]


def test_close_lets_the_learner_go_and_loses_nothing_that_is_put_later() -> None:
    async def scenario() -> None:
        pool = Pool(6)
        for _ in range(4):
            await pool.admit()
        await pool.put(2, handle(2))
        learner = asyncio.ensure_future(pool.take(2))
        producer = asyncio.gather(*(pool.admit() for _ in range(3)))
        await passes(5)
        assert pool.outstanding == 6
        await pool.close()
        assert await learner == {}
        assert list(await producer) == [4, 5, None]
        await pool.put(0, handle(0))
        assert [h.facts.ticket for h in pool.ready] == [0, 2]
        assert await pool.admit() is None
        assert await pool.take(1) == {}

    asyncio.run(scenario())


@given(num=st.integers(2, 6), cancel_after=st.integers(0, 8))
def test_take_is_atomic_so_giving_up_waiting_loses_none(num: int, cancel_after: int) -> None:
    async def scenario() -> None:
        pool = Pool(num)
        for _ in range(num):
            await pool.admit()
        waiting = asyncio.ensure_future(pool.take(num))
        for ticket in range(num):
            await asyncio.sleep(0)
            if ticket == cancel_after:
                waiting.cancel()
            await pool.put(ticket, handle(ticket))
        waiting.cancel()
        result = await asyncio.gather(waiting, return_exceptions=True)
        got = list(result[0]) if isinstance(result[0], dict) else list(await pool.take(num))
        assert got == list(range(num))
        assert pool.ready == []
        assert pool.outstanding == num

    asyncio.run(scenario())


def test_admission_waits_for_a_release_and_not_for_a_take() -> None:
    async def scenario() -> None:
        pool = Pool(2)
        for _ in range(2):
            ticket = await pool.admit()
            await pool.put(ticket, handle(ticket))
        batch = await pool.take(2)
        third = asyncio.ensure_future(pool.admit())
        await passes(5)
        assert not third.done()
        await pool.release(batch)
        assert await third == 2

    asyncio.run(scenario())


def test_a_ticket_takes_one_group_and_only_while_it_waits() -> None:
    async def scenario() -> None:
        pool = Pool(2)
        await pool.admit()
        await pool.put(0, handle(0))
        with pytest.raises(ValueError, match="ticket 0"):
            await pool.put(0, handle(0))
        with pytest.raises(ValueError, match="ticket 1"):
            await pool.put(1, handle(1))

    asyncio.run(scenario())


def test_reinstated_tickets_keep_their_order_and_are_charged() -> None:
    async def scenario() -> None:
        pool = Pool(4, 1)
        pool.reinstate([7, 3], {5: handle(5)}, next_ticket=9)
        assert [await pool.admit(), await pool.admit(), await pool.admit()] == [3, 7, 9]
        assert pool.outstanding == 4
        for ticket in (9, 7, 3):
            await pool.put(ticket, handle(ticket))
        assert list(await pool.take(4)) == [3, 5, 7, 9]

    asyncio.run(scenario())


@pytest.mark.parametrize(("room", "width"), [(0, 1), (1, 0)])
def test_a_pool_without_room_is_refused(room: int, width: int) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        Pool(room, width)
