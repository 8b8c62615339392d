"""Verdicts to rewards to advantages, with what is masked left out."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from learners.advantages import group_norm
from learners.rewards import centre
from swarm.types import Status, Verdict


def test_a_reward_is_the_weighted_sum_of_the_recipes_verdicts(make_group):
    group = make_group((0.0, 0.0))
    verdicts = [
        (Verdict("a", Status.SCORED, 1.0), Verdict("b", Status.SCORED, 0.5), Verdict("other", Status.SCORED, 9.0)),
        (Verdict("a", Status.SCORED, 0.0), Verdict("b", Status.SCORED, -1.0)),
    ]
    centred = centre(group.with_verdicts(verdicts), {"a": 1.0, "b": 2.0}, group_norm)
    assert centred.rewards == (2.0, -2.0)


def test_a_missing_or_unscored_verdict_masks_the_rollout(make_group):
    group = make_group((1.0, None, 0.0, 0.0))
    silent = replace(group.rollouts[2], verdicts=())
    group = replace(group, rollouts=(*group.rollouts[:2], silent, group.rollouts[3]))
    centred = centre(group, {"exact": 1.0}, group_norm)
    assert centred.rewards == (1.0, None, None, 0.0)
    assert np.array_equal(centred.advantages[[1, 2]], [0, 0])
    assert np.array_equal(centred.advantages[[0, 3]], group_norm(np.array([1.0, 0.0])))


def test_a_group_with_fewer_than_two_rewards_is_flat(make_group):
    for rewards in ((1.0, None, None), (None, None, None)):
        assert centre(make_group(rewards), {"exact": 1.0}, group_norm).is_flat
    assert not centre(make_group((1.0, 0.0, None)), {"exact": 1.0}, group_norm).is_flat
