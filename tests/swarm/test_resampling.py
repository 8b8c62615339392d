"""Resampling: what is flat, the budget, the order, and the loop with it."""

from __future__ import annotations

import asyncio
import contextlib
import math
import random
import sqlite3
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swarm import loop, metrics, recovery, schema
from swarm.loop import Node
from swarm.pool import Pool
from swarm.resampling import Resampling
from swarm.scores import is_flat
from swarm.types import Draw, GroupFacts, Prompt
from tests.fake_crew import FakeCrew, FakeStream, Killed, Rewarding, failing_at_random, node_for, shut


def facts(ticket: int, rewards: Sequence[float | None]) -> GroupFacts:
    correct = tuple(None if reward is None else reward >= 1 for reward in rewards)
    return GroupFacts(f"{ticket}.0", ticket, "p", "fake", len(rewards), 8, 4.0, 0, 0, tuple(rewards), correct)


def coins(rate: float, seed: int = 0) -> Rewarding:
    """Rewards 0 and 1, the latter at this pass rate, by prompt and ticket."""

    def rewarding(prompt: Prompt, ticket: int, num: int) -> list[float]:
        rng = random.Random(f"{seed}/{prompt.id}/{ticket}")
        return [float(rng.random() < rate) for _ in range(num)]

    return rewarding


@pytest.mark.parametrize(
    ("rewards", "flat"),
    [
        ([1, 1, 1], True),
        ([0, 1], False),
        ([0, None, 0], True),
        ([None, 1, 0.5], False),
        ([1, None], True),
        ([None, None], True),
        ([0.3, 0.1 + 0.2], False),
    ],
)
def test_a_group_is_flat_where_known_rewards_are_all_equal_or_too_few(rewards: list[float | None], flat: bool) -> None:
    assert is_flat(rewards) is flat


@pytest.mark.parametrize(("rate", "share"), [(0.02, 0.724), (0.1, 0.185), (0.5, 0.00003)])
def test_sixteen_rollouts_are_flat_as_often_as_the_formula_says(rate: float, share: float) -> None:
    assert rate**16 + (1 - rate) ** 16 == pytest.approx(share, abs=5e-4 if rate < 0.5 else 1e-6)
    drawn = np.random.default_rng(0).random((20_000, 16)) < rate
    assert np.mean([is_flat(group) for group in drawn.tolist()]) == pytest.approx(share, abs=0.01)


@given(
    per_group=st.floats(0, 4),
    capacity=st.integers(1, 8),
    flat=st.lists(st.integers(0, 50), max_size=60),
)
def test_no_more_groups_are_set_aside_than_the_budget_has(per_group: float, capacity: int, flat: list[int]) -> None:
    async def go() -> None:
        resampling, aside = Resampling(Pool(capacity), per_group), 0
        for ticket, num in enumerate(flat):
            in_a_row = 0
            with resampling.making(ticket, first=True):
                while await resampling.sets_aside(
                    facts(ticket, [1.0, 1.0] if in_a_row < num else [0.0, 1.0]), in_a_row
                ):
                    assert in_a_row < num
                    aside += 1
                    in_a_row += 1
            assert in_a_row <= max(8, math.ceil(8 * per_group))
            assert aside <= per_group * (ticket + 1) + 1e-6  # what earlier tickets left may be used by one

    asyncio.run(go())


def test_a_tenth_per_group_is_one_in_ten() -> None:
    async def go() -> list[int]:
        resampling, aside = Resampling(Pool(8), 0.1), []
        for ticket in range(40):
            with resampling.making(ticket, first=True):
                if await resampling.sets_aside(facts(ticket, [0.0, 0.0]), 0):
                    aside.append(ticket)
        return aside

    assert asyncio.run(go()) == [9, 19, 29, 39]


def test_a_resumed_budget_is_what_is_left_of_it() -> None:
    async def left(tickets: int, skipped: int) -> int:
        resampling, num = Resampling(Pool(4), 2.0), 0
        resampling.resume(tickets, skipped)
        with resampling.making(0, first=False):
            while await resampling.sets_aside(facts(0, [0.0, 0.0]), 0):
                num += 1
        return num

    assert [asyncio.run(left(10, skipped)) for skipped in (0, 15, 20, 30)] == [20, 5, 0, 0]


@pytest.mark.parametrize(("per_group", "most"), [(0.5, 8), (2.0, 16)])
def test_one_ticket_does_not_get_all_that_was_saved_up(tmp_path: Path, per_group: float, most: int) -> None:
    """All tickets but one need nothing."""

    def rewarding(prompt: Prompt, ticket: int, num: int) -> list[float]:
        return [float(i % 2) if ticket != 60 else 0.0 for i in range(num)]

    crew = FakeCrew(rewarding=rewarding, groups_per_step=4)
    with process(tmp_path, crew, steps=20, resample=per_group) as node:
        asyncio.run(go(node))
        check_accounts(node, crew, per_group)
        tries = Counter(ticket for (ticket,) in rows(node, "select ticket from asks where state = 'skipped'"))
    assert max(tries.values()) == most


@settings(max_examples=30, deadline=None)
@given(st.permutations(range(5)), st.lists(st.integers(0, 4), max_size=3, unique=True))
def test_in_rounds_flat_groups_are_set_aside_in_ticket_order_whoever_finishes_first(
    order: list[int], good: list[int]
) -> None:
    aside: list[int] = []

    async def make(resampling: Resampling, pool: Pool) -> None:
        ticket = await pool.admit()
        assert ticket is not None
        with resampling.making(ticket, first=True):
            for _ in range(order.index(ticket) + 1):
                await asyncio.sleep(0)
            if await resampling.sets_aside(facts(ticket, [0.0, 1.0] if ticket in good else [0.0, 0.0]), 0):
                aside.append(ticket)

    async def go() -> None:
        pool = Pool(5)
        resampling = Resampling(pool, 1.0, ordered=True)
        await asyncio.gather(*(make(resampling, pool) for _ in range(5)))

    asyncio.run(go())
    assert aside == sorted(set(range(5)) - set(good))


@contextlib.contextmanager
def process(root: Path, crew: FakeCrew, **options: Any) -> Any:
    node = node_for(root, crew, **options)
    try:
        yield node
    finally:
        shut(node)


async def go(node: Node, resumed: bool = False) -> None:
    if resumed:
        await recovery.resume(node)
    await loop.run(node)


def rows(node: Node, what: str) -> list[Any]:
    with contextlib.closing(sqlite3.connect(node.journal.folder.ledger)) as db:
        return db.execute(what).fetchall()


def unfiltered(lines: list[dict[str, Any]], what: str = "pass_rate") -> float:
    """Mean over the steps before which any group was scored."""
    return float(np.mean([line[key] for line in lines if (key := f"actors/{what}_unfiltered") in line]))


def check_accounts(node: Node, crew: FakeCrew, resample: float) -> None:
    """Every prompt has one fate, each fate was told to the stream once, and the counts add up."""
    counts = node.ledger.counts()
    assert counts["duplicated"] == counts["lost"] == 0
    assert counts["trained"] == len(crew.weights) * crew.groups_per_step
    assert counts["skipped"] <= resample * counts["asked"]
    states = Counter(state for (state,) in rows(node, "select state from asks"))
    assert states.total() == sum(states[s] for s in ("trained", "skipped", "failed", "dropped", "pooled", "asked"))
    assert not rows(
        node, "select prompt_id from asks where state in ('trained', 'skipped') group by 1 having count(*) > 1"
    )
    stream = node.stream
    assert isinstance(stream, FakeStream)
    told = {prompt for (prompt,) in rows(node, "select prompt_id from asks where state in ('trained', 'skipped')")}
    assert set(stream.told) == told
    assert set(stream.told.values()) <= {1}


@pytest.mark.parametrize("max_lag", [0, 1, 3])
def test_no_flat_group_reaches_the_learner_while_the_budget_lasts(tmp_path: Path, max_lag: int) -> None:
    crew = FakeCrew(max_lag=max_lag, rewarding=coins(0.5), groups_per_step=4)
    with process(tmp_path, crew, steps=10, resample=8.0) as node:
        asyncio.run(go(node))
        check_accounts(node, crew, 8.0)
        counts = node.ledger.counts()
        assert counts["skipped"] > 10  # of groups of two, one half is flat
        lines = node.journal.folder.read("metrics.jsonl")
        assert sum(line["actors/resampled"] for line in lines) <= counts["skipped"]
        assert all(line["reward"] == 0.5 for line in lines), "groups of two that are not flat"
        assert unfiltered(lines) == pytest.approx(0.5, abs=0.12)
        assert unfiltered(lines, "reward") == unfiltered(lines)
    assert max(crew.lags) <= max_lag


def test_the_pass_rate_before_the_filter_is_not_that_of_the_batch(tmp_path: Path) -> None:
    crew = FakeCrew(rewarding=coins(0.1), groups_per_step=4)
    with process(tmp_path, crew, steps=20, resample=12.0) as node:
        asyncio.run(go(node))
        lines = node.journal.folder.read("metrics.jsonl")
        assert np.mean([line["reward"] for line in lines]) == pytest.approx(0.5, abs=0.03)
        assert unfiltered(lines) == pytest.approx(0.1, abs=0.05)


@pytest.mark.parametrize("max_lag", [0, 1])
@pytest.mark.parametrize("resample", [0.0, 0.3, 2.0])
def test_if_every_group_is_flat_the_run_ends_all_the_same_with_the_budget_spent(
    tmp_path: Path, max_lag: int, resample: float
) -> None:
    crew = FakeCrew(max_lag=max_lag, rewarding=coins(0.0))
    with process(tmp_path, crew, steps=9, resample=resample) as node:
        asyncio.run(go(node))
        assert node.step == 9
        check_accounts(node, crew, resample)
        counts = node.ledger.counts()
        assert resample * counts["trained"] - 1 <= counts["skipped"] <= resample * counts["asked"]
        assert unfiltered(node.journal.folder.read("metrics.jsonl")) == 0.0


def test_groups_set_aside_are_among_those_that_finished_in_the_length_bias(tmp_path: Path) -> None:
    """Where flat groups are the short ones, training on the others is a bias, and the metric sees it."""

    class Short(FakeCrew):
        def _length(self, rng: random.Random) -> int:
            return rng.choice([2, 4, 13])  # odd lengths are right, so most flat groups are short

    crew = Short(groups_per_step=4)
    with process(tmp_path, crew, steps=10, resample=4.0) as node:
        asyncio.run(go(node))
        taken, finished = node.ledger.lengths()
        counts = node.ledger.counts()
        assert len(finished) == len(taken) + counts["skipped"] + len(node.ledger.pooled_tickets())
        assert metrics.length_bias(taken, finished)[0] > 0.1


def test_at_max_lag_0_the_same_prompts_take_the_same_tickets_however_long_answers_take(tmp_path: Path) -> None:
    seen = []
    for seed in (1, 2):  # of lengths, hence of the order in which groups finish
        crew = FakeCrew(max_lag=0, seed=seed, rewarding=coins(0.5), groups_per_step=5)
        with process(tmp_path / str(seed), crew, steps=6, resample=1.0) as node:
            asyncio.run(go(node))
            assert node.ledger.counts()["skipped"] > 4
        seen.append(crew.weights)
    assert seen[0] == seen[1]


@settings(max_examples=16, deadline=None)
@given(
    kills=st.lists(st.integers(1, 600), min_size=1, max_size=2),
    max_lag=st.integers(0, 3),
    share=st.sampled_from([0.0, 0.15]),
    seed=st.integers(0, 99),
)
def test_killed_anywhere_and_resumed_skipped_prompts_stay_skipped_and_nothing_is_lost(
    kills: list[int], max_lag: int, share: float, seed: int
) -> None:
    with tempfile.TemporaryDirectory() as parent:
        root = Path(parent) / "run"
        for life, kill_at in enumerate([*kills, None]):
            crew = FakeCrew(
                max_lag=max_lag,
                groups_per_step=3,
                failing=failing_at_random(seed, share),
                seed=seed,
                kill_at=kill_at,
                rewarding=coins(0.5, seed),
            )
            with process(root, crew, steps=5, checkpoint_every=2, resample=2.0) as node:
                if kill_at is None:
                    asyncio.run(go(node, resumed=life > 0))
                    assert node.step == len(crew.weights) == 5
                    assert node.lineage == 0
                    check_accounts(node, crew, 2.0)
                else:
                    with contextlib.suppress(Killed):
                        asyncio.run(go(node, resumed=life > 0))
                        assert not crew.killed


class Numbered(FakeStream):
    """Every prompt has a number of rollouts of its own."""

    def next(self) -> Draw:
        draw = super().next()
        return Draw(draw.prompt, wanted(draw.prompt))


def wanted(prompt: Prompt) -> int:
    return 2 + int(prompt.id[1:]) % 4


def test_a_prompt_keeps_its_number_of_rollouts_when_it_is_asked_again_even_by_another_process(tmp_path: Path) -> None:
    for life, kill_at in enumerate((300, None)):
        crew = FakeCrew(failing=failing_at_random(2, 0.3), kill_at=kill_at)
        with process(tmp_path, crew, steps=6, resample=0.5) as node:
            node.stream = Numbered()
            with contextlib.suppress(Killed):
                asyncio.run(go(node, resumed=life > 0))
            assert crew.killed == (kill_at is not None)
            again = [prompt for _, attempt, prompt in crew.asked if attempt]
    assert again, "none was asked again"
    for step in range(1, 7):
        for group in schema.read_groups(node.journal.folder.batch(step)):
            assert len(group.rollouts) == wanted(group.prompt)
