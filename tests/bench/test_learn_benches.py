"""The learner's benches: their analysis on made-up results, and each once, small, with a random model."""

from __future__ import annotations

import json

import pytest

from cluster import bench_learn, bench_upkeep
from cluster.bench import Result, carry_out
from tests.cluster.small import make_model


def values(**changes):
    made = {
        "plain_rows": 8,
        "same_budget_rows": 64,
        "peak_bytes": {"ours": [3e9], "plain": [3e9], "by_group": [6e9], "same_budget": [9e9]},
        "tried_s": {"8": 1.0},
        "gradient_difference": 1e-6,
        "tokens": 1024,
        "plain_seconds": [30.0, 33.0, 60.0],
        "ours_seconds": [10.0, 11.0, 12.0],
        "plain_cpu_s": [60.0, 60.0, 60.0],
        "ours_cpu_s": [20.0, 20.0, 20.0],
    }
    return made | changes


def test_speed_compares_steps_that_ran_next_to_each_other():
    bench = bench_learn.Speed()
    cell = {"dtype": "float32", "shape": "48 + 16", "repeats": 3}
    found = {f.name: f for f in bench.figures([Result(cell, values())])}
    speed = found["tokens/s over plain, 48 + 16, float32"]
    assert (speed.value, speed.low, speed.high, speed.holds) == (3.0, 3.0, 5.0, True)
    assert found["peak memory over plain's at our budget, 48 + 16, float32"].value == pytest.approx(1 / 3)
    assert found["peak memory over fastest plain's, 48 + 16, float32"].value == 1.0
    off = bench.figures([Result(cell, values(gradient_difference=0.1))])[-1]
    assert off.holds is False


def test_bfloat16_without_its_instructions_is_said_not_to_be_measured(monkeypatch):
    monkeypatch.setattr(bench_learn, "native_bfloat16", lambda: False)
    bench = bench_learn.Speed()
    cell = next(c for c in bench.cells(quick=True) if c["dtype"] == "bfloat16")
    (figure,) = bench.figures([Result(cell, bench.run(cell))])
    assert figure.value is None
    assert figure.goal == ">= 1.8"
    assert "no bfloat16" in figure.note


def test_a_checkpoint_is_weighed_against_the_steps_between_two():
    made = {"step_s": [10.0, 10.0], "capture_s": [1.0, 6.0], "beside_s": [11.0, 30.0], "wait_s": [2.0, 4.0], "bytes": 7}
    share = bench_upkeep.Checkpoint().figures([Result({}, made)])[0]
    assert share.low == pytest.approx(5 / 505)  # 1 + 2 * (11 - 10) + 2
    assert share.high == pytest.approx(50 / 550)  # 6 + 2 * (30 - 10) + 4
    assert share.holds is False


@pytest.mark.slow
def test_the_benches_run_on_a_small_model(tmp_path, monkeypatch):
    """Both arms of `learn/speed` have one gradient, and a delta gives the weights that it was made of."""
    model = make_model(tmp_path / "model")
    monkeypatch.setattr(bench_learn, "MODEL", str(model))
    monkeypatch.setattr(bench_upkeep, "MODEL", str(model))
    shape = {"groups": 2, "completion": 5, "lengths": "lognormal", "rows": (3,)}
    monkeypatch.setattr(bench_learn, "SHAPES", {"small": shape})
    monkeypatch.setattr(bench_learn, "GOALS", {("float32", "small"): ">= 0"})
    for kind in (bench_learn.Speed, bench_upkeep.Checkpoint, bench_upkeep.Delta, bench_upkeep.Pause):
        monkeypatch.setattr(kind, "apart", False)  # a process of its own would not see the small model
        path = carry_out(kind(), quick=True, out=tmp_path, fresh=False, say=lambda _: None)
        figures = {f["name"]: f for f in json.loads(path.read_text())["figures"]}
        assert all(f["value"] is not None for f in figures.values())
        if kind is bench_learn.Speed:
            assert figures["gradient off plain's, small, float32"]["holds"]
