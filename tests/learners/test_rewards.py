"""Verdicts to rewards to advantages, with what is masked left out."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from learners.advantages import ADVANTAGES, group_norm, leave_one_out, mean_only
from learners.metrics import reward_metrics
from learners.noise import backward
from learners.rewards import Treatment
from learners.truncation import TRUNCATIONS
from swarm.types import Finish, Prompt, Rates, Segment, Status, Verdict


def centre(group, weights=None, advantage=group_norm, **rest):
    return Treatment(weights or {"exact": 1.0}, advantage, **rest).centre([group])[0]


def first(centred):
    """The advantage of each rollout's first token."""
    return [float(a[0]) for a in centred.advantages]


def test_a_reward_is_the_weighted_sum_of_the_recipes_verdicts(make_group):
    group = make_group((0.0, 0.0))
    verdicts = [
        (Verdict("a", Status.SCORED, 1.0), Verdict("b", Status.SCORED, 0.5), Verdict("other", Status.SCORED, 9.0)),
        (Verdict("a", Status.SCORED, 0.0), Verdict("b", Status.SCORED, -1.0)),
    ]
    assert centre(group.with_verdicts(verdicts), {"a": 1.0, "b": 2.0}).rewards == (2.0, -2.0)


def test_a_missing_or_unscored_verdict_masks_the_rollout(make_group):
    group = make_group((1.0, None, 0.0, 0.0))
    silent = replace(group.rollouts[2], verdicts=())
    group = replace(group, rollouts=(*group.rollouts[:2], silent, group.rollouts[3]))
    centred = centre(group, advantage=mean_only)
    assert centred.rewards == (1.0, None, None, 0.0)
    assert first(centred) == [0.5, 0.0, 0.0, -0.5]


def test_an_advantage_is_given_to_every_token_of_its_rollout(make_group):
    group = make_group((1.0, 0.0), lengths=(3, 5))
    found = centre(group, advantage=mean_only).advantages
    assert [a.tolist() for a in found] == [[0.5] * 3, [-0.5] * 5]


def test_a_group_with_fewer_than_two_rewards_is_flat(make_group):
    for rewards in ((1.0, None, None), (None, None, None), (1.0,)):
        assert centre(make_group(rewards)).is_flat
    assert not centre(make_group((1.0, 0.0, None))).is_flat


@pytest.mark.parametrize("name", sorted(ADVANTAGES))
def test_every_advantage_takes_batches_with_groups_that_cannot_be_centred(make_group, name):
    groups = [make_group((None, None)), make_group((1.0, 0.0, 1.0)), make_group((1.0,)), make_group((1.0, 1.0))]
    found = Treatment({"exact": 1.0}, ADVANTAGES[name]).centre(groups)
    assert found[0].is_flat
    assert found[2].is_flat
    assert all(np.isfinite(a).all() for item in found for a in item.advantages)


def test_truncated_rollouts_are_treated_before_centring(make_group):
    group = make_group((1.0, 1.0, 0.0))
    ends = (Finish.LENGTH, Finish.STOP, Finish.STOP)
    group = replace(group, rollouts=tuple(replace(r, finish=f) for r, f in zip(group.rollouts, ends, strict=True)))
    masked = centre(group, advantage=mean_only, truncation=TRUNCATIONS["mask"], max_tokens=8)
    assert masked.rewards == (None, 1.0, 0.0)
    assert first(masked) == [0.0, 0.5, -0.5]
    zeroed = centre(group, advantage=mean_only, truncation=TRUNCATIONS["zero"], max_tokens=8)
    assert zeroed.rewards == (0.0, 1.0, 0.0)


def test_a_length_penalty_is_a_component_of_its_own(make_group):
    group = make_group((1.0, 1.0, 1.0), lengths=(8, 2, 2))
    group = replace(group, rollouts=tuple(replace(r, finish=Finish.STOP) for r in group.rollouts))
    options = {"truncation": TRUNCATIONS["soft_overlong"], "max_tokens": 8, "penalises": True}
    assert first(centre(group, advantage=ADVANTAGES["gdpo"], **options))[0] < 0
    assert centre(group, advantage=ADVANTAGES["gdpo"]).is_flat


def test_a_family_is_remembered_by_its_running_mean(make_group):
    treatment = Treatment({"exact": 1.0}, ADVANTAGES["receiver_baseline"])

    def seen(rewards, family):
        group = replace(make_group(rewards), prompt=Prompt("p", "?", task={"family": family}))
        return treatment.centre([group])[0]

    seen((0.0, 0.0), "a")
    assert treatment.baselines == {"a": 0.0}
    assert not seen((1.0, 1.0), "a").is_flat
    assert treatment.baselines == {"a": pytest.approx(0.2)}
    seen((1.0, 1.0), "b")
    assert treatment.baselines["b"] == 1.0


def test_judged_steps_reach_the_tokens_they_are_of(make_group):
    group = make_group((0.0, 0.0), lengths=(4, 4))
    judged = Verdict("exact", Status.SCORED, 0.0, segments=(Segment(0, 2, 0.5), Segment(2, 4, -0.5)))
    plain = Verdict("exact", Status.SCORED, 0.0)
    found = centre(group.with_verdicts([(judged,), (plain,)]), advantage=ADVANTAGES["pure"]).advantages[0]
    assert found[0] == found[1]
    assert found[2] == found[3]
    assert found[0] == pytest.approx(-0.5, abs=0.01)


def test_a_cut_rollout_that_earns_nothing_is_worth_what_a_wrong_one_is(make_group):
    group = make_group((1.0, 1.0, 0.0, 0.0))
    ends = (Finish.LENGTH, Finish.STOP, Finish.STOP, Finish.STOP)
    group = replace(group, rollouts=tuple(replace(r, finish=f) for r, f in zip(group.rollouts, ends, strict=True)))
    found = first(centre(group, advantage=ADVANTAGES["gdpo"], truncation=TRUNCATIONS["zero"], max_tokens=8))
    assert found[0] == found[2] == found[3] < found[1]


def test_a_prompt_counts_the_same_whatever_its_number_of_rollouts(make_group):
    """The budget of `gvm` is there to reduce variance, not to change what is maximised."""
    groups = [make_group((1.0, 0.0) * 4, 1, lengths=(2,) * 8), make_group((1.0, 0.0), 2, lengths=(2, 2))]
    found = Treatment({"exact": 1.0}, mean_only, group_size=4).centre(groups)
    sums = [sum(abs(float(a[0])) for a in item.advantages) for item in found]
    assert sums[0] == sums[1] == 2.0


def noisy(make_group, values, rates, seed=0, **rest):
    """A group whose verdicts carry these rates, one pair each (None: none)."""
    group = make_group(values, seed, **rest)
    verdicts = [
        (replace(r.verdicts[0], rates=None if pair is None else Rates(*pair)),)
        for r, pair in zip(group.rollouts, rates, strict=True)
    ]
    return group.with_verdicts(verdicts)


def test_verdicts_are_corrected_before_weights_are_summed_and_rewards_stay_as_given(make_group):
    group = make_group((0.0, 0.0))
    verdicts = [
        (Verdict("a", Status.SCORED, 1.0, rates=Rates(0.1, 0.3)), Verdict("b", Status.SCORED, 0.5)),
        (Verdict("a", Status.SCORED, 0.0, rates=Rates(0.1, 0.3)), Verdict("b", Status.SCORED, -1.0)),
    ]
    treatment = Treatment({"a": 2.0, "b": 1.0}, mean_only, noise=backward)
    (centred,) = treatment.centre([group.with_verdicts(verdicts)])
    assert centred.rewards == (2.5, -1.0)
    corrected = 2 * 1.5 + 0.5, 2 * (-0.1 / 0.6) - 1.0
    assert first(centred) == pytest.approx([c - np.mean(corrected) for c in corrected])
    assert treatment.baselines[""] == pytest.approx(0.75)


def test_the_audit_compares_with_the_same_rule_on_verdicts_as_given(make_group):
    groups = [noisy(make_group, (1.0, 0.0), [(0.1, 0.3)] * 2), noisy(make_group, (1.0, 0.0), [(0.0, 0.0)] * 2, 1)]
    treatment = Treatment({"exact": 1.0}, leave_one_out, noise=backward)
    treatment.centre(groups)
    assert treatment.audit.change_max == pytest.approx(1 / 0.6 - 1)
    assert treatment.audit.change_mean == pytest.approx((1 / 0.6 - 1) / 2)
    assert 0.9 < treatment.audit.cosine < 1.0
    metrics = reward_metrics(treatment.centre(groups), treatment)
    assert metrics["learn/noise_noop"] == 0.0
    assert metrics["learn/noise_j_min"] == pytest.approx(0.6)
    assert metrics["learn/noise_rated_frac"] == 1.0


@pytest.mark.parametrize("rates", [None, (0.1, 0.3)])
def test_a_correction_that_changes_nothing_is_seen(make_group, rates):
    """No rates, or a z-score over a group with one pair of them (which recipes are refused)."""
    treatment = Treatment({"exact": 1.0}, partial(group_norm, eps=1e-6), noise=backward)
    centred = treatment.centre([noisy(make_group, (1.0, 0.0, 1.0), [rates] * 3)])
    found = reward_metrics(centred, treatment)
    assert found["learn/noise_noop"] == 1.0
    assert found["learn/noise_cosine"] == pytest.approx(1.0)
    assert set(reward_metrics(centred, Treatment({"exact": 1.0}, group_norm))) <= {"learn/reward_debiased_mean"}


def test_judged_rollouts_count_for_those_of_their_length(make_group):
    group = make_group((1.0, 0.0, None, 1.0), lengths=(8, 8, 8, 2))
    plain = Treatment({"exact": 1.0}, mean_only).centre([group])[0]
    treatment = Treatment({"exact": 1.0}, mean_only, reweighs=True)
    found = treatment.centre([group])
    assert first(found[0]) == pytest.approx([1.5 * first(plain)[0], 1.5 * first(plain)[1], 0.0, first(plain)[3]])
    metrics = reward_metrics(found, treatment)
    assert metrics["learn/reward_reweighed_mean"] == pytest.approx((1.5 + 1.0) / 4)
    assert metrics["learn/reward_weight_max"] == 1.5


def test_a_cut_rollout_that_is_masked_is_no_failure(make_group):
    group = make_group((1.0, 0.0, 1.0), lengths=(8, 8, 8))
    group = replace(group, rollouts=(replace(group.rollouts[0], finish=Finish.LENGTH), *group.rollouts[1:]))
    treatment = Treatment({"exact": 1.0}, mean_only, truncation=TRUNCATIONS["mask"], max_tokens=8, reweighs=True)
    assert treatment.centre([group])[0].rewards[0] is None
    assert treatment.weight(group.rollouts[1]) == 1.0


def test_what_is_remembered_comes_back(make_group):
    def fresh():
        return Treatment({"exact": 1.0}, ADVANTAGES["running_std"], noise=backward, reweighs=True)

    def batch(seed):
        return [noisy(make_group, (1.0, 0.0, None, 1.0), [(0.1, 0.2)] * 4, seed), make_group((0.5, 0.0), seed + 1)]

    whole, interrupted = fresh(), fresh()
    for seed in range(3):
        whole.centre(batch(seed))
        interrupted.centre(batch(seed))
    resumed = fresh()
    resumed.restore(json.loads(json.dumps(interrupted.state())))
    for a, b in zip(whole.centre(batch(9)), resumed.centre(batch(9)), strict=True):
        assert all(np.array_equal(x, y) for x, y in zip(a.advantages, b.advantages, strict=True))
    assert resumed.state() == whole.state()
    assert whole.variance is not None


@pytest.mark.parametrize("name", ["batch_std", "running_std"])
def test_a_scale_takes_one_pair_of_rates_off_again_which_is_why_recipes_with_it_are_refused(make_group, name):
    advantage = partial(ADVANTAGES[name], **({"eps": 0.0} if name == "batch_std" else {}))
    plain, changed = Treatment({"exact": 1.0}, advantage), Treatment({"exact": 1.0}, advantage, noise=backward)
    for seed, values in enumerate([(1.0, 0.0, 1.0), (0.0, 0.0, 1.0), (1.0, 0.5, 0.0)]):
        (a,), (b,) = (t.centre([noisy(make_group, values, [(0.1, 0.3)] * 3, seed)]) for t in (plain, changed))
        assert first(a) == pytest.approx(first(b), abs=1e-12)


def test_what_a_correction_cannot_do_is_news_once(make_group):
    def centred(treatment, *rates):
        treatment.centre([noisy(make_group, (1.0, 0.0, 1.0), rates)])
        return set(treatment.news)

    treatment = Treatment({"exact": 1.0}, leave_one_out, noise=backward)
    assert centred(treatment, None, None, None) == {"no rates"}
    assert centred(treatment, None, None, None) == set()
    assert centred(treatment, (0.1, 0.3), (0.1, 0.3), (0.1, 0.3)) == set()
    assert centred(treatment, (0.1, 0.3), (0.6, 0.6), (0.1, 0.3)) == {"no signal"}
    assert "J = -0.20" in treatment.news["no signal"]
    assert "exact" in treatment.news["no signal"]
    resumed = Treatment({"exact": 1.0}, leave_one_out, noise=backward)
    resumed.restore(json.loads(json.dumps(treatment.state())))
    assert centred(resumed, (0.1, 0.3), (0.6, 0.6), (0.1, 0.3)) == set()
    scored = Treatment({"exact": 1.0}, partial(group_norm, eps=1e-6), noise=backward)
    assert centred(scored, (0.0, 0.0), (0.0, 0.0), (0.0, 0.0)) == set(), "there is nothing to correct"
    assert centred(scored, (0.1, 0.3), (0.1, 0.3), (0.1, 0.3)) == {"no effect"}


def test_a_rollout_whose_rates_leave_nothing_is_left_out_of_its_group(make_group):
    group = noisy(make_group, (1.0, 0.0, 1.0), [(0.0, 0.0), (0.0, 0.0), (0.6, 0.6)])
    (centred,) = Treatment({"exact": 1.0}, leave_one_out, noise=backward).centre([group])
    assert first(centred) == [1.0, -1.0, 0.0]
    assert centred.rewards == (1.0, 0.0, 1.0)


def test_the_mean_reward_without_its_rewarders_errors(make_group):
    pairs = [(0.1, 0.3)] * 2 + [(0.0, 0.5)] * 2
    treatment = Treatment({"exact": 2.0}, mean_only)
    found = reward_metrics(treatment.centre([noisy(make_group, (1.0, 0.0, 1.0, 0.0), pairs)]), treatment)
    want = 2.0 * np.mean([0.9 / 0.6, -0.1 / 0.6, 2.0, 0.0])
    assert found == {"learn/reward_debiased_mean": pytest.approx(want)}
    for rates in (None, (0.5, 0.5)):
        group = noisy(make_group, (1.0, 0.0), [(0.1, 0.1), rates])
        assert reward_metrics(treatment.centre([group]), treatment) == {}
