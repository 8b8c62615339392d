"""What the driver is told of a group."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from cluster.workers import labels_of, parcel
from rewarders.backlog import DISPLACED
from rewarders.stand_in import STAND_IN
from swarm.types import Finish, Group, Labels, Prompt, Rollout, Span, Status, Verdict


def group(*verdicts: Verdict) -> Group:
    """A rollout for each verdict, beside one of a rule."""
    tokens, logprobs, mask = np.array([1], np.int32), np.zeros(1, np.float32), np.ones(1, bool)
    rule = Verdict("rule", Status.SCORED, 1.0, seconds=50.0)
    rollout = Rollout(tokens, logprobs, (Span(0, 0, 1),), "x", Finish.STOP, mask)
    rollouts = tuple(replace(rollout, verdicts=(rule, verdict)) for verdict in verdicts)
    return Group("0.0", 0, 0, Prompt("p", "?"), np.array([1], np.int32), rollouts, "learner", 0, 1.0, False)


def test_a_groups_label_age_is_that_of_its_oldest_value_from_a_judge() -> None:
    fresh = Verdict("judge", Status.SCORED, 1.0, seconds=1.0, waited_s=0.5)
    old = replace(fresh, waited_s=2.0)
    later = Verdict("judge", Status.ABSTAINED, cause=f"{DISPLACED} (8 newer groups wait)", waited_s=9.0)
    inside = Verdict("gate", Status.ABSTAINED, cause=f"then: {DISPLACED} (8 newer groups wait)", waited_s=9.0)
    standing = replace(fresh, parts={f"then.{STAND_IN}": 1.0})
    assert labels_of(group(fresh, old, later, inside, standing), 4) == Labels(3.0, 4, displaced=2, stood_in=1)
    assert labels_of(group(later), 0).age_s is None


def test_there_are_no_labels_before_there_are_verdicts() -> None:
    made = group(Verdict("judge", Status.SCORED, 1.0))
    unscored = replace(made, rollouts=tuple(replace(r, verdicts=()) for r in made.rollouts))
    assert parcel(unscored, {})[1].labels is None
    assert parcel(made, {"judge": 1.0}, backlog=3)[1].labels == Labels(None, 3)
