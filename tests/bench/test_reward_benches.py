"""The benches of rewards: what they measure on few samples, and their analysis."""

from __future__ import annotations

import tomllib
from pathlib import Path

import numpy as np
import pytest

from cluster import bench_reward_ensembles as ensembles
from cluster import bench_reward_shaping as shaping
from cluster import bench_reward_training as training
from cluster.bench import Result
from cluster.bench_rules import RECIPES, toml
from cluster.check import check
from rewarders.shaping import as_rollout
from swarm.schema import write_groups
from swarm.types import Group, Prompt, Status, Verdict


def test_members_are_fooled_apart_or_together(monkeypatch) -> None:
    rng = np.random.default_rng(0)
    for shared in (False, True):
        truth, scores = ensembles.answers(rng, (200, 500), shared)
        assert truth.shape == (200, 500)
        fooled = scores == ensembles.WORTH
        assert set(np.unique(truth[fooled.any(axis=0)])) == {ensembles.HACK_TRUTH}
        assert np.mean(fooled) == pytest.approx(ensembles.HACKS * ensembles.FOOLED, rel=0.1)
        together = fooled.all(axis=0).sum() / fooled.any(axis=0).sum()
        assert (together == 1) if shared else (together < 0.1)
    monkeypatch.setattr(ensembles, "PICKS", 400)
    monkeypatch.setattr(ensembles, "TRIALS", 5)
    bench = ensembles.Ensembles()
    results = [Result(cell, bench.run(cell)) for cell in bench.cells(quick=True)[:2]]
    found = {f.name: f for f in bench.figures(results)}
    assert found["independent errors, best of 256: min over one model"].holds
    assert found["shared errors, best of 256: min over one model"].holds


def test_shapes_hold_what_they_promise() -> None:
    bench = shaping.Shaping()
    cells = bench.cells(quick=True)
    kept = [next(c for c in cells if c["what"] == what) for what in ("exact", "slopes", "policy")]
    found = {f.name: f for f in bench.figures([Result(cell, bench.run(cell)) for cell in kept])}
    assert shaping.step_return([0.5]) == pytest.approx(0.5)
    for name, figure in found.items():
        if name.startswith(("softmin", "distinct", "PAR's slope", "LSC")):
            assert figure.holds, name


@pytest.mark.parametrize("nats", [0.5, 1.5])
def test_the_best_policy_is_as_far_away_as_it_may_be(monkeypatch, nats) -> None:
    monkeypatch.setattr(shaping, "KL_NATS", nats)
    reward = np.random.default_rng(0).normal(size=50)
    policy = shaping.best_policy(reward)
    assert (policy * np.log(policy * 50)).sum() == pytest.approx(nats, abs=1e-6)
    assert list(np.argsort(policy)) == list(np.argsort(reward))


def test_settings_are_written_as_toml() -> None:
    value = {"a b": [{"x": 1, "y": True}, "q\"'\\"], "rate": 0.5, "^\\s*$": [0.1, 0.2]}
    assert tomllib.loads(f"v = {toml(value)}")["v"] == value


@pytest.mark.parametrize("arm", training.ARMS)
def test_every_arm_of_the_training_bench_is_a_recipe(arm) -> None:
    settings = training.settings_of("tiny", arm, 1)
    config = check(RECIPES / "tiny.toml", [f"{key}={toml(value)}" for key, value in settings.items()])
    assert config.rewarders.use[0].options["of"] == training.SCORER
    assert [spec.name for spec in config.eval.use] == ["reasoning_gym"]
    assert config.learners.steps == (200 if arm.startswith("flips") else 100 if arm.endswith("longer") else 40)


@pytest.mark.parametrize("arm", training.SMOLLM2_ARMS)
def test_every_arm_on_smollm2_is_a_recipe(arm) -> None:
    settings = training.settings_of("smollm2", arm, 0)
    config = check(RECIPES / "cpu.toml", [f"{key}={toml(value)}" for key, value in settings.items()])
    assert config.rewarders.use[0].options["of"] == training.SMOLLM2_SCORER
    assert [spec.options["family"] for spec in config.actors.tasks] == ["basic_arithmetic", "products"]
    assert (config.learners.noise.name == "none") == (arm != "strata, backward")


@pytest.mark.parametrize("flips", [0.4, 0.5])
def test_rate_times_steps_of_flips_is_that_of_clean_training(flips) -> None:
    settings = training.flipped_settings(flips, 1)
    learners = check(RECIPES / "tiny.toml", [f"{key}={toml(value)}" for key, value in settings.items()]).learners
    clean = check(RECIPES / "tiny.toml", [f"learners.steps={training.STEPS}"]).learners
    assert learners.lr * learners.steps == pytest.approx(clean.lr * clean.steps)


def test_paid_for_nothing_is_read_from_the_last_rollouts(tmp_path: Path) -> None:
    def verdict(value: float | None, clean: float) -> tuple[Verdict, ...]:
        status = Status.SCORED if value is not None else Status.ERROR
        return (Verdict("noisy", status, value, parts={"clean": clean} if value is not None else {}),)

    rollouts = tuple(map(as_rollout, "abcd"))
    group = Group("g", 0, 0, Prompt("p", "?"), np.zeros(1, np.int32), rollouts, "learner", 0, 1.0, False)
    paid = group.with_verdicts([verdict(1.0, 0.0), verdict(1.0, 1.0), verdict(0.0, 0.0), verdict(None, 0.0)])
    (tmp_path / "rollouts").mkdir()
    for step in range(1, 9):
        last = paid if step > 3 else group.with_verdicts([verdict(1.0, 0.0)] * 4)
        write_groups(tmp_path / f"rollouts/step_{step:06d}.parquet", [last])
    assert training.fooled_in(tmp_path) == {"fooled": pytest.approx(1 / 3)}


def test_training_is_weighed_against_clean_training_of_the_same_seed() -> None:
    ends = {"clean": 0.8, "strata, none": 0.2, "strata, backward": 0.78, "key, open": 0.1, "key, guarded": 0.77}
    results = [
        Result(
            {"model": "tiny", "arm": arm, "seed": seed},
            {
                "curve": [{"accuracy": ends.get(arm, 0.5)}],
                "fooled": 0.9 if arm == "key, open" else 0.0,
                "diverged": False,
            },
        )
        for seed in (0, 1, 2)
        for arm in training.ARMS
    ]
    found = {f.name: f for f in training.Training().figures(results)}
    assert found["strata, backward: share of clean's accuracy"].value == pytest.approx(0.975)
    assert found["key, guarded: accuracy over clean's"].holds is False
    assert found["flips 50 %: held-out accuracy"].holds is False
    assert found["key, open: wrong answers accepted, of the last rollouts"].note == "the key was found"
