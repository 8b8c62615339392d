"""Plots of a run folder."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.image import imread
from run_folders import event, make, step

from cluster.plots import accuracy_points, draw_accuracy, write_plots
from swarm.journal import Journal, RunFolder

PNG = b"\x89PNG\r\n\x1a\n"


def size_of(path: Path) -> tuple[int, int]:
    head = path.read_bytes()[:24]
    assert head[:8] == PNG
    width, height = struct.unpack(">II", head[16:24])
    return width, height


def test_a_run_gets_four_plots_for_a_slide(tmp_path):
    paths = write_plots(make(tmp_path))
    assert [p.name for p in paths] == ["reward.png", "accuracy.png", "lag.png", "throughput.png"]
    for path in paths:
        assert size_of(path) == (1600, 900)
        pixels = imread(path)[..., :3]
        assert 0.005 < np.mean(pixels.min(axis=2) < 0.95) < 0.6  # neither empty nor full


def test_a_single_step_is_enough_for_what_it_can_show(tmp_path):
    folder = RunFolder.create(tmp_path, "one")
    journal = Journal(folder)
    journal.step(step(1, 5.0))
    journal.close()
    assert [p.name for p in write_plots(folder)] == ["reward.png", "lag.png"]


def test_a_run_without_data_gets_no_plot(tmp_path):
    assert write_plots(RunFolder.create(tmp_path, "none")) == []


def test_accuracy_is_before_live_and_after_each_step_once(tmp_path):
    folder = make(tmp_path)
    journal = Journal(folder)
    event(journal, 71.0, "evaluated", step=20, accuracy=0.5, questions=20)  # the files know these steps better
    event(journal, 1.0, "evaluated", step=0, accuracy=0.5, questions=20)
    journal.close()
    points = accuracy_points(folder, folder.read("metrics.jsonl"), folder.read("events.jsonl"))
    assert [(p["when"], p["step"]) for p in points] == [
        ("before", 0), ("live", 5), ("live", 10), ("live", 15), ("after", 20),
    ]  # fmt: skip
    assert all(p["low"] <= p["accuracy"] <= p["high"] for p in points)
    assert [p["questions"] for p in points] == [40, 20, 20, 20, 40]


def test_accuracies_at_the_ends_of_the_scale_can_be_drawn():
    ends = [{"when": w, "step": s, "accuracy": a, "low": l, "high": h, "questions": 9}
            for w, s, a, l, h in (("before", 0, 0.0, 1e-17, 0.3), ("after", 4, 1.0, 0.7, 1.0 - 1e-16))]  # fmt: skip
    draw_accuracy(Figure(), ends)  # matplotlib refuses negative error bars
