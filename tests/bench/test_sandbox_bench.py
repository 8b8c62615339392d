"""The bench of the sandbox: its analysis on made-up results, and once, small."""

from __future__ import annotations

import json

import pytest

from cluster.bench import Result, carry_out
from cluster.bench_reward_sandbox import Sandbox


def test_the_figures_compare_what_ran_next_to_each_other() -> None:
    cells = {cell["what"]: cell for cell in Sandbox().cells(quick=True)}
    made = {
        "start": {"ours_ms": [50.0, 90.0, 40.0], "bare_ms": [10.0, 20.0, 15.0]},
        "verdicts": {"ours_s": [2.0], "bare_s": [4.0]},
        "recovery": {"before": [50, 40], "after": [40, 36], "not_zero": [0, 1]},
        "kills": {"asked": 64, "kills": 5, "lost": 1, "zeros": 0, "retried": 7},
    }
    results = [Result(cells[what], {"bubblewrap": True} | values) for what, values in made.items()]
    found = {figure.name: figure for figure in Sandbox().figures(results)}
    assert found["ms that a sandbox takes more than a bare subprocess"].value == 40.0
    assert found["verdicts/s per core, 20 tests"].value == 8.0
    assert found["verdicts/s over the bare subprocesses', 20 tests"].value == 2.0
    after = next(figure for name, figure in found.items() if "hostile programs, over before" in name)
    assert (after.value, after.holds) == (pytest.approx(0.85), False)
    assert found["hostile programs that were not scored 0"].holds is False
    assert found["verdicts lost to killed sandboxes, of the rollouts asked"].value == 1
    assert found["right programs scored 0 beside kills"].holds


@pytest.mark.slow
def test_the_bench_runs(tmp_path) -> None:
    path = carry_out(Sandbox(), quick=True, out=tmp_path, fresh=False, say=lambda _: None)
    figures = {figure["name"]: figure for figure in json.loads(path.read_text())["figures"]}
    assert all(figure["value"] is not None for figure in figures.values())
    assert figures["right programs scored 0 beside kills"]["holds"]
