"""`swarm replay` on runs that really happened, placed inline: one, the same one resumed, and one with a new lineage."""

from __future__ import annotations

import io
import json
import shutil
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner
from rich.console import Console

from cluster import cli
from cluster.replay import replay, verdict
from swarm.errors import ConfigError, SwarmError
from swarm.journal import RunFolder
from swarm.ledger import Ledger
from swarm.schema import read_groups, write_groups
from tests.cluster.small import make_model, swarm, write_recipe

STEPS = 4
"""Of the first run; its checkpoints are those of steps 2 and 4."""

pytestmark = pytest.mark.timeout(1800)


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # as the runs below had


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    place = tmp_path_factory.mktemp("replay")
    recipe = write_recipe(place, make_model(place / "model"), steps=STEPS)
    settings = ("cluster.placement=inline", "learners.checkpoint_every=2", "eval.live_questions=0", "eval.questions=2")
    swarm("run", recipe, "--out", place / "out", *(part for text in settings for part in ("--set", text)))
    return RunFolder(place / "out")


@pytest.fixture
def folder(trained: RunFolder, tmp_path: Path) -> RunFolder:
    """A copy to do harm to."""
    return RunFolder(Path(shutil.copytree(trained.root, tmp_path / "out")))


def go_on(folder: RunFolder, steps: int) -> None:
    """Resume, to more steps than there were."""
    text = folder.config.read_text()
    folder.config.write_text(text.replace(f"steps = {STEPS}\n", f"steps = {steps}\n"))
    swarm("resume", folder.root)


def quiet() -> Console:
    return Console(file=io.StringIO())


def equal_steps(folder: RunFolder, **options: int) -> int:
    """How many sets of weights were compared, where all are equal."""
    result = replay(folder, console=quiet(), **options)
    assert result["differs"] is None, verdict(result)
    return result["compared"]


def test_every_step_is_trained_again_to_the_same_weights(trained: RunFolder) -> None:
    done = CliRunner().invoke(cli.group, ["replay", str(trained.root), "--json"])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert (found["compared"], found["last"], found["differs"]) == (STEPS, STEPS, None)
    assert [done.stderr.count(f"step {step} of {STEPS}: equal") for step in range(1, STEPS + 1)] == [1] * STEPS


def test_a_replay_begins_at_a_checkpoint_and_stops_early(trained: RunFolder) -> None:
    assert equal_steps(trained, since=2, steps=1) == 2  # the checkpoint itself, and step 3


def test_a_batch_that_was_changed_is_named_with_its_step_and_tensor(folder: RunFolder) -> None:
    groups = read_groups(folder.batch(2))
    first = groups[0].rollouts[0]
    other = replace(groups[0], rollouts=(replace(first, tokens=first.tokens[::-1].copy()), *groups[0].rollouts[1:]))
    write_groups(folder.batch(2), [other, *groups[1:]])
    done = CliRunner().invoke(cli.group, ["replay", str(folder.root), "--json"])
    assert done.exit_code == 1, done.output
    found = json.loads(done.stdout)
    assert (found["compared"], found["differs"]["step"]) == (2, 2)
    tensor = folder.read("digests.jsonl")[0]["tensors"]
    assert found["differs"]["tensor"] in tensor
    assert f"step 2 are not those of the run: digest {found['differs']['digest']}" in done.stderr
    assert f"{found['differs']['tensor']} is the first tensor that differs" in done.stderr


def test_the_tensor_that_is_named_is_the_first_whose_digest_differs(folder: RunFolder) -> None:
    lines = folder.read("digests.jsonl")
    second, third = list(lines[0]["tensors"])[1:3]
    lines[0]["tensors"] |= {second: "0" * 32, third: "0" * 32}
    (folder.root / "digests.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    metrics = folder.read("metrics.jsonl")
    metrics[0]["digest"] = "0" * 32
    (folder.root / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in metrics))
    result = replay(folder, console=quiet(), steps=2)
    assert (result["compared"], result["differs"]["step"], result["differs"]["tensor"]) == (1, 1, second)


def test_a_batch_that_cannot_be_read_is_named(folder: RunFolder) -> None:
    folder.batch(1).write_bytes(b"nothing")
    with pytest.raises(SwarmError, match=r"step 1 cannot be replayed: SchemaError: .*step_000001") as caught:
        replay(folder, console=quiet())
    assert caught.value.exit_code == 1


def test_a_resumed_run_is_replayed_from_its_beginning(folder: RunFolder) -> None:
    shutil.rmtree(folder.checkpoints / f"step_{STEPS:06d}")  # so that steps are repeated
    go_on(folder, STEPS + 1)
    assert not [event for event in folder.read("events.jsonl") if event["event"] == "lineage"]
    assert equal_steps(folder) == STEPS + 1


def test_the_surviving_lineage_is_replayed_and_the_lost_one_is_not(folder: RunFolder) -> None:
    shutil.rmtree(folder.checkpoints / f"step_{STEPS:06d}")
    folder.batch(STEPS).unlink()
    go_on(folder, STEPS + 1)
    with closing(Ledger(folder.ledger)) as ledger:
        assert ledger.chain() == {1: 0, 2: 0, 3: 1, 4: 1, 5: 1}
    assert equal_steps(folder) == STEPS + 1


# -- what cannot be replayed: said before anything starts -----------------------------------------------------------


def refused(folder: RunFolder, **options: int) -> str:
    with pytest.raises(ConfigError) as caught:
        replay(folder, console=quiet(), **options)
    return str(caught.value)


def test_a_missing_batch_is_named_with_the_checkpoint_after_it(folder: RunFolder) -> None:
    folder.batch(2).unlink()
    assert "1 of 4 steps have no recorded batch, step_000002.parquet among them; --since 2 begins after" in refused(
        folder
    )
    for step in (1, 3, 4):
        folder.batch(step).unlink()
    assert refused(folder).endswith("4 of 4 steps have no recorded batch, step_000001.parquet among them")


def test_a_live_run_is_left_alone(folder: RunFolder) -> None:
    with folder.locked():
        assert "in use by a live run" in refused(folder)


def test_a_beginning_without_a_whole_checkpoint_is_refused(folder: RunFolder) -> None:
    assert "--since 3: no whole checkpoint of that step" in refused(folder, since=3)
    assert refused(folder, since=3).endswith("whole are: 2, 4")
    assert "nothing was trained after it" in refused(folder, since=STEPS)


def test_a_run_that_trained_or_logged_nothing_is_refused(folder: RunFolder) -> None:
    (folder.root / "metrics.jsonl").unlink()
    assert "no digests" in refused(folder)
    folder.ledger.unlink()
    assert "no ledger.sqlite" in refused(folder)
    with closing(Ledger(folder.ledger)):
        pass
    assert "no step was trained yet" in refused(folder)
