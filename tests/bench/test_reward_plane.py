"""The analysis of `reward/judge_plane`, on made-up measurements."""

from __future__ import annotations

from typing import Any

from cluster.bench import Result
from cluster.bench_reward_plane import ARMS, BACKLOG, SEEDS, JudgePlane

AGES = {"label_age_mean_s": 2.5, "label_age_max_s": 4.0}
SPEEDS = {"no judge": 500.0, "judge": 480.0, "overloaded": 450.0, "impatient": 500.0}
IDLE = {"no judge": 0.05, "judge": 0.06, "overloaded": 0.15, "impatient": 0.05}


def measured(arm: str, **more: Any) -> dict[str, Any]:
    found = {"tokens_per_s": SPEEDS[arm], "engine_idle_frac": IDLE[arm], "learner_waits_frac": 0.1, "steps": 30}
    return found | {"backlog": 3, "displaced_frac": 0.0} | AGES | more


def test_arms_are_compared_with_no_judge_at_their_own_lag_and_seed() -> None:
    bench = JudgePlane()
    cells = bench.cells(quick=False)
    assert len(cells) == len(SEEDS) * len(ARMS)
    late = {"label_age_mean_s": None, "label_age_max_s": None}
    results = [Result(c, measured(c["arm"], **(late if c["arm"] == "impatient" else {}))) for c in cells]
    found = {f.name: f for f in bench.figures(results)}
    assert len(found) == len(bench.figures(results))
    kept = {name: f for name, f in found.items() if name.endswith("generation against no judge")}
    assert {name: (f.value, f.holds) for name, f in kept.items()} == {
        "max_lag 8, judge: generation against no judge": (0.96, True),
        "max_lag 8, overloaded: generation against no judge": (0.9, False),
        "max_lag 1, judge: generation against no judge": (0.96, None),
        "max_lag 1, impatient: generation against no judge": (1.0, True),
    }
    waits = {name: f.holds for name, f in found.items() if name.endswith("for the engine than without")}
    assert waits == {
        "max_lag 8, judge: more time with nothing to do for the engine than without": True,
        "max_lag 8, overloaded: more time with nothing to do for the engine than without": False,
        "max_lag 1, judge: more time with nothing to do for the engine than without": None,
        "max_lag 1, impatient: more time with nothing to do for the engine than without": True,
    }
    assert found["max_lag 8, judge: max label age, s"].value == 4.0
    assert found["max_lag 1, impatient: mean label age, s"].value is None
    assert found["max_lag 8, overloaded: most groups that waited"].goal == f"<= {BACKLOG}"
    assert found["max_lag 8, overloaded: most groups that waited"].holds
