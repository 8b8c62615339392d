"""The bench of the verifiers: its analysis on made-up results, and once, small, for real."""

from __future__ import annotations

import pytest

from cluster import bench_reward_verifiers
from cluster.bench import Result
from cluster.bench_reward_verifiers import SIZE, TOWERS, Direct, Verifiers, make_groups


def measured(cpu_s: float) -> dict[str, float]:
    return {"verdicts": 400, "cpu_s": cpu_s, "wall_s": cpu_s, "bad": 0, "paid": 0}


def test_arms_are_compared_within_their_round() -> None:
    rounds = [
        {"direct": measured(4), "direct towers": measured(40), "ours": measured(5), "ours towers": measured(5)},
        {"direct": measured(8), "direct towers": measured(80), "ours": measured(8), "ours towers": measured(16)},
    ]
    results = [Result({"what": "math", "round": i}, r) for i, r in enumerate(rounds)]
    results.append(Result({"what": "kills"}, {"kills": 3, "missing": 1, "changed": 0, "retried": 8}))
    found = {f.name: f for f in Verifiers().figures(results)}
    speed = found["math: verdicts per processor second over those of math-verify alone"]
    assert (speed.low, speed.high, speed.holds) == (0.8, 1.0, True)
    lost = found["math: share of the rate lost to 1 % power towers"]
    assert (lost.low, lost.high, lost.holds) == (0.0, 0.5, False)
    assert found["rollouts without a verdict after kills"].holds is False
    assert found["verdicts that kills changed"].holds is True


def test_towers_take_the_place_of_wrong_answers_only() -> None:
    clean, due = make_groups(3)
    groups, same = make_groups(3, towers=4)
    assert due == same
    changed = [
        (i, rollout.text)
        for i, (before, rollout) in enumerate(
            zip((r for g in clean for r in g.rollouts), (r for g in groups for r in g.rollouts), strict=True)
        )
        if before.text != rollout.text
    ]
    assert len(changed) == 4
    assert all(text in TOWERS and due[i] == 0.0 for i, text in changed)


def test_the_library_agrees_with_what_is_due() -> None:
    groups, due = make_groups(0)
    assert Direct().score(groups[:5]) == due[: 5 * SIZE]


@pytest.mark.slow
def test_a_round_and_the_kills_for_real(monkeypatch) -> None:
    for name, num in {"GROUPS": 13, "SLICE": 13, "FEW": 2}.items():
        monkeypatch.setattr(bench_reward_verifiers, name, num)
    bench = Verifiers()
    cells = [{"what": "math", "round": 0}, {"what": "kills", "kills": 2}]
    figures = bench.figures([Result(cell, bench.run(cell)) for cell in cells])
    found = {f.name: f.value for f in figures}
    assert found["rollouts without a verdict after kills"] == 0
    assert found["verdicts that kills changed"] == 0
    assert found["math: right and wrong answers beside them misjudged"] == 0
