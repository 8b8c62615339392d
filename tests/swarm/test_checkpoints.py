"""Checkpoints are whole or absent, and a broken one is seen."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from swarm import checkpoints


def make(parent: Path, *steps: int, keep: int = 9, content: str = "weights of a step") -> None:
    for step in steps:
        folder = checkpoints.begin(parent, step)
        (folder / "learner").mkdir()
        (folder / "learner" / "weights").write_text(content)
        (folder / "pool").write_text("")
        final, size = checkpoints.finish(folder, keep)
        assert (final, size) == (checkpoints.path_of(parent, step), len(content))


def names(parent: Path) -> list[str]:
    return sorted(p.name for p in parent.iterdir())


def test_a_checkpoint_is_found_whole_under_its_step(tmp_path: Path) -> None:
    make(tmp_path, 3, 12)
    assert checkpoints.newest_good(tmp_path) == (tmp_path / "step_000012", [])
    assert checkpoints.step_of(tmp_path / "step_000012") == 12
    assert names(tmp_path / "step_000012") == ["learner", "manifest.json", "pool"]


def test_there_may_be_none(tmp_path: Path) -> None:
    assert checkpoints.newest_good(tmp_path / "absent") == (None, [])


def test_only_the_newest_are_kept(tmp_path: Path) -> None:
    make(tmp_path, 2, 4, 6, 8, keep=2)
    assert names(tmp_path) == ["step_000006", "step_000008"]


def test_one_that_is_given_up_leaves_the_earlier_ones_and_no_half_one(tmp_path: Path) -> None:
    make(tmp_path, 2, 4, keep=2)
    for step in (4, 6):
        folder = checkpoints.begin(tmp_path, step)
        (folder / "weights").write_text("half")
        assert checkpoints.newest_good(tmp_path) == (tmp_path / "step_000004", [])
        checkpoints.abandon(folder)
        assert names(tmp_path) == ["step_000002", "step_000004"]


def test_one_that_cannot_be_finished_is_an_os_error_and_leaves_the_earlier_ones(tmp_path: Path) -> None:
    make(tmp_path, 2, 4, keep=2)
    folder = checkpoints.begin(tmp_path, 6)
    shutil.rmtree(folder)
    with pytest.raises(OSError, match="partial_000006"):
        checkpoints.finish(folder, keep=2)
    assert names(tmp_path) == ["step_000002", "step_000004"]


def test_what_a_killed_writer_left_is_ignored_and_removed(tmp_path: Path) -> None:
    make(tmp_path, 2)
    for name in (".partial_000004", ".replaced_000002"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "weights").write_text("half")
    assert checkpoints.newest_good(tmp_path) == (tmp_path / "step_000002", [])
    make(tmp_path, 6)
    assert names(tmp_path) == ["step_000002", "step_000006"]


def test_a_step_that_is_written_again_replaces_the_old_one(tmp_path: Path) -> None:
    make(tmp_path, 2)
    make(tmp_path, 2, content="other")
    assert names(tmp_path) == ["step_000002"]
    assert (tmp_path / "step_000002" / "learner" / "weights").read_text() == "other"


@pytest.mark.parametrize("damage", ["truncated", "missing", "flipped", "manifest", "no manifest"])
def test_a_broken_one_is_named_and_the_one_before_is_used(tmp_path: Path, damage: str) -> None:
    make(tmp_path, 2, 4)
    file, manifest = tmp_path / "step_000004" / "learner" / "weights", tmp_path / "step_000004" / "manifest.json"
    data = file.read_bytes()
    if damage == "truncated":
        file.write_bytes(data[:-1])
    elif damage == "missing":
        file.unlink()
    elif damage == "flipped":
        file.write_bytes(data[:3] + bytes([data[3] ^ 1]) + data[4:])
    elif damage == "manifest":
        manifest.write_text(manifest.read_text()[:20])
    else:
        manifest.unlink()
    found, problems = checkpoints.newest_good(tmp_path)
    assert found == tmp_path / "step_000002"
    says = {
        "truncated": f"learner/weights has {len(data) - 1} bytes instead of {len(data)}",
        "missing": "learner/weights is missing",
        "flipped": "learner/weights does not match its hash",
    }
    assert problems[0].startswith(f"step_000004: {says.get(damage, 'no readable manifest')}")


def test_broken_ones_of_later_steps_never_push_out_a_good_one(tmp_path: Path) -> None:
    make(tmp_path, 20, 30, 40)
    for step in (30, 40):
        (checkpoints.path_of(tmp_path, step) / "manifest.json").unlink()
    make(tmp_path, 25, keep=2)  # the run went on from 20 and was stopped at 25
    assert names(tmp_path) == ["step_000020", "step_000025"]
    assert checkpoints.newest_good(tmp_path) == (tmp_path / "step_000025", [])
