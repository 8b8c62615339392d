"""The run folder: how it is made, locked, written and read again."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from swarm.errors import ConfigError
from swarm.journal import Journal, RunFolder
from swarm.types import PolicyVersion, Weights


def test_a_run_gets_the_first_free_number_and_its_parts(tmp_path: Path) -> None:
    made = [RunFolder.create(tmp_path / "runs", "cpu") for _ in range(2)]
    assert [folder.root.name for folder in made] == ["cpu-1", "cpu-2"]
    assert all(part.is_dir() for part in (made[0].rollouts, made[0].checkpoints, made[0].plots))


def test_a_place_where_no_run_folder_can_be_made_is_a_config_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere" / "else")
    for parent in (tmp_path / "file", tmp_path / "file" / "runs", tmp_path / "dangling"):
        with pytest.raises(ConfigError, match=r"cluster\.runs = .* cannot make a run folder"):
            RunFolder.create(parent, "cpu")


def test_a_named_folder_must_be_new_or_empty(tmp_path: Path) -> None:
    assert RunFolder.create_at(tmp_path / "new").rollouts.is_dir()
    (tmp_path / "empty").mkdir()
    RunFolder.create_at(tmp_path / "empty")
    with pytest.raises(ConfigError, match=r"--out .*/new: exists and is not empty; .*`swarm resume"):
        RunFolder.create_at(tmp_path / "new")
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="exists and is not empty"):
        RunFolder.create_at(tmp_path / "file")
    with pytest.raises(ConfigError, match="cannot be made"):
        RunFolder.create_at(tmp_path / "file" / "below")


def test_a_folder_without_a_recipe_is_no_run_folder(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="not a run folder"):
        RunFolder.open(tmp_path)
    (tmp_path / "config.toml").touch()
    assert RunFolder.open(tmp_path).root == tmp_path


HOLDER = """
import sys
from pathlib import Path
from swarm.journal import RunFolder
with RunFolder(Path(sys.argv[1])).locked():
    print("locked", flush=True)
    sys.stdin.read()
"""


def test_the_digests_of_published_tensors_are_kept_by_lineage_and_step(tmp_path: Path) -> None:
    journal = Journal(RunFolder.create(tmp_path, "run"))
    for step in (1, 2):
        journal.published(Weights(PolicyVersion("learner", 3, step), "w", f"set{step}", 7, tensors={"a": f"a{step}"}))
    journal.close()
    assert journal.folder.read("digests.jsonl") == [
        {"lineage": 3, "step": step, "digest": f"set{step}", "tensors": {"a": f"a{step}"}} for step in (1, 2)
    ]


def test_a_live_run_keeps_a_second_process_out_and_a_killed_one_does_not(tmp_path: Path) -> None:
    folder = RunFolder.create_at(tmp_path / "run")
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(folder.root)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "locked\n"
        with pytest.raises(ConfigError, match=f"in use by a live run .process {holder.pid}."), folder.locked():
            pass
        holder.kill()
    with folder.locked():
        assert (folder.root / ".lock").read_text() == str(os.getpid())


def test_lines_come_back_in_order_and_listeners_hear_each(tmp_path: Path) -> None:
    folder, heard = RunFolder.create_at(tmp_path / "run"), []
    journal = Journal(folder, [lambda kind, record: heard.append((kind, record["step"]))])
    journal.step({"step": 1, "reward": None})
    journal.event("synced", step=1)
    journal.close()
    assert heard == [("step", 1), ("synced", 1)]
    (line,) = folder.read("metrics.jsonl")
    assert (line["step"], line["reward"]) == (1, None)
    assert folder.read("events.jsonl")[0]["event"] == "synced"


def test_a_cut_last_line_is_left_out_and_the_next_record_begins_a_line(tmp_path: Path) -> None:
    folder = RunFolder.create_at(tmp_path / "run")
    path = folder.root / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"step": 2, "rew')
    assert [line["step"] for line in folder.read("metrics.jsonl")] == [1]
    journal = Journal(folder)
    journal.step({"step": 3})
    journal.step({"step": 4})
    journal.close()
    assert [line["step"] for line in folder.read("metrics.jsonl")] == [1, 3, 4]


def test_a_broken_line_in_the_middle_is_named(tmp_path: Path) -> None:
    folder = RunFolder.create_at(tmp_path / "run")
    (folder.root / "metrics.jsonl").write_text('{"step": 1}\nnonsense\n{"step": 3}\n')
    with pytest.raises(ConfigError, match=r"metrics\.jsonl, line 2: not JSON"):
        folder.read("metrics.jsonl")


def test_a_log_that_was_never_written_is_empty(tmp_path: Path) -> None:
    assert RunFolder(tmp_path).read("metrics.jsonl") == []
