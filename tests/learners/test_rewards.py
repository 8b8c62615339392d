"""Verdicts to rewards to advantages, with what is masked left out."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from learners.advantages import ADVANTAGES, group_norm, mean_only
from learners.rewards import Treatment
from learners.truncation import TRUNCATIONS
from swarm.types import Finish, Prompt, Segment, Status, Verdict


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
