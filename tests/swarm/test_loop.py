"""The loop with a validating fake crew: failures, deaths, stops and kills, and exactly once over all of them."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sqlite3
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swarm import checkpoints, loop, metrics, recovery, schema
from swarm.errors import ActorError, DeadActor, DivergedError, RewarderError, StarvedError
from swarm.ledger import Ledger
from swarm.loop import Node
from swarm.roles import Saved
from swarm.types import Handle, Prompt, StepReport
from tests.fake_crew import (
    CheckedPool,
    FakeCrew,
    Killed,
    digest,
    events,
    failing_at_random,
    node_for,
    refusing,
    shut,
)


@contextlib.contextmanager
def process(root: Path, crew: FakeCrew, **options: Any) -> Iterator[Node]:
    """One process's life on a run folder."""
    node = node_for(root, crew, **options)
    try:
        yield node
    finally:
        shut(node)


async def go(node: Node, resumed: bool = False) -> None:
    if resumed:
        await recovery.resume(node)
    await loop.run(node)


def trained(node: Node) -> dict[int, int]:
    """Ticket to step of the present lineage, as the ledger has it."""
    with contextlib.closing(sqlite3.connect(node.journal.folder.ledger)) as db:
        query = "select ticket, step from asks where state = 'trained' and lineage = ?"
        return dict(db.execute(query, (node.lineage,)).fetchall())


def check_exactly_once(node: Node, crew: FakeCrew) -> None:
    """The surviving weights hold each ticket and each prompt once, the ledger agrees, and nothing is missing."""
    pairs = [pair for batch in crew.weights for pair in batch]
    assert len({ticket for ticket, _ in pairs}) == len({prompt for _, prompt in pairs}) == len(pairs)
    steps = {ticket: step for step, batch in enumerate(crew.weights, 1) for ticket, _ in batch}
    assert trained(node).items() <= steps.items()
    if node.lineage == 0:
        assert trained(node) == steps
    counts = node.ledger.counts()
    assert counts["duplicated"] == counts["lost"] == 0
    assert counts["asked"] == counts["trained"] + counts["waiting"]


def test_a_run_goes_to_its_end_and_leaves_all_that_a_resume_needs(tmp_path: Path) -> None:
    crew = FakeCrew()
    with process(tmp_path, crew, steps=8, live_questions=2) as node:
        asyncio.run(go(node))
        check_exactly_once(node, crew)
        folder = node.journal.folder
        lines = folder.read("metrics.jsonl")
        assert [line["step"] for line in lines] == list(range(1, 9))
        assert lines[-1]["digest"] == digest(crew.weights)
        assert [line["digest"] for line in folder.read("digests.jsonl")] == [line["digest"] for line in lines]
        assert [e["step"] for e in events(node, "checkpoint")] == [3, 6, 8]
        assert sorted(p.name for p in folder.checkpoints.iterdir()) == ["step_000006", "step_000008"]
        assert [e["step"] for e in events(node, "evaluated")] == [2, 4, 6]
        assert {e["step"] for e in events(node, "synced")} == set(range(1, 9))
        for step, batch in enumerate(crew.weights, 1):
            assert [g.ticket for g in schema.read_groups(folder.batch(step))] == [t for t, _ in batch]


@pytest.mark.parametrize("max_lag", [0, 1, 4])
def test_failed_groups_are_asked_again_in_their_place_and_counted(tmp_path: Path, max_lag: int) -> None:
    crew = FakeCrew(max_lag=max_lag, failing=failing_at_random(1, 0.25))
    with process(tmp_path, crew, steps=10) as node:
        asyncio.run(go(node))
        check_exactly_once(node, crew)
        failures = events(node, "failed") + events(node, "dropped")
        assert failures
        counts = node.ledger.counts()
        assert counts["failed"] + counts["dropped"] == len(failures)
        assert sum(node.ledger.causes().values()) == len(failures)
        again = {(ticket, prompt) for ticket, attempt, prompt in crew.asked if attempt > 0}
        assert {(e["ticket"], e["prompt"]) for e in events(node, "failed")} <= again
        taken = [ticket for batch in crew.weights for ticket, _ in batch]
        for place, ticket in enumerate(taken):
            assert sum(other > ticket for other in taken[:place]) < node.pool.window
    assert max(crew.lags) <= max_lag


def test_a_refused_prompt_is_dropped_at_once_and_its_ticket_goes_to_the_next_prompt(tmp_path: Path) -> None:
    crew = FakeCrew(failing=refusing("p2", "p5"))
    with process(tmp_path, crew, steps=4) as node:
        asyncio.run(go(node))
        check_exactly_once(node, crew)
        assert sorted(e["prompt"] for e in events(node, "dropped")) == ["p2", "p5"]
        assert [a for t, a, p in crew.asked if p in ("p2", "p5")] == [0, 0]
        assert node.ledger.counts()["dropped"] == 2
    assert {2, 5} <= {ticket for batch in crew.weights for ticket, _ in batch}
    assert not {"p2", "p5"} & {prompt for batch in crew.weights for _, prompt in batch}


def test_a_prompt_has_three_attempts_and_so_has_the_one_that_takes_its_place(tmp_path: Path) -> None:
    bad: list[str] = []

    def failing(prompt: Any, ticket: int, attempt: int) -> ActorError | None:
        if ticket == 1 and len(set(bad) | {prompt.id}) <= 2:
            bad.append(prompt.id)
            return ActorError("no")
        return None

    with process(tmp_path, FakeCrew(failing=failing), steps=3) as node:
        asyncio.run(go(node))
        assert len(bad) == 2 * loop.MAX_ATTEMPTS
        assert sorted(bad.count(prompt) for prompt in set(bad)) == [loop.MAX_ATTEMPTS] * 2
        assert len(events(node, "dropped")) == 2


def test_a_run_of_failures_ends_as_starved_with_the_last_cause(tmp_path: Path) -> None:
    crew = FakeCrew(failing=lambda prompt, ticket, attempt: ActorError("no power") if ticket >= 6 else None)
    with process(tmp_path, crew, steps=9, give_up_after=7) as node:
        with pytest.raises(StarvedError, match=r"7 groups failed in a row; the last one: ActorError: no power"):
            asyncio.run(go(node))
        assert len(events(node, "failed")) + len(events(node, "dropped")) >= 7
        assert {e["ticket"] for e in events(node, "failed")} >= {6, 7}


def test_divergence_ends_the_run_as_itself(tmp_path: Path) -> None:
    class Diverging(FakeCrew):
        async def step(self, step: int, batch: Any, record: Path | None) -> StepReport:
            if step == 4:
                raise DivergedError("loss is nan")
            return await super().step(step, batch, record)

    with process(tmp_path, Diverging(), steps=9) as node:
        with pytest.raises(DivergedError, match="loss is nan"):
            asyncio.run(go(node))
        assert node.step == 3


def test_the_error_that_ended_a_task_group_comes_out_of_its_wrapping() -> None:
    error = StarvedError("x")
    assert loop.first_error(BaseExceptionGroup("a", [BaseExceptionGroup("b", [error])])) is error


def stop_at(node: Node, step: int) -> None:
    """Close the pool (what Ctrl-C does) when a step is logged."""

    def listen(kind: str, record: Any) -> None:
        if kind == "step" and record["step"] == step:
            closing.append(asyncio.ensure_future(node.pool.close()))

    closing: list[asyncio.Future[None]] = []
    node.journal.listeners.append(listen)


@pytest.mark.parametrize("max_lag", [0, 2])
def test_a_stop_drains_into_a_checkpoint_and_a_resume_trains_what_was_drained(tmp_path: Path, max_lag: int) -> None:
    first = FakeCrew(max_lag=max_lag)
    with process(tmp_path, first, steps=12) as node:
        stop_at(node, 5)
        asyncio.run(go(node))
        assert 5 <= node.step < 12
        assert events(node, "checkpoint")[-1]["step"] == node.step
        drained = [handle.facts.ticket for handle in node.pool.ready]
        assert drained or max_lag == 0
        assert node.ledger.pooled_tickets() == set(drained)
        assert not first.making
    second = FakeCrew(max_lag=max_lag)
    with process(tmp_path, second, steps=12) as node:
        asyncio.run(go(node, resumed=True))
        check_exactly_once(node, second)
        assert not {t for t, _, _ in second.asked} & set(drained)
        assert len(second.weights) == 12
        assert second.weights[: len(first.weights)] == first.weights
        assert node.lineage == 0
        tickets = sorted(ticket for batch in second.weights for ticket, _ in batch)
        assert set(drained) <= set(tickets)
        assert node.ledger.counts()["failed"] == 0


def test_max_lag_0_trains_on_the_same_batches_twice(tmp_path: Path) -> None:
    seen = []
    for name in ("a", "b"):
        crew = FakeCrew(max_lag=0, seed=3)
        with process(tmp_path / name, crew, steps=6) as node:
            asyncio.run(go(node))
            folder = node.journal.folder
            groups = [schema.to_batch(g) for step in range(1, 7) for g in schema.read_groups(folder.batch(step))]
        seen.append((crew.weights, groups))
    assert seen[0][0] == seen[1][0]
    assert all(a.equals(b) for a, b in zip(seen[0][1], seen[1][1], strict=True))


@pytest.mark.parametrize("call", ["step", "publish", "save", "saved"])
@pytest.mark.parametrize("deaths", [(2,), (5,), (5, 6)])
def test_a_dead_learner_is_replayed_to_the_same_weights_and_the_run_goes_on(
    tmp_path: Path, call: str, deaths: tuple[int, ...]
) -> None:
    if call.startswith("save"):
        deaths = tuple(range(1, len(deaths) + 1))
    crew = FakeCrew(die={call: deaths})
    with process(tmp_path, crew, steps=8) as node:
        asyncio.run(go(node))
        assert crew.calls[call] > max(deaths)
        assert node.lineage == 0
        assert not events(node, "lineage")
        assert len(events(node, "recovering")) == len(deaths)
        check_exactly_once(node, crew)
        lines = node.journal.folder.read("metrics.jsonl")
        assert [line["digest"] for line in lines] == [digest(crew.weights[:step]) for step in range(1, 9)]


def test_a_learner_that_dies_at_every_try_ends_the_run(tmp_path: Path) -> None:
    with process(tmp_path, FakeCrew(die={"step": range(4, 99)}), steps=8) as node:
        with pytest.raises(DeadActor):
            asyncio.run(go(node))
        assert len(events(node, "recovering")) == loop.MAX_DEATHS - 1


def spoil(path: Path, how: str) -> None:
    if how == "missing":
        path.unlink()
    else:
        data = bytearray(path.read_bytes())
        data[len(data) // 3 : len(data) // 2] = b"\0" * (len(data) // 2 - len(data) // 3)
        path.write_bytes(data)


@pytest.mark.parametrize("call", ["step", "publish"])
@pytest.mark.parametrize("how", ["missing", "damaged"])
def test_a_lost_batch_begins_a_new_lineage_with_an_event_and_fresh_groups(tmp_path: Path, how: str, call: str) -> None:
    crew = FakeCrew(die={call: [6]}, max_lag=2)
    with process(tmp_path, crew, steps=10) as node:

        def lose(kind: str, record: Any) -> None:
            if kind == "step" and record["step"] == 5 and record["lineage"] == 0:
                spoil(node.journal.folder.batch(4), how)

        node.journal.listeners.append(lose)
        asyncio.run(go(node))
        (event,) = events(node, "lineage")
        assert (event["lineage"], event["step"]) == (1, 3)
        assert "batch of step 4" in event["cause"]
        assert node.lineage == 1
        assert len(crew.weights) == node.step == 10
        check_exactly_once(node, crew)  # the crew itself refuses groups of lineage 0 in lineage 1
        assert "its lineage ended" in node.ledger.causes()


def test_other_weights_after_a_replay_begin_a_new_lineage(tmp_path: Path) -> None:
    class Forgetful(FakeCrew):
        async def restore(self, folder: Path | None, lineage: int) -> None:
            await super().restore(folder, lineage)
            if folder and lineage == 0:
                self.weights[0][0] = (0, "another prompt")

    crew = Forgetful(die={"step": [6]})
    with process(tmp_path, crew, steps=8) as node:
        asyncio.run(go(node))
        (event,) = events(node, "lineage")
        assert "digest" in event["cause"]
        check_exactly_once(node, crew)


def test_a_resume_in_a_new_lineage_asks_everything_again(tmp_path: Path) -> None:
    with process(tmp_path, FakeCrew(kill_at=None, die={"step": range(6, 99)}), steps=10) as node:
        with pytest.raises(DeadActor):
            asyncio.run(go(node))
        spoil(node.journal.folder.batch(5), "missing")
    crew = FakeCrew()
    with process(tmp_path, crew, steps=10) as node:
        asyncio.run(go(node, resumed=True))
        assert (events(node, "lineage")[-1]["lineage"], node.lineage) == (1, 1)
        check_exactly_once(node, crew)


@pytest.mark.parametrize("call", ["save", "saved"])
def test_a_checkpoint_that_cannot_be_written_is_an_event_and_the_run_goes_on(tmp_path: Path, call: str) -> None:
    class FullDisk(FakeCrew):
        async def save(self, folder: Path) -> Saved:
            taken = await super().save(folder)
            self.refuse("save")
            return taken

        async def saved(self) -> None:
            await super().saved()
            self.refuse("saved")

        def refuse(self, what: str) -> None:
            if call == what and self.calls[what] == 2:
                self.saving = None
                raise OSError(28, "No space left on device")

    with process(tmp_path, FullDisk(), steps=9) as node:
        asyncio.run(go(node))
        (event,) = events(node, "checkpoint_failed")
        assert event["step"] == 6
        assert node.saved, "a later one was written"
        assert "No space left" in event["cause"]
        assert sorted(p.name for p in node.journal.folder.checkpoints.iterdir()) == ["step_000003", "step_000009"]


def test_live_questions_are_answered_greedily_or_as_often_as_asked(tmp_path: Path) -> None:
    class Watched(FakeCrew):
        def __init__(self) -> None:
            super().__init__()
            self.exams: list[tuple[bool, int]] = []

        async def generate(
            self, prompt: Prompt, ticket: int, attempt: int, greedy: bool = False, num: int = 0
        ) -> Handle:
            if ticket < 0:
                self.exams.append((greedy, num))
            return await super().generate(prompt, ticket, attempt, greedy, num)

    for samples, want in ((1, (True, 1)), (3, (False, 3))):
        crew = Watched()
        with process(tmp_path / str(samples), crew, steps=4, live_questions=2) as node:
            node.live_samples = samples
            asyncio.run(go(node))
        assert crew.exams == [want] * 2, "both questions, once before the last step"


def test_a_divergence_names_the_batch_and_the_last_good_checkpoint(tmp_path: Path) -> None:
    class Diverging(FakeCrew):
        async def step(self, step: int, batch: Sequence[Handle], record: Path | None) -> StepReport:
            report = await super().step(step, batch, record)
            if step == 5:
                raise DivergedError("the loss is nan")
            return report

    with process(tmp_path, Diverging(), steps=9) as node:
        with pytest.raises(
            DivergedError, match=r"step 5: the loss is nan.*step_000005\.parquet.*step_000003"
        ) as caught:
            asyncio.run(go(node))
        assert caught.value.exit_code == 3
        assert node.journal.folder.batch(5).exists(), "the offending batch"
        (event,) = events(node, "diverged")
        assert (event["step"], event["checkpoint"]) == (5, "step_000003")


def test_a_last_checkpoint_that_cannot_be_written_is_not_forgotten(tmp_path: Path) -> None:
    class FullDisk(FakeCrew):
        async def saved(self) -> None:
            await super().saved()
            raise OSError(28, "No space left on device")

    with process(tmp_path, FullDisk(), steps=4) as node:
        asyncio.run(go(node))
        assert not node.saved


def test_training_goes_on_while_a_checkpoint_is_written(tmp_path: Path) -> None:
    class SlowDisk(FakeCrew):
        async def saved(self) -> None:
            if self.calls["step"] < 8:
                await self.two_more.wait()  # for ever, were the loop to wait for this
            await super().saved()

        async def step(self, step: int, batch: Any, record: Path | None) -> StepReport:
            if step == 6:
                self.two_more.set()
            return await super().step(step, batch, record)

        two_more = asyncio.Event()

    crew = SlowDisk()
    with process(tmp_path, crew, steps=8, checkpoint_every=4) as node:
        asyncio.run(go(node))
        check_exactly_once(node, crew)
        assert [e["step"] for e in events(node, "checkpoint")] == [4, 8]


def test_the_next_checkpoint_waits_for_the_one_before(tmp_path: Path) -> None:
    crew = FakeCrew()  # which refuses to save twice at once
    crew.writing_passes = 100
    with process(tmp_path, crew, steps=6, checkpoint_every=1) as node:
        asyncio.run(go(node))
        assert [e["step"] for e in events(node, "checkpoint")] == [1, 2, 3, 4, 5, 6]


def test_a_checkpoint_has_learner_pool_and_ledger_of_one_moment(tmp_path: Path) -> None:
    crew = FakeCrew(max_lag=2)
    crew.writing_passes = 60
    with process(tmp_path, crew, steps=9, checkpoint_every=4) as node:
        asyncio.run(go(node))
        for step in (4, 8, 9):
            folder = checkpoints.path_of(node.journal.folder.checkpoints, step)
            if not folder.exists():  # pruned
                continue
            ledger = Ledger(folder / "ledger.sqlite")
            assert ledger.last_step(0) == step
            assert len(json.loads((folder / "learner" / "weights.json").read_text())) == step
            pool = {group.ticket for group in schema.read_groups(folder / "pool.parquet")}
            assert pool <= ledger.pooled_tickets()
            ledger.close()


def test_a_learner_that_dies_while_it_writes_leaves_no_half_checkpoint(tmp_path: Path) -> None:
    crew = FakeCrew(die={"step": [5]})
    crew.writing_passes = 1000
    with process(tmp_path, crew, steps=5, checkpoint_every=4) as node:
        asyncio.run(go(node))
        (event,) = events(node, "checkpoint_failed")
        assert (event["step"], event["cause"]) == (4, "died while it wrote")
        assert [p.name for p in node.journal.folder.checkpoints.iterdir()] == ["step_000005"]
        check_exactly_once(node, crew)


def test_a_truncated_checkpoint_is_passed_over_for_the_one_before_and_it_says_so(tmp_path: Path) -> None:
    first = FakeCrew()
    with process(tmp_path, first, steps=7) as node:
        asyncio.run(go(node))
        newest = node.journal.folder.checkpoints / "step_000007" / "learner" / "weights.json"
        newest.write_bytes(newest.read_bytes()[:-5])
    second = FakeCrew()
    with process(tmp_path, second, steps=9) as node:
        asyncio.run(go(node, resumed=True))
        (event,) = events(node, "checkpoint_broken")
        assert "step_000007: learner/weights.json has" in event["problem"]
        assert event["used"] == "step_000006"
        assert second.weights[:7] == first.weights
        check_exactly_once(node, second)


@settings(max_examples=16, deadline=None)
@given(
    kills=st.lists(st.integers(1, 450), min_size=1, max_size=2),
    max_lag=st.integers(0, 3),
    share=st.sampled_from([0.0, 0.15]),
    seed=st.integers(0, 99),
)
def test_killed_anywhere_and_resumed_every_ticket_is_trained_once(
    kills: list[int], max_lag: int, share: float, seed: int
) -> None:
    with tempfile.TemporaryDirectory() as parent:
        root = Path(parent) / "run"
        for life, kill_at in enumerate([*kills, None]):
            failing = failing_at_random(seed, share)
            crew = FakeCrew(max_lag=max_lag, groups_per_step=3, failing=failing, seed=seed, kill_at=kill_at)
            with process(root, crew, steps=5, checkpoint_every=2) as node:
                if kill_at is None:
                    asyncio.run(go(node, resumed=life > 0))
                    assert node.step == len(crew.weights) == 5
                    assert node.lineage == 0, "nothing was lost, so the replay must succeed"
                    check_exactly_once(node, crew)
                else:
                    with contextlib.suppress(Killed):
                        asyncio.run(go(node, resumed=life > 0))
                        assert not crew.killed


@settings(max_examples=6, deadline=None)
@given(after=st.integers(1, 120), max_lag=st.integers(0, 2))
def test_a_cancelled_run_resumes_with_exactly_once(after: int, max_lag: int) -> None:
    async def cancelled(node: Node) -> None:
        run = asyncio.ensure_future(loop.run(node))
        for _ in range(after):
            await asyncio.sleep(0)
        run.cancel()
        await asyncio.gather(run, return_exceptions=True)

    with tempfile.TemporaryDirectory() as parent:
        root = Path(parent) / "run"
        with process(root, FakeCrew(max_lag=max_lag), steps=6, checkpoint_every=2) as node:
            asyncio.run(cancelled(node))
        crew = FakeCrew(max_lag=max_lag)
        with process(root, crew, steps=6, checkpoint_every=2) as node:
            asyncio.run(go(node, resumed=True))
            assert (len(crew.weights), node.lineage) == (6, 0)
            check_exactly_once(node, crew)


class AnyFinishedFirst(CheckedPool):
    """What the pool must not do: whatever finished first leaves first, and what has become stale is thrown away."""

    async def take(self, num: int) -> dict[int, Handle]:
        def stale() -> list[int]:
            now = self.crew.step_now
            return [t for t, h in self._ready.items() if now - h.facts.oldest_step > self.crew.max_lag]

        def settled() -> bool:
            return bool(stale()) or len(self._ready) >= num

        while True:
            async with self._changed:
                await self._changed.wait_for(settled)
                for ticket in stale():
                    del self._ready[ticket]
                    self._outstanding.remove(ticket)
                self._changed.notify_all()
                if len(self._ready) >= num:
                    tickets = list(self._ready)[:num]
                    return {ticket: self._ready.pop(ticket) for ticket in tickets}


def bias_of(root: Path, pool: type[CheckedPool]) -> tuple[float, float, float]:
    crew = FakeCrew(max_lag=1, groups_per_step=8, mean_length=12, spread=1.0, record=False)
    with process(root, crew, steps=160, checkpoint_every=1000, pool=pool) as node:
        asyncio.run(go(node))
        return metrics.length_bias(*node.ledger.lengths())


def test_the_ordered_pool_has_a_length_bias_within_one_percent(tmp_path: Path) -> None:
    bias, low, high = bias_of(tmp_path, CheckedPool)
    assert abs(bias) <= 0.01
    assert low <= bias <= high


def test_any_finished_first_trains_on_short_answers_and_the_metric_sees_it(tmp_path: Path) -> None:
    bias, _, _ = bias_of(tmp_path, AnyFinishedFirst)
    assert bias < -0.05


def test_what_a_reward_worker_has_to_tell_is_in_the_run_folder(tmp_path: Path) -> None:
    found = {"event": "quarantine", "rewarder": "judge", "template": "thought process", "cause": "paid for anything"}

    class Telling(FakeCrew):
        async def score(self, handle: Handle) -> Handle:
            scored = await super().score(handle)
            notices = (found, {"event": "breaker", "cause": "x"}) if scored.facts.ticket == 2 else ()
            return Handle(scored.ref, replace(scored.facts, notices=notices))

    with process(tmp_path, Telling(), steps=4) as node:
        asyncio.run(go(node))
        [told] = events(node, "quarantine")
        assert found.items() <= told.items()
        assert len(events(node, "breaker")) == 1
        assert node.journal.folder.read("quarantine.jsonl") == [found]


def test_what_judges_were_asked_is_counted_once_also_of_groups_that_are_set_aside(tmp_path: Path) -> None:
    scored = 0

    class Asking(FakeCrew):
        async def score(self, handle: Handle) -> Handle:
            nonlocal scored
            scored += 1
            found = await super().score(handle)
            return Handle(found.ref, replace(found.facts, judged={"reward/judge_calls": 2, "reward/judge_tokens": 0}))

    crew = Asking()
    crew.rewarding = lambda prompt, ticket, num: [float(i == 0 and ticket % 2) for i in range(num)]
    with process(tmp_path, crew, steps=6, resample=1.0) as node:
        asyncio.run(go(node))
        lines = node.journal.folder.read("metrics.jsonl")
        told = sum(line["reward/judge_calls"] for line in lines)
        assert told + node.judged["reward/judge_calls"] == 2 * scored
        assert told > 2 * 6 * crew.groups_per_step
        assert all(line["reward/judge_tokens"] == 0 for line in lines)


def test_what_a_reward_worker_has_to_tell_comes_with_a_failure_too(tmp_path: Path) -> None:
    class Failing(FakeCrew):
        async def score(self, handle: Handle) -> Handle:
            if handle.facts.ticket == 2 and not events(node, "breaker"):
                error = RewarderError("nobody could judge it")
                error.notices = ({"event": "breaker", "rewarder": "judge", "cause": "x"},)
                raise error
            return await super().score(handle)

    with process(tmp_path, Failing(), steps=4) as node:
        asyncio.run(go(node))
        [told] = events(node, "breaker")
        assert told["cause"] == "x"


def test_what_a_learner_has_to_tell_is_in_the_journal(tmp_path: Path) -> None:
    class Telling(FakeCrew):
        async def step(self, step: int, *rest: Any) -> StepReport:
            report = await super().step(step, *rest)
            news = ({"event": "noise", "step": step, "kind": "no rates", "cause": "x"},) if step == 2 else ()
            return replace(report, notices=news)

    with process(tmp_path, Telling(), steps=4) as node:
        asyncio.run(go(node))
        assert [told["step"] for told in events(node, "noise")] == [2]
