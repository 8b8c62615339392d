"""Figures that view, summary and plots share."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from run_folders import START, step, usage

from cluster import figures


def usage_event(run_s: float, workers: dict, process: float = START) -> dict:
    return {"event": "usage", "at": process + run_s, "run_s": run_s, "workers": workers}


def test_records_of_a_resumed_run_are_split_by_process_and_the_gap_is_nobodys_time():
    first = [step(n, 3.0 * n) for n in (1, 2)]
    second = [step(n, 3.0 * n, process=START + 500) for n in (3, 4)]  # run_s goes on rising across the restart
    assert [len(part) for part in figures.processes(first + second)] == [2, 2]
    assert figures.wall_seconds(first + second) == 6.0 + 12.0


def test_a_step_taken_again_in_a_new_lineage_counts_with_its_last_record():
    records = [step(1, 1.0), step(2, 2.0, reward=0.1), step(2, 9.0, reward=0.7)]
    assert [(m["step"], m["reward"]) for m in figures.surviving(records)] == [(1, 0.5), (2, 0.7)]


def test_a_rate_leaves_out_the_first_step_whose_beginning_is_unknown():
    assert figures.rate([step(1, 10.0)]) is None
    found = figures.rate([step(1, 10.0), step(2, 13.0), step(3, 16.0)])
    assert found is not None
    assert (found.seconds, found.steps, found.tokens_per_s, found.trained_per_s) == (6.0, 2, 400.0, 300.0)


def test_work_counts_only_between_usage_events():
    metrics = [step(1, 5.0), step(2, 13.0), step(3, 16.0), step(4, 30.0)]
    found = figures.work(metrics, [usage_event(10.0, usage(0.0)), usage_event(20.0, usage(10.0))])
    assert found is not None
    assert (found.seconds, found.trained_tokens, found.tokens) == (10.0, 1800, 2400)
    assert found.cpu_s == pytest.approx({"actor-0": 7.0, "rewarder-0": 1.0, "learner": 8.0})


def test_a_replaced_worker_counts_from_zero_again():
    events = [
        usage_event(t, {"actor-0": {"cpu_s": cpu, "busy_s": cpu}})
        for t, cpu in ((0, 0.0), (2, 2.0), (4, 0.5), (6, 1.5))
    ]
    found = figures.work([], events)
    assert found is not None
    assert found.cpu_s["actor-0"] == pytest.approx(3.5)
    assert found.spent_s["actor-0"]["busy"] == pytest.approx(3.5)


def test_the_time_between_two_processes_of_a_run_is_not_work():
    events = [usage_event(0.0, usage(0.0)), usage_event(4.0, usage(4.0))]
    events += [usage_event(0.0, usage(0.0), START + 900), usage_event(6.0, usage(6.0), START + 900)]
    found = figures.work([], events)
    assert found is not None
    assert found.seconds == 10.0
    assert figures.shares_of(found.spent_s, "actor") == pytest.approx({"busy": 0.7, "idle": 0.25, "paused": 0.05})


def test_without_two_usage_events_there_is_no_work_to_report():
    assert figures.work([step(1, 1.0)], [usage_event(1.0, usage(1.0))]) is None


def test_learner_shares_weigh_processes_by_their_time():
    short = {"at": START + 10, "run_s": 10.0, "learner_shares": {"wait": 1.0}}
    long = {"at": START + 530, "run_s": 30.0, "learner_shares": {"step": 1.0}}
    assert figures.learner_shares([short, long], []) == pytest.approx({"step": 0.75, "wait": 0.25})


def test_usage_shares_read_seconds_and_shares_alike():
    shares = {"actor-0": {"busy": 0.5, "idle": 0.5, "paused": 0.0}}
    assert figures.usage_shares({"shares": shares}, "actor") == shares["actor-0"]
    seconds = {"actor-0": {"busy_s": 3.0, "idle_s": 1.0}}
    assert figures.usage_shares({"workers": seconds}, "actor") == {"busy": 0.75, "idle": 0.25, "paused": 0.0}
    assert figures.usage_shares({"workers": seconds}, "rewarder") is None


def test_mean_lag_is_over_tokens_not_over_steps():
    few, many = (
        step(1, 1.0, tokens=10) | {"learn/lag_mean_steps": 2.0},
        step(2, 2.0, tokens=30) | {"learn/lag_mean_steps": 0.0},
    )
    assert figures.mean_lag([few, many]) == pytest.approx(0.5)
    assert figures.mean_lag([]) is None


@given(st.lists(st.none() | st.floats(-1, 1), max_size=20), st.integers(1, 8))
def test_smoothing_stays_within_what_it_smooths(values, width):
    known = [v for v in values if v is not None]
    for value in figures.smoothed(values, width):
        assert value is None or min(known) - 1e-12 <= value <= max(known) + 1e-12


@pytest.mark.parametrize(
    ("seconds", "shown"), [(0, "0:00"), (59.6, "1:00"), (247, "4:07"), (3723, "1:02:03"), (-3, "0:00")]
)
def test_times_are_shown_as_on_a_clock(seconds, shown):
    assert figures.clock(seconds) == shown
