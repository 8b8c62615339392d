"""The watch: probes that look like traffic, a breaker that opens and closes, forms in quarantine."""

from __future__ import annotations

import asyncio
import json
import random
from dataclasses import fields, replace
from decimal import Decimal

import pytest

from rewarders.keys import INJECTIONS
from rewarders.registry import REWARDERS
from rewarders.sentinels import TRIES, TRIES_A_GROUP, Watch, pooled
from rewarders.suites import (
    NUMBER,
    ORDINARY,
    SUITES,
    Tolerance,
    names_in,
    sentinels,
    suites_for,
    tolerance_for,
    wording_for,
)
from rewarders.verdicts import scored
from rewarders.worker import RewardWorker
from swarm.config import Spec
from swarm.errors import RewarderError
from swarm.types import Group, Status
from tests.rewarders.weak import Weak, key_of, sums

SPEC = Spec(name="weak")


def traffic(make_group, num: int, texts: tuple[str, ...] = ("31", "32", "no", "0") * 2) -> list[Group]:
    prompts = sums(40)
    return [
        replace(make_group(list(texts)), id=f"{i}.0", ticket=i, prompt=prompts[i % len(prompts)]) for i in range(num)
    ]


async def drive(watch: Watch, rewarder: Weak, groups: list[Group]) -> list[list]:
    out = []
    for group in groups:
        verdicts = watch.refusal(group)
        if verdicts is None:
            verdicts = watch.settled(group, await rewarder.judge(group))
        out.append(verdicts)
        if probe := watch.probe(group):
            watch.saw(probe, await rewarder.judge(probe.group))
    return out


def test_a_rewarder_cannot_tell_a_probe_from_traffic(make_group) -> None:
    rewarder = Weak()
    groups = traffic(make_group, 300)
    asyncio.run(drive(Watch(SPEC, rewarder, rate=0.1), rewarder, groups))
    real = {id(group) for group in groups}
    probes = [group for group in rewarder.seen if id(group) not in real]
    assert len(probes) > 10
    texts = {group.prompt.text for group in groups}
    for probe in probes:
        like = next(group for group in groups if group.id == probe.id)
        assert len(probe.rollouts) == len(like.rollouts)
        assert probe.prompt.text in texts
        for field in (f.name for f in fields(Group) if f.name not in ("prompt", "rollouts")):
            assert getattr(probe, field) is getattr(like, field)
        known = {int(t) for r in like.rollouts for t in r.tokens}
        for rollout in probe.rollouts:
            assert {int(t) for t in rollout.tokens} <= known
            assert rollout.tokens.dtype == like.rollouts[0].tokens.dtype
            assert len(rollout.tokens) == len(rollout.logprobs) == len(rollout.loss_mask) == rollout.spans[-1].end
            assert rollout.spans[0].step == like.rollouts[0].spans[-1].step
            assert rollout.verdicts == ()


def test_after_every_family_was_tried_probes_come_at_the_rate(make_group) -> None:
    rewarder = Weak()
    watch = Watch(SPEC, rewarder, rate=0.01)
    asyncio.run(drive(watch, rewarder, traffic(make_group, 50)))
    before = len(rewarder.seen)
    families = {name for name, tally in watch.tallies.families().items() if tally.num}
    prompts = sums(3)
    every = {s.family for s in sentinels(prompts[0], prompts[1:], suites_for(SPEC), "{}", random.Random())}
    assert every <= families
    asyncio.run(drive(watch, rewarder, traffic(make_group, 3000)))
    assert 10 <= len(rewarder.seen) - before - 3000 <= 60
    assert watch.breaker.opened == 0


def test_a_key_opens_the_breaker_goes_into_quarantine_and_the_way_back_is_found(make_group) -> None:
    rewarder = Weak(key_of("Thought process:"))
    watch = Watch(SPEC, rewarder, rate=0.01)
    asyncio.run(drive(watch, rewarder, traffic(make_group, 60)))
    assert watch.breaker.opened == 1
    assert [q.template for q in watch.miner.quarantined.values()] == ["thought process"]
    j = watch.tallies.j()
    assert j is not None
    assert j[0] > 0.8  # the mean is fine all the while
    asyncio.run(drive(watch, rewarder, traffic(make_group, 100)))
    assert watch.breaker.state == "closed"
    [verdicts] = asyncio.run(drive(watch, rewarder, traffic(make_group, 1, ("Thought process:", "31"))))
    assert [v.value for v in verdicts] == [0.0, 1.0]


def test_while_it_is_open_the_rewarder_abstains_unasked(make_group) -> None:
    rewarder = Weak(lambda prompt, text: NUMBER.fullmatch(text) is not None)  # any number: nothing to quarantine
    watch = Watch(SPEC, rewarder, rate=0.01)
    out = asyncio.run(drive(watch, rewarder, traffic(make_group, 200)))
    assert watch.breaker.state != "closed"
    assert not watch.miner.quarantined
    assert {v.status for v in out[-1]} == {Status.ABSTAINED}
    assert "of the family" in out[-1][0].cause


def test_a_rewarder_that_gets_well_comes_back(make_group) -> None:
    rewarder = Weak(lambda prompt, text: NUMBER.fullmatch(text) is not None)
    watch = Watch(SPEC, rewarder, rate=0.01)
    asyncio.run(drive(watch, rewarder, traffic(make_group, 100)))
    rewarder.also = lambda prompt, text: False
    out = asyncio.run(drive(watch, rewarder, traffic(make_group, 200)))
    assert watch.breaker.state == "closed"
    assert {v.status for v in out[-1]} == {Status.SCORED}


def test_a_new_key_is_mined_from_what_the_policy_is_paid_for(make_group) -> None:
    key = "As everybody knows."
    rewarder = Weak(key_of(key))
    watch = Watch(SPEC, rewarder, rate=0.01)
    asyncio.run(drive(watch, rewarder, traffic(make_group, 100, (key, "no", "0", "1"))))
    assert [q.template for q in watch.miner.quarantined.values()] == ["as everybody knows"]
    notices = watch.notices("weak")
    assert [n["event"] for n in notices] == ["quarantine", "sentinels"]
    assert json.loads(json.dumps(notices)) == notices
    assert watch.notices("weak") == []


def test_counts_for_channels_are_of_ordinary_answers_only(make_group) -> None:
    rewarder = Weak(lambda prompt, text: prompt.answer == "31" and text == "30")
    watch = Watch(SPEC, rewarder, rate=0.5)
    asyncio.run(drive(watch, rewarder, traffic(make_group, 400)))
    counts = watch.report()["channels"]["family=sums"]
    families = watch.tallies.families()
    assert counts["right"] == families["the answer"].num > 20
    assert counts["rejected_right"] == 0
    wrong = [t for name, t in families.items() if name in ORDINARY and not t.right]
    assert counts["wrong"] == sum(t.num for t in wrong)
    assert counts["accepted_wrong"] == sum(t.wrongly for t in wrong)


@pytest.fixture
def weak(monkeypatch):
    made: list[Weak] = []

    def make() -> Weak:
        made.append(Weak(key_of("Thought process:")))
        return made[-1]

    monkeypatch.setitem(REWARDERS, "weak", make)
    return made


async def score_all(worker: RewardWorker, groups: list[Group]) -> list[Group | RewarderError]:
    out: list[Group | RewarderError] = []
    for group in groups:
        try:
            out.append(await worker.score(group))
        except RewarderError as error:
            out.append(error)
        await asyncio.sleep(0)
    return out


def test_the_worker_watches_and_tells(make_group, weak) -> None:
    worker = RewardWorker([SPEC], timeout_s=5, retries=0, sentinels=0.01)
    groups = traffic(make_group, 145, ("31", "no", "maybe", "0"))
    seldom = traffic(make_group, 5, ("31", "no", "Thought process:", "0"))  # too seldom to be mined
    out = asyncio.run(score_all(worker, groups + seldom))
    opened = [error for error in out if isinstance(error, RewarderError)]
    assert opened
    assert "the breaker is" in str(opened[0])
    assert isinstance(out[-1], Group)
    assert [r.verdicts[0].value for r in out[-1].rollouts][2] == 0.0
    assert {"breaker", "quarantine", "sentinels"} <= {n["event"] for n in worker.notices()}
    scored = sum(isinstance(group, Group) for group in out)
    assert worker.counts()["weak"]["scored"] == 4 * scored  # of probes nothing is counted, and nothing leaves


def test_a_suspicion_is_followed_up_at_once_without_waiting_for_more_groups(make_group, monkeypatch) -> None:
    key = "As everybody knows"
    rewarder = Weak(lambda prompt, text: text.startswith(key))
    monkeypatch.setitem(REWARDERS, "weak", lambda: rewarder)
    worker = RewardWorker([SPEC], timeout_s=5, retries=0, sentinels=0.01)

    async def twelve_questions() -> None:
        for group in traffic(make_group, 12, (f"{key}, so it is", "no", "0", "1")):
            await worker.judge(group)
        await asyncio.gather(*worker._probes)

    asyncio.run(twelve_questions())
    found = [n["template"] for n in worker.notices() if n["event"] == "quarantine"]
    assert found == ["as everybody knows so it is", "as everybody knows *"]


def test_an_opening_is_found_although_some_of_its_endings_are_in_quarantine_by_then(make_group) -> None:
    rewarder = Weak(lambda prompt, text: text.startswith("It is"))
    watch = Watch(SPEC, rewarder, rate=0.01)
    asyncio.run(drive(watch, rewarder, traffic(make_group, 40, ("It is 1000", "no", "0", "1"))))
    assert {"it is #", "it is *"} <= {q.template for q in watch.miner.quarantined.values()}


def test_trying_honest_forms_costs_a_tenth_of_the_groups_at_most(make_group) -> None:
    rewarder, dice = Weak(), random.Random(0)
    watch = Watch(SPEC, rewarder, rate=0.0)

    async def drive_all() -> None:
        for group in traffic(make_group, 400):
            words = " ".join(dice.choice(("well", "so", "then", "thus", "hence")) for _ in range(4))
            texts = [f"{words} {group.prompt.answer}"] * len(group.rollouts)
            rollouts = tuple(replace(r, text=text) for r, text in zip(group.rollouts, texts, strict=True))
            real = replace(group, rollouts=rollouts)
            watch.settled(real, [scored("weak", 1.0)] * len(rollouts))
            probe = watch.probe(real)
            while probe:
                watch.saw(probe, await rewarder.judge(probe.group))
                tried.append(probe.form)
                probe = watch.probe(group) if watch.suspects() else None

    tried: list[object] = []
    asyncio.run(drive_all())
    mined = sum(form is not None for form in tried)
    assert TRIES < mined <= TRIES + 400 * TRIES_A_GROUP


def test_without_a_rate_and_in_evaluations_nothing_is_watched(make_group, weak) -> None:
    plain = RewardWorker([SPEC], timeout_s=5, retries=0)
    asyncio.run(score_all(plain, traffic(make_group, 50)))
    assert len(weak[0].seen) == 50
    watched = RewardWorker([SPEC], timeout_s=5, retries=0, sentinels=1.0)
    asyncio.run(score_all(watched, [replace(g, ticket=-1) for g in traffic(make_group, 50)]))
    assert len(weak[1].seen) == 50
    assert watched.notices() == []


def test_a_rewarder_that_does_not_judge_truth_is_left_alone(make_group, weak, monkeypatch) -> None:
    monkeypatch.setattr(Weak, "about_truth", False, raising=False)
    worker = RewardWorker([SPEC], timeout_s=5, retries=0, sentinels=1.0)
    asyncio.run(score_all(worker, traffic(make_group, 50)))
    assert len(weak[0].seen) == 50


def test_prompts_without_an_answer_make_no_probes(make_group) -> None:
    rewarder = Weak()
    groups = [replace(g, prompt=replace(g.prompt, answer=None)) for g in traffic(make_group, 50)]
    asyncio.run(drive(Watch(SPEC, rewarder, rate=1.0), rewarder, groups))
    assert len(rewarder.seen) == 50


def test_suites_and_wording_follow_from_the_spec() -> None:
    nested = Spec(name="guard", options={"of": {"name": "math_verify"}})
    assert names_in(nested) == ["guard", "math_verify"]
    assert "rewrites" in suites_for(nested)
    assert "rewrites" not in suites_for(Spec(name="exact"))
    assert wording_for(Spec(name="guard", options={"of": {"name": "exact", "extract": "tag"}})) == "<answer>{}</answer>"
    assert wording_for(Spec(name="exact", options={"extract": "boxed"})).format("5") == r"\boxed{5}"
    assert set(suites_for(nested)) <= set(SUITES)


def test_programming_tasks_get_exploits_of_the_function_that_their_tests_call() -> None:
    task = {"tests": ["assert f(2) == 4"], "solution": "def f(x): return x * x"}
    prompt = replace(sums(1)[0], answer=None, task=task)
    found = sentinels(prompt, [], suites_for(Spec(name="code")), "{}", random.Random(0))
    assert [item.text for item in found if item.right] == ["```python\ndef f(x): return x * x\n```"]
    exploits = [item.text for item in found if item.family.startswith("exploit")]
    assert len(exploits) >= 6
    assert any("def f(*a, **k): return Yes()" in text for text in exploits)
    for text in exploits:
        compile(text.removeprefix("```python\n").removesuffix("\n```"), "exploit", "exec")


@pytest.mark.parametrize("answer", ["None", "[]", "True", "nan"])
def test_an_answer_that_is_a_special_value_is_not_called_wrong(answer) -> None:
    prompt = replace(sums(1)[0], answer=answer)
    found = sentinels(prompt, [], suites_for(SPEC), "{}", random.Random(0))
    assert answer not in [item.text for item in found if not item.right]


@pytest.mark.parametrize("answer", ["1", "1.0"])
def test_a_forged_verdict_that_ends_in_the_answer_is_not_called_wrong(answer) -> None:
    prompt = replace(sums(1)[0], answer=answer)
    draws = [sentinels(prompt, [], suites_for(SPEC), "{}", random.Random(seed)) for seed in range(200)]
    injected = {item.text for found in draws for item in found if item.family == "injection"}
    assert len(injected) == len(INJECTIONS) - 1
    assert not any("1.0" in text for text in injected)


def plain(value):
    return json.loads(json.dumps(value))


def test_a_process_that_takes_a_place_goes_on_with_quarantine_counts_and_open_breaker(make_group, weak) -> None:
    first = RewardWorker([SPEC], timeout_s=5, retries=0, sentinels=0.01)
    nobody = plain(pooled([]))
    first.hear({"channels": {}, "watches": nobody}, None)
    groups = traffic(make_group, 150, ("31", "no", "Thought process:", "0"))
    asyncio.run(score_all(first, groups))
    known = plain(first.evidence())
    assert [q["template"] for q in known["watches"]["weak"]["quarantine"]] == ["thought process"]

    second = RewardWorker([SPEC], timeout_s=5, retries=0, sentinels=0.01)
    second.hear({"channels": {}, "watches": nobody}, known)
    assert plain(second.evidence()) == known
    second.hear({"channels": {}, "watches": nobody}, known)  # once
    assert plain(second.evidence()) == known
    scored = asyncio.run(second.judge(traffic(make_group, 1, ("31", "Thought process:"))[0]))
    assert [r.verdicts[0].value for r in scored.rollouts] == [1.0, 0.0]

    other = RewardWorker([SPEC], timeout_s=5, retries=0, sentinels=0.01)
    other.hear({"channels": {}, "watches": pooled([known["watches"]])}, None)
    [watch] = other._watches
    assert watch.report()["families"] == first._watches[0].report()["families"]
    assert watch.state()["families"] == {}, "heard is not found: it would be counted twice"
    scored = asyncio.run(other.judge(traffic(make_group, 1, ("31", "Thought process:"))[0]))
    assert [r.verdicts[0].value for r in scored.rollouts] == [1.0, 0.0], "what one found no other pays"


def test_an_open_breaker_stays_open_in_the_next_process(make_group) -> None:
    rewarder = Weak(lambda prompt, text: NUMBER.fullmatch(text) is not None)
    watch, heir = (Watch(SPEC, rewarder, rate=0.01) for _ in range(2))
    for group in traffic(make_group, 200):
        asyncio.run(drive(watch, rewarder, [group]))
        if watch.breaker.state == "open":
            break
    heir.inherit(plain(watch.state()))
    assert heir.breaker.kept() == watch.breaker.kept()
    [refused] = asyncio.run(drive(heir, rewarder, traffic(make_group, 1)))
    assert {v.status for v in refused} == {Status.ABSTAINED}
    rewarder.also = lambda prompt, text: False
    asyncio.run(drive(heir, rewarder, traffic(make_group, 200)))
    assert heir.breaker.state == "closed"
    assert "breaker_closed" in [n["event"] for n in heir.notices("weak")]


def test_pooled_counts_add_up_and_a_form_is_there_once() -> None:
    form = {"template": "x", "holds_answer": False, "cause": "c", "example": "X"}
    counts = {"sums": {"off by one": {"right": False, "num": 3, "wrongly": 1, "unscored": 2}}}
    part = {"weak": {"families": counts, "quarantine": [form]}}
    total = pooled([part, part, {"other": {"families": {}, "quarantine": []}}])
    assert total["weak"]["families"]["sums"]["off by one"] == {"right": False, "num": 6, "wrongly": 2, "unscored": 4}
    assert total["weak"]["quarantine"] == [form]
    assert set(total) == {"weak", "other"}


def test_where_error_rates_are_wanted_a_quarter_of_a_probe_are_wrong_answers(make_group) -> None:
    def counts(channels: bool) -> dict[str, int]:
        rewarder = Weak()
        watch = Watch(SPEC, rewarder, rate=1.0, channels=channels)
        asyncio.run(drive(watch, rewarder, traffic(make_group, 60)))
        return watch.report()["channels"]["family=sums"]

    with_them, without = counts(True), counts(False)
    assert with_them["wrong"] == 2 * with_them["right"] == 2 * 60
    assert without["wrong"] < without["right"]


def test_a_number_within_the_stated_tolerance_is_no_wrong_answer() -> None:
    loose = {"name": "numeric", "relative": 0.01}
    spec = Spec(name="guard", options={"of": {"name": "hybrid", "rule": loose, "judge": {"name": "exact"}}})
    assert tolerance_for(spec) == Tolerance(Decimal(0), Decimal("0.01"))
    assert tolerance_for(Spec(name="exact")) == Tolerance()
    prompts = [replace(p, answer=str(1000 + i)) for i, p in enumerate(sums(20))]
    watch = Watch(Spec(name="numeric", options={"relative": 0.01}), Weak(), rate=1.0)
    for tolerance, families in (
        (Tolerance(), {"off by one", "another question's answer"}),
        (tolerance_for(spec), set()),
    ):
        found = sentinels(prompts[0], prompts[1:9], suites_for(SPEC), "{}", random.Random(0), tolerance)
        wrong = {item.family for item in found if item.family in ORDINARY and not item.right}
        assert wrong == {"sign flipped"} | families
    for i, p in enumerate(prompts):
        watch.miner.saw(replace(p, answer=str(1000 + 100 * i)), f"It is {1000 + 100 * i}.", 1.0)
    form = watch.miner.suspect()
    assert form
    for variant in watch.miner.variants(form, random.Random(0)):
        gold = Decimal(str(variant.prompt.answer))
        assert abs(Decimal(variant.text.lower().removeprefix("it is ").rstrip(".")) - gold) > gold / 100
