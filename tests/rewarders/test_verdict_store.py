"""Nothing is judged twice: not within a group, over retries, by two workers, nor after a kill."""

from __future__ import annotations

import asyncio
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rewarders.chat import BudgetSpent
from rewarders.judge_simulator import Faults, JudgeSimulator
from rewarders.registry import REWARDERS
from rewarders.verdict_store import VerdictStore, _digest, group_key, rollout_key
from rewarders.verdicts import scored, unscored
from rewarders.worker import RewardWorker
from swarm.config import Spec
from swarm.types import Finish, Group, Segment, Status, Verdict

ROOT = Path(__file__).resolve().parents[2]


class Counting:
    """Scores a text by its length, and remembers every text it was given; what it says can be told."""

    def __init__(self, version: str = "v1", keyed_by: str = "rollout") -> None:
        self.name, self.version, self.keyed_by = "counting", version, keyed_by
        self.seen: list[str] = []
        self.answers: dict[str, Any] = {}
        self.begun = asyncio.Event()
        self.gate: asyncio.Event | None = None

    async def judge(self, group: Group) -> list[Verdict]:
        self.seen += [r.text for r in group.rollouts]
        self.begun.set()
        if self.gate:
            await self.gate.wait()
        return [
            self.answers.get(r.text, Verdict("counting", Status.SCORED, len(r.text) / 7, "c", 0.5))
            for r in group.rollouts
        ]

    def close(self) -> None:
        pass


@pytest.fixture
def store(tmp_path: Path):
    made = VerdictStore(tmp_path / "deep" / "verdicts.sqlite")
    yield made
    made.close()


def judged(store: VerdictStore, rewarder: Counting, group: Group) -> list[Verdict]:
    return asyncio.run(store.judge(rewarder, group))[0]


def test_equal_responses_are_judged_once_and_come_back_as_they_were(store, make_group) -> None:
    rewarder = Counting()
    group = make_group(["a", "bb", "a", "a"])
    first, known = asyncio.run(store.judge(rewarder, group))
    assert rewarder.seen == ["a", "bb"]
    assert known == 0
    assert [v.value for v in first] == [1 / 7, 2 / 7, 1 / 7, 1 / 7]
    again, known = asyncio.run(store.judge(rewarder, group))
    assert (len(rewarder.seen), known) == (2, 4)
    assert [replace(v, seconds=0.5, version="") for v in again] == first
    assert {(v.seconds, v.version) for v in again} == {(0.0, "v1")}


def test_another_worker_and_another_run_find_them(store, make_group, tmp_path) -> None:
    judged(store, Counting(), make_group(["a"]))
    other, rewarder = VerdictStore(tmp_path / "deep" / "verdicts.sqlite"), Counting()
    judged(other, rewarder, make_group(["a", "b"]))
    other.close()
    other.close()
    assert rewarder.seen == ["b"]


def test_any_other_content_is_judged_anew(store, make_group) -> None:
    rewarder = Counting()
    group = make_group(["a"], "4", question="q", task={"k": 1})
    others = [
        make_group(["a"], "5", question="q", task={"k": 1}),
        make_group(["a"], None, question="q", task={"k": 1}),
        make_group(["a"], "4", question="p", task={"k": 1}),
        make_group(["a"], "4", question="q", task={"k": 2}),
        replace(group, prompt=replace(group.prompt, system="s")),
        replace(group, rollouts=(replace(group.rollouts[0], finish=Finish.LENGTH),)),
    ]
    for each in (group, *others):
        judged(store, rewarder, each)
    assert len(rewarder.seen) == 1 + len(others)
    judged(store, rewarder, replace(group, id="another", ticket=9))
    assert len(rewarder.seen) == 1 + len(others)
    newer = Counting(version="v2")
    judged(store, newer, group)
    assert newer.seen == ["a"]


def test_failures_are_asked_again_and_abstentions_are_kept(store, make_group) -> None:
    rewarder, group = Counting(), make_group(["time", "error", "abstains", "segments", "fine"])
    rewarder.answers = {
        "time": unscored("c", Status.TIMEOUT, "slow"),
        "error": unscored("c", Status.ERROR, "broken"),
        "abstains": unscored("c", Status.ABSTAINED, "it said: \ud83d\ude00"),
        "segments": replace(scored("c", 1.0), segments=(Segment(0, 1, 1.0),)),
    }
    first = judged(store, rewarder, group)
    rewarder.seen.clear()
    assert judged(store, rewarder, group)[2:3] == [replace(first[2], version="v1")]
    assert rewarder.seen == ["time", "error", "segments"]


def test_parts_and_values_come_back_exactly(store, make_group) -> None:
    rewarder = Counting()
    given_verdict = Verdict("c", Status.SCORED, 0.1 + 0.2, "why", parts={"x": 1 / 3, "y": 0.0}, stratum="short")
    rewarder.answers = {"a": given_verdict}
    judged(store, rewarder, make_group(["a"]))
    assert judged(store, rewarder, make_group(["a"])) == [replace(given_verdict, version="v1")]


def test_a_comparison_is_kept_by_its_whole_group(store, make_group) -> None:
    rewarder, group = Counting(keyed_by="group"), make_group(["a", "bb", "a"])
    judged(store, rewarder, group)
    assert [v.value for v in judged(store, rewarder, group)] == [1 / 7, 2 / 7, 1 / 7]
    assert rewarder.seen == ["a", "bb", "a"]
    judged(store, rewarder, make_group(["bb", "a", "a"]))
    judged(store, rewarder, replace(group, id="other"))
    assert len(rewarder.seen) == 9
    rewarder.answers = {"x": unscored("c", Status.ERROR, "broken")}
    judged(store, rewarder, make_group(["x", "a"]))
    judged(store, rewarder, make_group(["x", "a"]))
    assert len(rewarder.seen) == 13


def test_two_workers_at_the_same_moment_judge_a_response_once(store, make_group, tmp_path) -> None:
    other = VerdictStore(tmp_path / "deep" / "verdicts.sqlite")
    first, second = Counting(), Counting()

    async def both() -> Sequence[Any]:
        first.gate = asyncio.Event()
        one = asyncio.create_task(store.judge(first, make_group(["a", "b"])))
        await first.begun.wait()
        two = asyncio.create_task(other.judge(second, make_group(["b", "c", "a"])))
        await second.begun.wait()
        first.gate.set()
        return await asyncio.gather(one, two)

    (_, none), (verdicts, known) = asyncio.run(both())
    other.close()
    assert (first.seen, second.seen, none, known) == (["a", "b"], ["c"], 0, 2)
    assert [v.value for v in verdicts] == [1 / 7] * 3


def test_what_a_worker_gives_up_another_may_judge(store, make_group) -> None:
    class Failing(Counting):
        async def judge(self, group: Group) -> list[Verdict]:
            raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        judged(store, Failing(), make_group(["a"]))
    rewarder = Counting()
    judged(store, rewarder, make_group(["a"]))
    assert rewarder.seen == ["a"]


def test_who_is_cancelled_keeps_no_claim(store, make_group) -> None:
    async def give_up() -> None:
        task = asyncio.create_task(store.judge(Counting(), make_group(["a"])))
        await asyncio.sleep(0)  # the claim is on its way
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(give_up())
    rewarder = Counting()
    judged(store, rewarder, make_group(["a"]))
    assert rewarder.seen == ["a"]


def test_too_few_verdicts_are_refused_and_not_kept(store, make_group) -> None:
    class Short(Counting):
        async def judge(self, group: Group) -> list[Verdict]:
            return (await super().judge(group))[1:]

    with pytest.raises(ValueError, match="1 verdicts for 2 rollouts"):
        judged(store, Short(), make_group(["a", "b"]))
    assert len(store) == 0


def test_verdicts_by_data_that_changed_meanwhile_are_not_kept(store, make_group) -> None:
    class Moody(Counting):
        text = "old"

        def data(self) -> str:
            return self.text

        async def judge(self, group: Group) -> list[Verdict]:
            self.text = "new"
            return await super().judge(group)

    judged(store, Moody(), make_group(["a"]))
    assert len(store) == 0
    assert len(judged(store, Moody(), make_group(["a"]))) == 1


def test_it_holds_no_more_than_it_may(tmp_path, make_group) -> None:
    store, rewarder = VerdictStore(tmp_path / "small.sqlite", largest=10), Counting()
    for i in range(25):
        judged(store, rewarder, make_group([f"text {i}"]))
    assert len(store) == 10
    rewarder.seen.clear()
    judged(store, rewarder, make_group(["text 24", "text 14"]))
    assert rewarder.seen == ["text 14"]
    store.close()


WRITER = """
import asyncio, sys
import numpy as np
from rewarders.verdict_store import VerdictStore
from swarm.types import Finish, Group, Prompt, Rollout, Span, Status, Verdict

class Writing:
    name, version, keyed_by = "counting", "v1", "rollout"
    async def judge(self, group):
        if sys.argv[2] == "hold":
            print("held", flush=True)
            await asyncio.Event().wait()
        return [Verdict("counting", Status.SCORED, 1.0)] * len(group.rollouts)

def group(text):
    rollout = Rollout(np.array([1, 2], np.int32), np.zeros(2, np.float32), (Span(0, 0, 2),), text, Finish.STOP, None)
    prompt = Prompt("prompt-1", "?", None, "test")
    return Group("group-1", 0, 0, prompt, np.array([3], np.int32), (rollout,), "learner", 0, 1.0, False)

store = VerdictStore(sys.argv[1])
for i in range(100_000):
    asyncio.run(store.judge(Writing(), group(f"text {i}")))
    print(i, flush=True)
"""


def killed_after(path: Path, mode: str, lines: int) -> list[str]:
    """What the writer told before it was killed with SIGKILL, in the middle of its work."""
    command = [sys.executable, "-c", WRITER, str(path), mode]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        said = [writer.stdout.readline() for _ in range(lines)]
        writer.send_signal(signal.SIGKILL)
        said += writer.stdout.read().splitlines()
    return [line.strip() for line in said if line.strip()]


def test_a_kill_loses_nothing_that_was_told(tmp_path, make_group) -> None:
    path = tmp_path / "verdicts.sqlite"
    said = killed_after(path, "write", 50)
    store, rewarder = VerdictStore(path), Counting()
    judged(store, rewarder, make_group([f"text {i}" for i in said]))
    assert len(said) >= 50
    assert rewarder.seen == []
    store.close()
    with sqlite3.connect(path) as db:
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_the_claims_of_a_killed_worker_end_with_it(tmp_path, make_group) -> None:
    path = tmp_path / "verdicts.sqlite"
    assert killed_after(path, "hold", 1) == ["held"]
    store, rewarder = VerdictStore(path), Counting()
    judged(store, rewarder, make_group(["text 0"]))
    assert rewarder.seen == ["text 0"]
    store.close()


@pytest.mark.parametrize("kind", ["a folder", "other data"])
def test_a_path_that_cannot_be_used_is_refused(tmp_path, kind) -> None:
    path = tmp_path / "x"
    path.mkdir() if kind == "a folder" else path.write_bytes(b"not a database at all" * 100)
    with pytest.raises(ValueError, match=r"rewarders\.store = .*cannot be used"):
        VerdictStore(path)


def test_a_file_that_fails_costs_the_savings_and_no_verdict(store, make_group) -> None:
    store._thread.submit(store._db.execute, "DROP TABLE verdicts").result()
    assert [v.value for v in judged(store, Counting(), make_group(["a"]))] == [1 / 7]
    assert any("no such table" in trouble for trouble in store.troubles)


@given(st.lists(st.text(max_size=3), max_size=4), st.lists(st.text(max_size=3), max_size=4))
def test_different_fields_have_different_digests(first: list[str], second: list[str]) -> None:
    assert (_digest(*first) == _digest(*second)) == (first == second)


def test_keys_take_any_text(make_group) -> None:
    group = make_group(["\ud800", "\0"])
    keys = {rollout_key("v", group, r) for r in group.rollouts} | {group_key("v", group)}
    assert len(keys) == 3


# -- in the worker -------------------------------------------------------------------------------------------------


def worker(judge: Any, store: VerdictStore | None = None, retries: int = 0, **options: Any) -> RewardWorker:
    use = [Spec(name="yes_no", options={"judge": "j", **options})]
    return RewardWorker(use, timeout_s=5.0, retries=retries, judges={"j": judge}, store=store)


def test_a_worker_asks_its_judge_once_for_each_response(store, make_group) -> None:
    judge = JudgeSimulator(Faults(false_accept=0.5))
    groups = [make_group([f"no {i}", f"{i}", "4", "4"], "4") for i in range(5)]
    made = worker(judge, store)
    first = [asyncio.run(made.judge(group)) for group in groups]
    assert judge.asked == 5 + 4 + 1
    again = [asyncio.run(worker(judge, store).judge(group)) for group in groups]
    assert judge.asked == 5 + 4 + 1
    values = [[r.verdicts[0].value for r in group.rollouts] for group in first]
    assert values == [[r.verdicts[0].value for r in group.rollouts] for group in again]
    assert made.counts()["yes_no"]["known"] == 20 - 10 - 1  # the second "4" of the first group goes with the first
    versions = {r.verdicts[0].version for group in first for r in group.rollouts}
    assert len(versions) == 1
    assert versions.pop().startswith("yes_no@")


JUDGE = {"name": "yes_no", "judge": "j"}
AROUND = [
    {"name": "guard", "of": JUDGE},
    {"name": "gate", "when": "exact", "then": JUDGE, "at_least": 0.0},
    {"name": "cascade", "rule": "exact", "appeal": JUDGE, "share": 1.0, "replaces": True},
    {"name": "hybrid", "rule": "exact", "soft": JUDGE},
    {"name": "weighted", "of": ["exact", JUDGE], "weights": [1.0, 1.0]},
    {"name": "route", "to": {"test": JUDGE}},
    {"name": "ensemble", "of": ["exact", JUDGE]},
    {"name": "par", "of": JUDGE, "column": "answer"},
    {"name": "guard", "of": {"name": "cascade", "rule": "exact", "appeal": JUDGE, "share": 1.0}},
]


@pytest.mark.parametrize("use", AROUND, ids=lambda use: str(use["name"]))
def test_nothing_is_judged_twice_wherever_the_judge_stands(store, make_group, use) -> None:
    """Not the same text in one group, not in another group, not by a second worker, and not by the judge alone."""
    judge = JudgeSimulator(Faults(false_accept=0.5))
    groups = [make_group(["it is 4", "7", "9", "it is 4"], "4"), replace(make_group(["9", "8"], "4"), id="another")]

    def values(made: RewardWorker) -> list[Any]:
        judged = [asyncio.run(made.judge(group)) for group in groups]
        made.close()
        return [rollout.verdicts[0].value for group in judged for rollout in group.rollouts]

    def around(kept: VerdictStore | None) -> RewardWorker:
        return RewardWorker([Spec.model_validate(use)], timeout_s=5.0, retries=0, judges={"j": judge}, store=kept)

    plain, judge.asked = values(around(None)), 0
    made = around(store)
    assert values(made) == plain
    first = judge.asked
    assert 1 <= first <= 4 + ("column" in use)  # its reference is one more text
    again = around(store)
    assert values(again) == plain
    assert judge.asked == first
    assert again.counts()[use["name"]]["known"] >= 5
    values(worker(judge, store))
    assert judge.asked <= 5  # the judge alone finds what it said inside


def test_a_retry_asks_for_the_failed_ones_alone(make_group) -> None:
    class Once(JudgeSimulator):
        async def ask(self, messages: Any, *, max_tokens: int, choices: Sequence[str] = ()) -> Any:
            reply = await super().ask(messages, max_tokens=max_tokens, choices=choices)
            if self.asked == 2:
                raise ConnectionError("gone")
            return reply

    judge = Once()
    made = worker(judge, retries=2)
    scored_group = asyncio.run(made.score(make_group(["4", "5", "it is 4"], "4")))
    assert [r.verdicts[0].value for r in scored_group.rollouts] == [1.0, 0.0, 1.0]
    assert (judge.asked, made.counts()["yes_no"]["retried"]) == (4, 1)


def test_a_judge_without_budget_abstains_on_the_whole_group_and_nothing_is_kept(store, make_group) -> None:
    class Poor(JudgeSimulator):
        async def ask(self, messages: Any, *, max_tokens: int, choices: Sequence[str] = ()) -> Any:
            if self.asked == 1:
                raise BudgetSpent("9 of budget_tokens = 9 are used up")
            return await super().ask(messages, max_tokens=max_tokens, choices=choices)

    found = asyncio.run(worker(Poor(), store).judge(make_group(["4", "5", "6"], "4")))
    verdicts = [r.verdicts[0] for r in found.rollouts]
    assert {(v.status, v.cause) for v in verdicts} == {(Status.ABSTAINED, "9 of budget_tokens = 9 are used up")}
    assert len(store) == 0


def test_an_unknown_judge_is_refused_with_the_nearest() -> None:
    with pytest.raises(ValueError, match=r"yes_no: no judge 'jugde'; did you mean \"judge\""):
        RewardWorker(
            [Spec(name="yes_no", options={"judge": "jugde"})],
            timeout_s=1.0,
            retries=0,
            judges={"judge": JudgeSimulator()},
        )


def test_rewarders_say_what_their_verdicts_depend_on() -> None:
    keyed = {name: getattr(kind, "keyed_by", None) for name, kind in REWARDERS.items()}
    assert keyed["yes_no"] == keyed["rubric"] == keyed["principles"] == "rollout"
    assert keyed["pairwise"] == "group"
    assert keyed["function"] is None  # a user's function may have state
