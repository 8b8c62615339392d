from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from rewarders.registry import REWARDERS
from rewarders.worker import RewardWorker
from swarm.config import ChannelsSection, JudgeSection, KnownRates, Spec
from swarm.errors import RewarderError
from swarm.types import Group, Status, Verdict


class Scripted:
    """A rewarder that does what the next line of its script says, once per call; checks that it gets whole groups."""

    script: Sequence[Any] = ()
    group_size = 3

    def __init__(self, *, extra: float = 0.0) -> None:
        self.name = "scripted"
        self.calls = 0
        self.closed = False
        self._extra = extra

    async def judge(self, group: Group) -> Sequence[Verdict]:
        assert not self.closed
        assert len(group.rollouts) == self.group_size
        line = self.script[min(self.calls, len(self.script) - 1)]
        self.calls += 1
        if line == "hang":
            await asyncio.Event().wait()
        if isinstance(line, Exception):
            raise line
        return [self._verdict(value) for value in line]

    def _verdict(self, value: Any) -> Verdict:
        if isinstance(value, Status):
            return Verdict("whoever", value, None, "because")
        return Verdict("whoever", Status.SCORED, value + self._extra)

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def scripted(monkeypatch):
    def use(*script: Any, group_size: int = 3) -> None:
        kind = type("Scripted", (Scripted,), {"script": script, "group_size": group_size})
        monkeypatch.setitem(REWARDERS, "scripted", kind)

    return use


def worker(*use: str | Spec, timeout_s: float = 5.0, retries: int = 0) -> RewardWorker:
    specs = [Spec(name=u) if isinstance(u, str) else u for u in use]
    return RewardWorker(specs, timeout_s=timeout_s, retries=retries)


def test_verdicts_stand_side_by_side_under_names_of_their_own(scripted, make_group) -> None:
    scripted([0.25, 0.5, 1.0])
    group = make_group(["4", "5", "6"], "4")
    made = worker("exact", "scripted", Spec(name="scripted", options={"extra": 1.0}))
    scored = asyncio.run(made.score(group))
    assert [[v.value for v in r.verdicts] for r in scored.rollouts] == [[1, 0.25, 1.25], [0, 0.5, 1.5], [0, 1, 2]]
    assert len({v.rewarder for v in scored.rollouts[0].verdicts}) == 3
    assert [r.text for r in scored.rollouts] == ["4", "5", "6"]
    assert replace(scored, rollouts=()) == replace(group, rollouts=())


@pytest.mark.parametrize(
    ("line", "status"),
    [(OSError("disk"), Status.ERROR), ("hang", Status.TIMEOUT), ([1.0], Status.ERROR), ([1.0] * 4, Status.ERROR)],
)
def test_a_rewarders_failure_is_never_a_zero(scripted, make_group, line, status) -> None:
    scripted(line)
    with pytest.raises(RewarderError, match=f"scripted: {status}"):
        asyncio.run(worker("exact", "scripted", timeout_s=0.05).score(make_group(["4", "5", "6"], "4")))


def test_failed_verdicts_are_asked_again_and_the_others_kept(scripted, make_group) -> None:
    scripted([1.0, Status.ERROR, Status.ABSTAINED], [9.0, Status.TIMEOUT, 9.0], OSError("x"), [9.0, 0.5, 9.0])
    made = worker("scripted", retries=3)
    scored = asyncio.run(made.score(make_group(["a", "b", "c"])))
    assert [r.verdicts[0].value for r in scored.rollouts] == [1.0, 0.5, None]
    assert made.counts() == {"scripted": {"retried": 3, "scored": 2, "abstained": 1}}


def test_retries_end(scripted, make_group) -> None:
    scripted([1.0, 1.0, Status.ERROR])
    made = worker("scripted", retries=2)
    assert asyncio.run(made.score(make_group(["a", "b", "c"]))).rollouts[2].verdicts[0].status is Status.ERROR
    assert made.counts()["scripted"] == {"retried": 2, "scored": 2, "error": 1}


@pytest.mark.parametrize(
    ("values", "enough"),
    [
        ([1.0, 0.0, Status.ERROR], True),
        ([1.0, Status.ERROR, Status.ABSTAINED], False),
        ([1.0, Status.ABSTAINED], False),
        ([0.0], True),
        ([Status.ABSTAINED], False),
    ],
)
def test_too_few_scored_rollouts_are_an_error_that_says_why(scripted, make_group, values, enough) -> None:
    scripted(values, group_size=len(values))
    group = make_group(["x"] * len(values))
    if enough:
        asyncio.run(worker("scripted").score(group))
        return
    with pytest.raises(RewarderError) as error:
        asyncio.run(worker("scripted").score(group))
    num = sum(isinstance(v, float) and not isinstance(v, Status) for v in values)
    message = str(error.value)
    assert f"{num} of {len(values)} rollouts of prompt prompt-1 were scored" in message
    assert "rewarder scripted: abstained: because; give its prompts what it needs" in message


def test_groups_are_scored_at_once_and_time_is_counted_once(scripted, make_group) -> None:
    scripted([1.0, 1.0, 1.0])
    made = worker("scripted")

    async def many() -> None:
        await asyncio.gather(*(made.score(make_group(["a", "b", "c"])) for _ in range(20)))

    asyncio.run(many())
    usage = made.usage()
    assert usage.busy_s >= 0
    assert usage.idle_s >= 0
    assert made.counts()["scripted"]["scored"] == 60


def test_cancelling_passes_through(scripted, make_group) -> None:
    scripted("hang")

    async def cancelled() -> None:
        async with asyncio.timeout(0.05):
            await worker("scripted", timeout_s=600.0).score(make_group(["a", "b", "c"]))

    with pytest.raises(TimeoutError):
        asyncio.run(cancelled())


def test_an_unknown_rewarder_or_option_is_refused_before_anything_starts() -> None:
    with pytest.raises(ValueError, match='did you mean "math_verify"'):
        worker("exact", "math_verfy")
    with pytest.raises(TypeError, match="wibble"):
        worker(Spec(name="exact", options={"wibble": 1}))


def test_channels_stamp_verdicts_and_without_them_nothing_is(scripted, make_group) -> None:
    scripted([1.0, 0.0, Status.ERROR])
    rates = [KnownRates(rewarder="scripted", false_accept=0.25, false_reject=0.25)]
    section = ChannelsSection(stratify=["language"], rates=rates)
    made = RewardWorker([Spec(name="scripted")], timeout_s=5.0, retries=0, channels=section)
    found = [r.verdicts[0] for r in asyncio.run(made.score(make_group(["a", "b", "c"]))).rollouts]
    assert [v.value for v in found] == [1.0, 0.0, None]
    assert {v.stratum for v in found} == {"language=ascii"}
    assert found[0].rates is not None
    assert found[0].rates.false_accept == pytest.approx(0.25, abs=0.01)
    plain = asyncio.run(worker("scripted").score(make_group(["a", "b", "c"])))
    assert all(r.verdicts[0].rates is None and not r.verdicts[0].stratum for r in plain.rollouts)


def test_close_closes_every_rewarder(scripted) -> None:
    scripted([1.0])
    made = worker("scripted", "scripted")
    made.close()
    assert all(r.closed for r in made._rewarders)


def test_importing_the_registry_loads_nothing_heavy() -> None:
    import subprocess
    import sys
    from pathlib import Path

    heavy = ("torch", "transformers", "vllm", "deepspeed", "ray", "sympy", "reasoning_gym", "math_verify")
    code = f"import sys, rewarders.registry, rewarders.worker; print([m for m in {heavy} if m in sys.modules])"
    root = str(Path(__file__).resolve().parents[2])
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root)
    assert done.stdout.strip() == "[]"


class Asking:
    """A rewarder that asks a judge."""

    def __init__(self, *, judge: Any, also: Any = None) -> None:
        self.name = "asking"
        self._judge = judge

    async def judge(self, group: Group) -> Sequence[Verdict]:
        answer = await self._judge.answer()
        return [Verdict("asking", Status.SCORED, answer) for _ in group.rollouts]

    def close(self) -> None:
        pass


def test_a_rewarder_that_asks_a_judge_has_a_backlog_and_the_others_do_not_wait(make_group, monkeypatch) -> None:
    monkeypatch.setitem(REWARDERS, "asking", Asking)

    async def main() -> None:
        gate = asyncio.Event()

        class Slow:
            name = "slow"

            async def answer(self) -> float:
                await gate.wait()
                return 0.5

        made = RewardWorker(
            [Spec(name="exact"), Spec(name="asking", options={"judge": "slow"})],
            timeout_s=0.05,  # is for those that ask nobody
            retries=0,
            judges={"slow": Slow()},  # type: ignore[dict-item]
            sections=[JudgeSection(name="slow", model="m", concurrent=1, backlog=2)],
        )
        tasks = [asyncio.create_task(made.score(make_group(["4", "5"], "4"))) for _ in range(5)]
        done, rest = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        while len(done) < 2:
            done |= (await asyncio.wait(rest, return_when=asyncio.FIRST_COMPLETED))[0]
            rest -= done
        assert made.waiting == made.longest_backlog == 2
        for task in done:
            verdicts = [rollout.verdicts for rollout in task.result().rollouts]
            assert [v[0].value for v in verdicts] == [1.0, 0.0]
            assert all(v[1].cause.startswith("displaced: the judge is behind") for v in verdicts)
        await asyncio.sleep(0.1)
        gate.set()
        scored = [await task for task in rest]
        assert {v.value for group in scored for r in group.rollouts for v in r.verdicts[1:]} == {0.5}
        assert max(r.verdicts[1].waited_s for group in scored for r in group.rollouts) >= 0.1
        assert made.counts()["asking"] == {"abstained": 4, "scored": 6}
        made.close()

    asyncio.run(main())


@pytest.mark.parametrize(
    ("composition", "values"),
    [
        ({"name": "weighted", "of": ["exact", "JUDGE"], "weights": [1.0, 0.5]}, [1.0, 0.0]),
        ({"name": "weighted", "of": ["exact", "JUDGE"]}, [1.0, 0.0]),
        ({"name": "cascade", "rule": "exact", "appeal": "JUDGE", "share": 1.0}, [1.0, 0.0]),
        ({"name": "hybrid", "rule": "exact", "soft": "JUDGE"}, [1.0, 0.0]),
        ({"name": "guard", "of": "JUDGE"}, [None, None]),
        ({"name": "gate", "when": "exact", "then": "JUDGE"}, [None, None]),
        ({"name": "cascade", "rule": "exact", "appeal": "JUDGE", "share": 1.0, "replaces": True}, [1.0, None]),
        ({"name": "ensemble", "of": ["exact", "JUDGE"]}, [None, None]),
        ({"name": "route", "to": {"test": "JUDGE"}}, [None, None]),
    ],
)
def test_a_judge_that_is_behind_displaces_its_own_part_of_a_composition_alone(make_group, composition, values) -> None:
    """One request hangs, so that a second group waits and loses patience: what its composition says without a judge."""
    judge = {"name": "yes_no", "judge": "slow"}
    options = {key: judge if value == "JUDGE" else value for key, value in composition.items() if key != "name"}
    if "of" in options and isinstance(options["of"], list):
        options["of"] = ["exact", judge]
    if "to" in options:
        options["to"] = {"test": judge}

    class Hangs:
        name = "hangs"

        async def ask(self, *_: Any, **__: Any) -> Any:
            await asyncio.Event().wait()

    async def main() -> None:
        made = RewardWorker(
            [Spec(name=composition["name"], options=options)],
            timeout_s=5.0,
            retries=0,
            judges={"slow": Hangs()},  # type: ignore[dict-item]
            sections=[JudgeSection(name="slow", model="m", patience_s=0.05)],
        )
        judged = await made.judge(make_group(["4", "5"], "4"))
        verdicts = [rollout.verdicts[0] for rollout in judged.rollouts]
        assert [v.value for v in verdicts] == values
        assert any("displaced: the judge is behind" in v.cause for v in verdicts)
        assert all(v.status is Status.ABSTAINED for v in verdicts if v.value is None)
        assert all(v.waited_s == 0.0 for v in verdicts if v.value is not None)  # no label of the judge's has an age
        made.close()

    asyncio.run(main())


def test_a_rewarder_that_seldom_has_a_value_is_told_of_once(scripted, make_group) -> None:
    """Not by what evaluations (tickets below 0) show; beside another rewarder groups still have rewards."""
    scripted([1.0, Status.ABSTAINED, Status.TIMEOUT])
    made = worker("scripted", Spec(name="exact"))

    async def go(ticket: int) -> list[str]:
        for _ in range(40):
            await made.judge(replace(make_group(["a", "b", "c"], "a"), ticket=ticket))
        return [f"{notice['event']} {notice['rewarder']}" for notice in made.notices()]

    assert asyncio.run(go(-1)) == []
    assert asyncio.run(go(1)) == ["unscored scripted"]
    assert asyncio.run(go(1)) == []
    made.close()


@pytest.mark.parametrize(
    ("use", "told"),
    [
        (["numeric", "choice"], []),
        (["choice", "numeric", Spec(name="length", options={"most": 9})], []),
        # the reward of the groups with letters would be of their length alone
        (["numeric", Spec(name="length", options={"most": 9})], ["numeric"]),
    ],
)
def test_a_recipe_of_two_sources_with_a_rewarder_for_each_is_no_alarm(make_group, use, told) -> None:
    made = worker(*use)

    async def go() -> list[str]:
        for number in range(40):
            await made.score(make_group(["B", str(number), "C", "5"], "B" if number % 2 else str(number)))
        return [notice["rewarder"] for notice in made.notices()]

    assert asyncio.run(go()) == told
    made.close()
