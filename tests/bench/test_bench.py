"""The frame of the benches, with a bench that costs nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from cluster import bench, bench_child, bench_headlines, bench_report, cli
from cluster.bench import Bench, Figure, carry_out
from cluster.benches import BENCHES
from cluster.statistics import median_interval
from swarm.errors import ConfigError

ROOT = Path(__file__).parent.parent.parent


class Tiny(Bench):
    name = "some/tiny"
    goal = "twice as fast"
    wall = ("1 min", "10 s")

    def __init__(self, fails_at: int | None = None) -> None:
        self.ran: list[int] = []
        self.fails_at = fails_at

    def cells(self, quick):
        return [{"arm": arm, "seed": seed} for seed in range(2 if quick else 6) for arm in ("a", "b")]

    def run(self, cell):
        if len(self.ran) == self.fails_at:
            raise KeyboardInterrupt
        self.ran.append(cell["seed"])
        return {"s": (2.5 if cell["arm"] == "a" else 1.0) + cell["seed"] / 100}

    def figures(self, results):
        times = {(r.cell["arm"], r.cell["seed"]): r.values["s"] for r in results}
        ratios = [times["a", seed] / times["b", seed] for seed in {r.cell["seed"] for r in results}]
        return [
            Figure.of("speed", ratios, ">= 2", "a over b"),
            Figure.of("seconds", [v for (arm, _), v in times.items() if arm == "a"]),
            Figure.missing("warmth", "<= 3", "no thermometer"),
        ]

    def plot(self, results, folder):
        (folder / "tiny.png").write_bytes(b"png")
        return [folder / "tiny.png"]


def run(tiny, out, quick=False, fresh=False):
    said: list[str] = []
    path = carry_out(tiny, quick=quick, out=out, fresh=fresh, say=said.append)
    return json.loads(path.read_text()), said


def test_a_bench_writes_figures_cells_and_where_it_ran(tmp_path):
    result, said = run(Tiny(), tmp_path)
    speed, seconds, warmth = result["figures"]
    assert speed["holds"]
    assert speed["low"] <= speed["value"] <= speed["high"]
    assert (seconds["goal"], seconds["holds"]) == ("", None)
    assert (warmth["value"], warmth["holds"], warmth["note"]) == (None, None, "no thermometer")
    assert len(result["cells"]) == 12
    assert result["machine"]["cores"] >= 1
    assert "python" in result["versions"]
    assert result["threads"] == 2
    assert result["plots"] == ["tiny.png"]
    assert any("speed" in text and "holds" in text for text in said)
    assert "about 1 min" in said[1]


def test_a_bench_that_was_stopped_goes_on_after_its_last_cell(tmp_path):
    first = Tiny(fails_at=5)
    with pytest.raises(KeyboardInterrupt):
        run(first, tmp_path)
    cells = tmp_path / "some/tiny.cells.jsonl"
    with open(cells, "a") as file:
        file.write('{"cell": {"arm": "b", "se')  # a kill cuts a line short
    second = Tiny()
    result, _ = run(second, tmp_path)
    assert (len(first.ran), len(second.ran)) == (5, 7)
    assert result["cells"] == sorted(result["cells"], key=lambda c: (c["cell"]["seed"], c["cell"]["arm"]))
    assert not cells.exists()
    third = Tiny()
    run(third, tmp_path)
    assert len(third.ran) == 12  # a finished bench starts anew


def test_fresh_forgets_what_was_measured_and_quick_keeps_its_own_cells(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run(Tiny(fails_at=3), tmp_path)
    quick = Tiny()
    result, _ = run(quick, tmp_path, quick=True)
    assert result["quick"]
    assert len(quick.ran) == 4
    whole = Tiny()
    run(whole, tmp_path, fresh=True)
    assert len(whole.ran) == 12


def test_cells_of_another_machine_are_not_mixed_in(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run(Tiny(fails_at=3), tmp_path)
    cells = tmp_path / "some/tiny.cells.jsonl"
    records = [json.loads(text) for text in cells.read_text().splitlines()]
    records[1]["machine"]["cpu"] = "Z80"
    cells.write_text("".join(json.dumps(r) + "\n" for r in records))
    with pytest.raises(ConfigError, match=r"Z80.*--fresh"):
        run(Tiny(), tmp_path)


def test_a_bench_runs_once_at_a_time(tmp_path):
    class Nested(Tiny):
        def run(self, cell):
            return run(Tiny(), tmp_path)[0]

    with pytest.raises(ConfigError, match="another process"):
        run(Nested(), tmp_path)


def test_quick_results_are_never_the_committed_ones(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run(Tiny(), None, quick=True)
    assert (tmp_path / "runs/bench/some/tiny.json").exists()


@pytest.mark.parametrize(
    ("samples", "goal", "holds"), [([2.0], ">= 2", True), ([2.0], "<= 1.9", False), ([0.7], "<= 0.7", True)]
)
def test_goals_are_judged_by_the_median(samples, goal, holds):
    assert Figure.of("x", samples, goal).holds is holds


def test_a_goal_that_cannot_be_read_is_refused():
    with pytest.raises(ValueError, match="wanted"):
        Figure.of("x", [1.0], "about 3")


@given(st.integers(6, 60))
def test_the_interval_of_a_median_covers_it_and_no_narrower_one_does(num):
    median, low, high = median_interval([float(i) for i in range(num)])
    drop = int(low)
    assert high == num - 1 - drop
    assert low <= median <= high
    assert 1 - 2 * stats.binom.cdf(drop, num, 0.5) >= 0.95
    assert 1 - 2 * stats.binom.cdf(drop + 1, num, 0.5) < 0.95 + 1e-9


def test_few_values_have_their_range_for_an_interval():
    assert median_interval([3.0, 1.0, 2.0]) == (2.0, 1.0, 3.0)
    with pytest.raises(ValueError, match="no values"):
        median_interval([])


def test_a_cell_apart_runs_in_a_process_of_its_own_and_its_chatter_is_kept_out():
    with bench_child.Child("tests.bench.chatty", threads=1) as child:
        assert child.ask({"x": 2}) == {"x": 4, "threads": "1"}
        peak = child.ask({"x": 3, "bytes": 50 << 20})["peak_bytes"]
        assert 50 << 20 <= peak < 200 << 20
        with pytest.raises(RuntimeError, match="no such number"):
            child.ask({"x": -1})


def test_the_report_is_what_the_committed_results_give():
    assert (ROOT / bench_report.REPORT).read_text() == bench_report.report(ROOT / bench.RESULTS)


def test_so_is_the_readmes_table_of_rewards():
    text = (ROOT / bench_headlines.README).read_text()
    assert text == bench_headlines.written(text, ROOT / bench.RESULTS)


def test_every_bench_of_rewards_is_in_that_table(tmp_path):
    rows = bench_headlines.headlines(tmp_path).splitlines()[2:]
    shown = {name for name, _, _ in bench_headlines.HEADLINES}
    assert rows == [
        f"| not run yet | | | | | | {name} |" for name in dict.fromkeys(n for n, _, _ in bench_headlines.HEADLINES)
    ]
    assert {name for name in BENCHES if name.startswith("reward/")} - shown == {
        "reward/shaping",
        "reward/step-size",
        "reward/group-flips",
    }


def test_the_report_names_misses_and_what_could_not_be_measured(tmp_path):
    class Slow(Tiny):
        def run(self, cell):
            return {"s": 1.0}

    run(Slow(), tmp_path)
    text = bench_report.report(tmp_path)
    assert "| speed (a over b) | 1 | 1 to 1 | >= 2 | **no** |" in text
    assert "| warmth | not measured (no thermometer) | | <= 3 | |" in text
    assert "![tiny.png](tests/bench/results/some/tiny.png)" in text


def test_the_command_lists_benches_with_wall_time_and_goal():
    done = CliRunner().invoke(cli.group, ["bench"])
    assert done.exit_code == 0
    for name, kind in BENCHES.items():
        assert kind.name == name
        assert name in done.output
        assert kind.goal in done.output
        assert kind.wall[0] in done.output
    listed = json.loads(CliRunner().invoke(cli.group, ["bench", "--json"]).output)
    assert [b["name"] for b in listed] == list(BENCHES)


def test_an_unknown_bench_is_one_line():
    done = CliRunner().invoke(cli.group, ["bench", "learn/sped"])
    assert done.exit_code == 2
    assert 'did you mean "learn/speed"' in done.output
