"""Channels: what evidence says of a rewarder, and what verdicts are stamped with."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rewarders.channels import (
    APPEAL,
    APPEAL_DECIDES,
    APPEAL_PROB,
    RULE,
    Channels,
    Evidence,
    channel_of,
    evidence_of,
    pooled,
    stratum_of,
)
from swarm.config import ChannelsSection, KnownRates
from swarm.types import Prompt, Status, Verdict


def channels(**section):
    return Channels(ChannelsSection(**section))


def verdicts(values, name="judge", **rest):
    return [(Verdict(name, Status.SCORED, value, **rest),) for value in values]


def test_rates_by_hand_are_stamped_and_a_side_that_nobody_knows_stamps_nothing(make_group):
    group = make_group(["4", "5"]).with_verdicts(verdicts([1.0, 0.0]))
    both = channels(rates=[KnownRates(rewarder="judge", false_accept=0.1, false_reject=0.3, trust=1e6)])
    stamped = both.stamp(group)
    found = stamped.rollouts[0].verdicts[0].rates
    assert (found.false_accept, found.false_reject) == pytest.approx((0.1, 0.3), abs=1e-5)
    assert [r.verdicts[0].value for r in stamped.rollouts] == [1.0, 0.0]
    half = channels(rates=[KnownRates(rewarder="judge", false_reject=0.3)])
    assert half.stamp(group).rollouts[0].verdicts[0].rates is None
    other = channels(rates=[KnownRates(rewarder="other", false_accept=0.1, false_reject=0.3)])
    assert other.stamp(group).rollouts[0].verdicts[0].rates is None


def test_gold_teaches_and_a_verdict_is_stamped_with_what_was_known_before_it(make_group):
    made = channels(gold="exact", least=4)
    texts = ["a", "b", "c", "d"]
    both = [
        (Verdict("exact", Status.SCORED, truth), Verdict("judge", Status.SCORED, said))
        for truth, said in ((1.0, 1.0), (1.0, 0.0), (0.0, 0.0), (0.0, 1.0))
    ]
    group = make_group(texts).with_verdicts(both)
    assert all(v.rates is None for r in made.stamp(group).rollouts for v in r.verdicts)
    for _ in range(200):
        last = made.stamp(group)
    gold, judge = last.rollouts[0].verdicts
    assert gold.rates is None
    assert (judge.rates.false_accept, judge.rates.false_reject) == pytest.approx((0.5, 0.5))


def test_soft_values_count_as_their_share_and_others_are_no_evidence():
    made = channels()
    for value in (0.25, 7.0, -1.0):
        made.observe(Verdict("judge", Status.SCORED, value), right=False)
    made.observe(Verdict("judge", Status.TIMEOUT), right=True)
    counts = {key: value for key, value in made.state()["judge"][""].items() if value}
    assert counts == {"wrong": 1.0, "accepted_wrong": 0.25}


def test_a_stratum_without_enough_takes_the_rates_of_all(make_group):
    made = channels(stratify=["family"], least=10, rates=[KnownRates(rewarder="judge", false_accept=0.2, trust=10)])
    for stratum, num, rejected in (("family=a", 30, 30), ("family=b", 3, 0)):
        for i in range(num):
            made.observe(Verdict("judge", Status.SCORED, float(i >= rejected), stratum=stratum), right=True)
    assert made.channel("judge", "family=a").false_reject.mean > 0.95
    assert made.channel("judge", "family=b").false_reject == made.channel("judge").false_reject
    assert made.channel("judge", "family=b").false_accept.observations == 10
    assert made.rates("judge", "family=never") == made.channel("judge").rates


def test_evidence_fades_by_half_in_a_half_life(make_group):
    made = channels(half_life=7.0)
    made.observe(Verdict("judge", Status.SCORED, 1.0), right=False)
    for _ in range(7):
        made.stamp(make_group(["a"]))
    assert made.state()["judge"][""]["wrong"] == pytest.approx(0.5)


def test_workers_pool_without_counting_twice_and_resume():
    workers = [channels(least=1) for _ in range(3)]
    for i, w in enumerate(workers):
        for _ in range(10 * (i + 1)):
            w.observe(Verdict("judge", Status.SCORED, 1.0, stratum="s"), right=bool(i))
    for _ in range(3):
        states = [json.loads(json.dumps(w.state())) for w in workers]
        for i, w in enumerate(workers):
            w.hear(pooled(states[:i] + states[i + 1 :]))
    assert len({w.rates("judge", "s") for w in workers}) == 1
    assert workers[0].channel("judge").false_accept.observations == 10
    assert workers[0].channel("judge").false_reject.observations == 50
    again = channels(least=1)
    again.inherit(workers[1].state())
    again.hear(pooled([workers[0].state(), workers[2].state()]))
    assert again.rates("judge", "s") == workers[1].rates("judge", "s")


def test_a_certificate_is_evidence_and_a_broken_one_is_named(tmp_path):
    path = tmp_path / "certificate.json"
    counts = {"wrong": 100, "accepted_wrong": 10, "right": 50, "rejected_right": 0}
    path.write_text(json.dumps({"channels": {"judge": {"family=a": counts}}}))
    made = channels(certificate=str(path), stratify=["family"])
    assert made.channel("judge", "family=a").false_accept.mean == pytest.approx(10.5 / 101)
    assert made.channel("judge", "family=a").false_reject.observations == 50
    for broken in (
        "{",
        "{}",
        '{"channels": {"judge": 3}}',
        json.dumps({"channels": {"j": {"": counts | {"right": -1}}}}),
    ):
        path.write_text(broken)
        with pytest.raises(ValueError, match=r"certificate .*certificate\.json: cannot be read"):
            channels(certificate=str(path))


@given(
    p0=st.floats(0, 0.4), p1=st.floats(0, 0.6), accuracy=st.floats(0.1, 0.9), t=st.floats(0.6, 1), f=st.floats(0, 0.4)
)
def test_appeals_give_the_rate_that_their_expected_counts_were_made_with(p0, p1, accuracy, t, f):
    """Exact expectations go in; the judge's own errors and the rule's false accepts come off."""
    num, sure, q = 1e8, 1e10, 0.1
    right, wrong = num * accuracy, num * (1 - accuracy)
    rejected_right, rejected_wrong = right * p1, wrong * (1 - p0)
    negatives = rejected_right + rejected_wrong
    evidence = Evidence(
        wrong=sure,
        accepted_wrong=sure * p0,
        positives=num - negatives,
        negatives=negatives,
        appealed=negatives,
        appealed_squares=negatives / q,
        overturned=t * rejected_right + f * rejected_wrong,
    )
    judge = channel_of(Evidence(sure, sure * f, sure, sure * (1 - t)))
    assert channel_of(evidence, judge).false_reject.mean == pytest.approx(p1, abs=2e-3)


def test_the_judges_errors_bias_what_is_not_corrected_as_the_notes_say():
    """True rate 0.3 at accuracy 0.4: 0.289 with a judge that misses 5 %, 0.340 if it also accepts 5 % of wrong ones."""
    for t, f, want in ((0.95, 0.0, 0.289), (0.95, 0.05, 0.340)):
        overturned = t * 12_000 + f * 60_000
        evidence = Evidence(
            positives=28_000, negatives=72_000, appealed=72_000, appealed_squares=720_000, overturned=overturned
        )
        assert channel_of(evidence).false_reject.mean == pytest.approx(want, abs=2e-3)


def test_a_judge_that_tells_nothing_teaches_nothing():
    evidence = Evidence(positives=10, negatives=90, appealed=90, appealed_squares=900, overturned=45)
    useless = channel_of(Evidence(100, 60, 100, 40))
    assert channel_of(evidence, useless).false_reject.observations == 0


def cascade(rule, appeal=None, q=0.5, decides=0.0, value=None):
    parts = {RULE: rule, APPEAL_PROB: q, APPEAL_DECIDES: decides} | ({} if appeal is None else {APPEAL: appeal})
    return (Verdict("cascade", Status.SCORED, rule if value is None else value, parts=parts),)


def test_appeals_are_read_from_the_parts_of_live_verdicts(make_group):
    made = channels()
    rng = np.random.default_rng(0)
    for _ in range(1500):
        lines = []
        for right in rng.random(8) < 0.5:
            rule = float(right and rng.random() > 0.2)
            shown = rule == 0.0 and rng.random() < 0.5
            lines.append(cascade(rule, float(right) if shown else None))
        made.stamp(make_group("abcdefgh").with_verdicts(lines))
    found = made.channel("cascade").false_reject
    low, high = found.interval(0.999)
    assert low < 0.2 < high
    assert high - low < 0.05
    assert made.rates("cascade") is None, "nobody said anything of false accepts"


def test_where_the_appeal_decides_the_rates_are_those_of_the_decision(make_group):
    sure = 1e7
    rates = [
        KnownRates(rewarder="cascade", false_accept=0.1, false_reject=0.4, trust=sure),
        KnownRates(rewarder="cascade/appeal", false_accept=0.2, false_reject=0.25, trust=sure),
    ]
    made = channels(rates=rates)
    group = make_group(["a", "b"]).with_verdicts([cascade(0.0, decides=1.0), cascade(0.0)])
    decided, kept = (r.verdicts[0].rates for r in made.stamp(group).rollouts)
    assert (kept.false_accept, kept.false_reject) == pytest.approx((0.1, 0.4), abs=1e-4)
    # of wrong answers 0.9 are rejected, half of them shown, 0.2 of those accepted; of right ones 0.4 * 0.5 * 0.75 saved
    assert (decided.false_accept, decided.false_reject) == pytest.approx((0.19, 0.25), abs=1e-4)


@given(st.integers(0, 60), st.integers(0, 60), st.integers(0, 60), st.integers(0, 60))
def test_the_lower_bound_of_j_is_below_it_and_rises_with_evidence(a, b, c, d):
    evidence = Evidence(wrong=a + b, accepted_wrong=a, right=c + d, rejected_right=c)
    channel = channel_of(evidence)
    assert channel.j_low() < channel.j
    more = channel_of(evidence.faded(100.0))
    if a + b and c + d:
        assert more.j - more.j_low() < channel.j - channel.j_low()


def test_intervals_cover():
    rng, hits = np.random.default_rng(1), 0
    for k in rng.binomial(100, 0.15, 2000):
        low, high = channel_of(Evidence(wrong=100, accepted_wrong=float(k))).false_accept.interval()
        hits += low <= 0.15 <= high
    assert 0.92 <= hits / 2000 <= 0.98


@pytest.mark.parametrize(
    ("text", "tokens", "stratum"),
    [
        ("so \\boxed{4}", 3, "family=gcd, length<=16, format=boxed, language=ascii"),
        ("```py\nx\n```", 16, "family=gcd, length<=16, format=code, language=ascii"),
        ('{"a": 1}', 17, "family=gcd, length<=32, format=json, language=ascii"),
        ("{broken", 33, "family=gcd, length<=64, format=prose, language=ascii"),
        ("-1,234.5", 1, "family=gcd, length<=16, format=number, language=ascii"),
        ("Ответ: 4", 0, "family=gcd, length<=16, format=prose, language=cyrillic"),
        ("[" * 100_000, 4, "family=gcd, length<=16, format=prose, language=ascii"),
    ],
)
def test_strata(make_group, text, tokens, stratum):
    group = replace(make_group([text]), prompt=Prompt("p", "?", task={"family": "gcd"}))
    rollout = replace(group.rollouts[0], tokens=np.zeros(tokens, np.int32))
    assert stratum_of(["family", "length", "format", "language"], group, rollout) == stratum
    assert stratum_of([], group, rollout) == ""


def test_evidence_that_is_none_is_refused():
    with pytest.raises(ValueError, match="not counts by rewarder and stratum"):
        evidence_of({"judge": {"": {"wibble": 1.0}}})
    with pytest.raises(ValueError, match="more errors than answers"):
        evidence_of({"judge": {"": {"wrong": 1.0, "accepted_wrong": 2.0}}})


def test_a_group_of_an_evaluation_is_stamped_and_teaches_nothing(make_group):
    made = channels(gold="exact", least=1, half_life=1.0)
    both = [(Verdict("exact", Status.SCORED, t), Verdict("judge", Status.SCORED, 1.0)) for t in (1.0, 0.0)]
    group = make_group(["a", "b"]).with_verdicts(both)
    for _ in range(5):
        made.stamp(group)
    before = made.state()
    stamped = made.stamp(replace(group, ticket=-1))
    assert stamped.rollouts[0].verdicts[1].rates is not None
    assert made.state() == before


def test_a_process_that_takes_a_place_goes_on_fading_what_was_seen_there(make_group):
    made, heir = channels(half_life=7.0), channels(half_life=7.0)
    made.observe(Verdict("judge", Status.SCORED, 1.0), right=False)
    heir.observe(Verdict("judge", Status.SCORED, 0.0), right=False)
    heir.inherit(json.loads(json.dumps(made.state())))
    assert heir.state()["judge"][""]["wrong"] == 2.0
    for _ in range(7):
        heir.stamp(make_group(["a"]))
    assert heir.state()["judge"][""]["wrong"] == pytest.approx(1.0)
