"""Types, scores, shares, figures and evaluation: the small pure parts."""

from __future__ import annotations

import asyncio
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarm import evaluation, metrics, scores
from swarm.errors import ActorError, PromptRefused, StageFailure
from swarm.shares import Shares
from swarm.types import (
    Delta,
    Finish,
    GroupFacts,
    Handle,
    Labels,
    PolicyVersion,
    Prompt,
    Rollout,
    Span,
    Status,
    StepReport,
    Verdict,
    Weights,
)
from tests.fake_crew import FakeCrew, FakeStream


def verdict(name: str, value: float | None, status: Status = Status.TIMEOUT) -> Verdict:
    return Verdict(name, Status.SCORED if value is not None else status, value, "" if value is not None else "slow")


# -- types ------------------------------------------------------------------------------------------------------------


def test_versions_of_another_learner_or_lineage_are_not_comparable() -> None:
    now = PolicyVersion("a", 1, 7)
    assert PolicyVersion("a", 1, 4).lag_behind(now) == 3
    assert PolicyVersion("a", 0, 4).lag_behind(now) is None
    assert PolicyVersion("b", 1, 4).lag_behind(now) is None


@pytest.mark.parametrize("status", [Status.ABSTAINED, Status.TIMEOUT, Status.ERROR])
def test_only_a_scored_verdict_has_a_value_and_it_is_finite(status: Status) -> None:
    with pytest.raises(ValueError, match=r"with value 0\.0"):
        Verdict("x", status, 0.0)
    with pytest.raises(ValueError, match="with value None"):
        Verdict("x", Status.SCORED)
    for value in (math.nan, math.inf):
        with pytest.raises(ValueError, match="not finite"):
            Verdict("x", Status.SCORED, value)


def test_steps_of_a_rollout_follow_its_spans() -> None:
    tokens = np.arange(4, dtype=np.int32)
    spans = (Span(3, 0, 1), Span(5, 1, 4))
    rollout = Rollout(tokens, np.zeros(4, np.float32), spans, "", Finish.STOP, np.ones(4, bool))
    assert rollout.steps.tolist() == [3, 5, 5, 5]


def test_verdicts_are_attached_one_tuple_per_rollout() -> None:
    group = asyncio.run(FakeCrew().generate(Prompt("p", "q"), 0, 0)).ref
    with pytest.raises(ValueError, match="zip"):
        group.with_verdicts([()])
    scored = group.with_verdicts([(verdict("x", 1.0),), (verdict("x", None),)])
    assert [r.verdicts[0].value for r in scored.rollouts] == [1.0, None]
    assert group.rollouts[0].verdicts == ()


# -- scores -----------------------------------------------------------------------------------------------------------


def test_a_reward_is_the_weighted_sum_of_its_verdicts() -> None:
    group = [(verdict("a", 1.0), verdict("b", -2.0)), (verdict("b", 0.0), verdict("a", 3.0), verdict("c", 9.0))]
    assert scores.rewards(group, {"a": 1.0, "b": 0.25}) == (0.5, 3.0)


@pytest.mark.parametrize("status", [Status.ABSTAINED, Status.TIMEOUT, Status.ERROR])
def test_a_missing_value_masks_its_rollout_and_is_never_a_zero(status: Status) -> None:
    group = [(verdict("a", 1.0), verdict("b", None, status)), (verdict("a", 1.0), verdict("b", 1.0))]
    assert scores.rewards(group, {"a": 1.0, "b": 1.0}) == (None, 2.0)


def test_what_is_correct_is_for_those_to_say_who_judge_truth() -> None:
    """Two rewarders of format and style must not make a wrong answer correct, nor a weight a right one wrong."""
    group = [(verdict("exact", right), verdict("format", 1.0), verdict("length", 0.4)) for right in (1.0, 0.0, 0.5)]
    weights = {"exact": 0.5, "format": 1.0, "length": 1.0}
    assert scores.correct(group, weights, {"exact"}) == (True, False, False)
    assert scores.correct(group, {**weights, "exact": 4.0}, {"exact"}) == (True, False, False)
    assert scores.correct(group, weights, ()) == (True, True, True)  # nobody judges truth: the reward is all there is
    assert scores.correct(group, {"format": 0.2}, ()) == (False, False, False)


def test_what_is_correct_is_not_known_without_a_value_and_not_for_those_to_say_who_abstain_on_all() -> None:
    def group(status: Status) -> list[tuple[Verdict, ...]]:
        return [(verdict("a", 1.0), verdict("b", None, status)), (verdict("a", 0.0), verdict("b", None, status))]

    weights = {"a": 1.0, "b": 1.0}
    assert scores.correct(group(Status.ABSTAINED), weights, ("a", "b")) == (True, False)
    assert scores.correct(group(Status.ABSTAINED), weights, ("b",)) == (True, False)
    assert scores.correct(group(Status.ERROR), weights, ("a", "b")) == (None, None)
    assert scores.correct(group(Status.ERROR), weights, ("a",)) == (True, False)  # also where there is no reward


def test_a_rewarder_that_abstains_on_the_whole_group_is_left_out_and_one_that_failed_or_is_absent_is_not() -> None:
    weights = {"a": 1.0, "b": 1.0}

    def group(status: Status) -> list[tuple[Verdict, ...]]:
        return [(verdict("a", 1.0), verdict("b", None, status)), (verdict("a", 0.0), verdict("b", None, status))]

    assert scores.rewards(group(Status.ABSTAINED), weights) == (1.0, 0.0)
    assert scores.rewards(group(Status.ERROR), weights) == (None, None)
    assert scores.rewards([(verdict("a", 1.0),)], weights) == (None,)
    assert scores.rewards([(verdict("a", None, Status.ABSTAINED),)], {"a": 1.0}) == (None,)


def test_the_cause_names_rewarder_status_and_words() -> None:
    assert scores.cause([verdict("a", 1.0), verdict("b", None)]) == "b: timeout: slow"
    assert scores.cause([verdict("a", 1.0)]) == ""


@given(st.lists(st.sampled_from(["exact", "judge"]), max_size=6))
def test_labels_are_distinct_and_the_first_is_the_name(names: list[str]) -> None:
    found = scores.labels(names)
    assert len(set(found)) == len(names)
    assert all(label == name or label.startswith(f"{name}-") for label, name in zip(found, names, strict=True))
    assert scores.labels(["exact", "judge", "exact"]) == ["exact", "judge", "exact-2"]


# -- shares and figures -----------------------------------------------------------------------------------------------


def test_shares_sum_to_one_and_charge_what_ends_in_an_error() -> None:
    shares = Shares()
    with shares.spend("wait"):
        pass
    with pytest.raises(KeyError), shares.spend("step"):
        raise KeyError
    read = shares.read()
    assert set(read) == {"wait", "step", "other"}
    assert sum(read.values()) == pytest.approx(1.0)
    assert min(read.values()) >= 0


def test_length_bias_is_the_ratio_of_means_minus_one_inside_its_interval() -> None:
    rng = np.random.default_rng(1)
    finished = rng.lognormal(3, 0.5, 400)
    bias, low, high = metrics.length_bias(finished[:300], finished)
    assert bias == pytest.approx(finished[:300].mean() / finished.mean() - 1)
    assert low < bias < high
    short = np.sort(finished)[:300]
    assert metrics.length_bias(short, finished)[2] < -0.1
    assert all(math.isnan(figure) for figure in metrics.length_bias([], finished))


def test_the_work_conserving_bound_spreads_all_work_over_all_cores() -> None:
    assert metrics.work_conserving_bound(1000, 50.0, 2) == 40.0
    assert math.isnan(metrics.work_conserving_bound(0, 0.0, 2))


def facts(rewards: tuple[float | None, ...], length: float) -> Handle:
    return Handle(None, GroupFacts("g", 0, "p", "", len(rewards), 1, length, 0, 0, rewards))


def test_step_metrics_leave_out_rollouts_without_a_reward() -> None:
    report = StepReport(3, 4, 40, 30, 1.5, {"learn/loss": 0.25})
    weights = Weights(PolicyVersion("learner", 1, 3), "", "abc", 7)
    line = metrics.step_metrics(1, report, [facts((1.0, None), 4.0), facts((0.0, 0.0), 8.0)], weights, Shares())
    assert (line["step"], line["lineage"], line["digest"], line["learn/loss"]) == (3, 1, "abc", 0.25)
    assert line["reward"] == pytest.approx(1 / 3)
    assert line["mean_length"] == 6.0
    assert metrics.step_metrics(1, report, [facts((None,), 4.0)], weights, Shares())["reward"] is None


def test_step_metrics_tell_how_old_the_labels_of_judges_are() -> None:
    weights, report = Weights(PolicyVersion("learner", 0, 3), "", "abc", 7), StepReport(3, 4, 40, 30, 1.5)

    def line(*labels: Labels | None) -> dict[str, Any]:
        batch = [facts((1.0, 0.0), 4.0) for _ in labels]
        batch = [replace(h, facts=replace(h.facts, labels=found)) for h, found in zip(batch, labels, strict=True)]
        return metrics.step_metrics(0, report, batch, weights, Shares())

    found = line(Labels(2.0, 3), Labels(4.0, 1, stood_in=1), Labels(None, 5, displaced=2))
    assert (found["reward/label_age_mean_s"], found["reward/label_age_max_s"]) == (3.0, 4.0)
    assert found["reward/backlog"] == 5
    assert found["reward/displaced_frac"] == pytest.approx(2 / 6)
    assert found["reward/stand_in_frac"] == pytest.approx(1 / 6)
    assert "reward/label_age_mean_s" not in line(Labels(None))
    assert not [key for key in line(None) if key.startswith("reward/")]


def test_step_metrics_tell_what_a_delta_saves() -> None:
    version, report = PolicyVersion("learner", 0, 3), StepReport(3, 4, 40, 30, 1.5)
    full = Weights(version, "", "abc", 2000)
    assert not [key for key in metrics.step_metrics(0, report, [facts((1.0,), 4.0)], full, Shares()) if "sync/" in key]
    sent = replace(full, delta=Delta("ab", "", 80, changed=10, elements=1000, seconds=0.25))
    line = metrics.step_metrics(0, report, [facts((1.0,), 4.0)], sent, Shares())
    assert (line["sync/changed_frac"], line["sync/changed_elements"]) == (0.01, 10)
    assert (line["sync/delta_bytes"], line["sync/full_bytes"]) == (80, 2000)


# -- evaluation -------------------------------------------------------------------------------------------------------


def test_a_question_that_a_dying_worker_takes_with_it_is_asked_again_but_a_refused_one_is_not() -> None:
    asked: list[tuple[str, int]] = []

    def failing(prompt: Prompt, ticket: int, attempt: int) -> StageFailure | None:
        asked.append((prompt.id, attempt))
        if prompt.id == "h0":
            return PromptRefused("too long")
        return ActorError("actor-0 died") if prompt.id == "h1" and attempt == 0 else None

    outcomes = asyncio.run(evaluation.evaluate(FakeCrew(failing=failing), FakeStream().held_out(3)))
    assert [outcome.failure for outcome in outcomes] == ["too long", "", ""]
    assert sorted(asked) == [("h0", 0), ("h1", 0), ("h1", 1), ("h2", 0)]


def test_an_unanswered_question_counts_as_not_correct_and_says_why() -> None:
    crew = FakeCrew(failing=lambda prompt, *_: ActorError("no power") if prompt.id == "h1" else None)
    outcomes = asyncio.run(evaluation.evaluate(crew, FakeStream().held_out(6), num=4))
    assert [o.prompt.id for o in outcomes] == [f"h{i}" for i in range(6)]
    failed = outcomes[1]
    assert (failed.num_correct, failed.rewards, failed.handle, failed.failure) == (0, (None,) * 4, None, "no power")
    for outcome in outcomes:
        assert outcome.num_correct == sum(r == 1.0 for r in outcome.rewards)
    assert evaluation.accuracy(outcomes) == sum(o.num_correct for o in outcomes) / 24
    counts: list[int] = []
    asyncio.run(evaluation.evaluate(crew, FakeStream().held_out(6), told=lambda so_far: counts.append(len(so_far))))
    assert counts == [1, 2, 3, 4, 5, 6]
    assert math.isnan(evaluation.accuracy([]))
