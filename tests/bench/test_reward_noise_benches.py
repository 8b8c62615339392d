"""The benches of noise and of estimates: each whole in small, with figures for every arm."""

from __future__ import annotations

import json

import pytest

from cluster import bench_reward_estimates as estimates
from cluster import bench_reward_noise as noise
from cluster.bench import carry_out


def quick(kind, tmp_path, monkeypatch, cells):
    """The figures of a run with smaller cells."""
    monkeypatch.setattr(kind, "cells", lambda self, quick: cells)
    path = carry_out(kind(), quick=True, out=tmp_path, fresh=True, say=lambda _: None)
    return {f["name"]: f for f in json.loads(path.read_text())["figures"]}


def test_gradient(tmp_path, monkeypatch):
    monkeypatch.setattr(noise, "GROUPS", 300)
    found = quick(noise.Gradient, tmp_path, monkeypatch, [{"rates": r, "seed": 0} for r in ("equal", "by prompt")])
    assert found["largest change by correcting, backward, z-score, rates by prompt"]["holds"]
    assert found["relative bias, uncorrected, leave_one_out, rates equal"]["value"] > 0.2


def test_learning(tmp_path, monkeypatch):
    found = quick(noise.Phase, tmp_path, monkeypatch, [{"j": j, "seeds": 2} for j in noise.Phase.js])
    assert found["accuracy after 400 steps, J = 1"]["holds"]
    assert found["accuracy after 400 steps, J = -0.1"]["holds"]
    found = quick(noise.StepSize, tmp_path, monkeypatch, [{"noise": "mild", "seeds": 2}])
    assert found["largest difference of the policies after 400 steps, mild noise"]["holds"]
    found = quick(
        noise.GroupFlips, tmp_path, monkeypatch, [{"flips": f, "seeds": 2} for f in ("independent", "by group")]
    )
    assert found["accuracy after 400 steps, flips by group"]["holds"]


def test_appeals_and_failures(tmp_path, monkeypatch):
    cells = [{"judge": j, "seeds": 3} for j in estimates.Appeals.judges]
    found = quick(estimates.Appeals, tmp_path, monkeypatch, cells)
    assert found["error, corrected, true accepts 0.95, false 0.05"]["goal"] == "<= 0.03"
    found = quick(estimates.Failures, tmp_path, monkeypatch, [{"seed": 0, "num": 20_000}])
    assert found["accuracy, failures as 0"]["value"] < found["accuracy, the truth"]["value"]


def test_accuracy(tmp_path, monkeypatch):
    cells = [{"setting": s, "repeats": 20} for s in estimates.Accuracy.settings]
    found = quick(estimates.Accuracy, tmp_path, monkeypatch, cells)
    assert found["95 % interval covers, prediction-powered, gold at another accuracy, 0.7"]["goal"] == ""
    assert found["95 % interval covers, Rogan-Gladen, rates 0.3 and 0.3"]["goal"] == ">= 0.935 and <= 0.965"


@pytest.mark.slow
def test_crowd(tmp_path, monkeypatch):
    cells = [{"what": "rates", "judges": j, "n": n, "repeats": 2} for j in (3, 5) for n in (200, 500)]
    cells += [{"what": w, "judges": j, "n": 500, "repeats": 2} for w, j in estimates._COLLUSION]
    found = quick(estimates.Crowd, tmp_path, monkeypatch, cells)
    assert found["alarm, a key fools two"]["value"] == 1.0
