"""The `swarm` command through every stage, as a user starts it: real Ray, real DeepSpeed, real signals."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from swarm.journal import RunFolder
from swarm.ledger import Ledger
from swarm.schema import read_groups
from tests.cluster.small import make_model, write_recipe

ROOT = Path(__file__).parents[2]
PATIENCE_S = 900
"""Until a test gives up on a machine that does nothing; nothing is asserted about time."""
RAYS_PORTS = (6379, 8265, 10001)
"""Where Ray's servers are by habit; a run of ours needs none of them."""

pytestmark = pytest.mark.timeout(2 * PATIENCE_S)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("models") / "small")


class Command:
    """One `swarm` process, with everything it started."""

    def __init__(self, *args: str | Path) -> None:
        environment = os.environ | {"PYTHONHASHSEED": "0", "OMP_NUM_THREADS": "1"}
        program = "import sys; from cluster.cli import main; sys.argv[0] = 'swarm'; main()"
        self.process = subprocess.Popen(
            [sys.executable, "-c", program, *map(str, args)],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self.family: dict[int, psutil.Process] = {}

    def until(self, holds: Callable[[], Any]) -> Any:
        """Wait for something that the command brings about."""
        top = psutil.Process(self.process.pid)
        give_up = time.monotonic() + PATIENCE_S
        while not (found := holds()):
            assert self.process.poll() is None, f"the command ended early:\n{self.output()}"
            assert time.monotonic() < give_up, "nothing happened"
            self.family |= {p.pid: p for p in top.children(recursive=True)}
            time.sleep(0.2)
        return found

    def listening(self) -> set[str]:
        """Addresses at which any process of the command takes TCP connections."""
        found = set()
        for process in self.family.values():
            with suppress(psutil.Error):
                found |= {c.laddr.ip for c in process.net_connections("tcp") if c.status == psutil.CONN_LISTEN}
        return found

    def output(self) -> str:
        return self.process.communicate(timeout=PATIENCE_S)[0]

    def end(self) -> tuple[int, str]:
        """Exit code and output; nothing that it started may be left."""
        text = self.output()
        _, alive = psutil.wait_procs(list(self.family.values()), timeout=PATIENCE_S)
        assert not alive, f"left behind: {alive}"
        return self.process.returncode, text


def events(folder: RunFolder, kind: str) -> list[dict[str, Any]]:
    return [e for e in folder.read("events.jsonl") if e["event"] == kind] if folder.root.exists() else []


def steps(folder: RunFolder) -> int:
    return max((m["step"] for m in folder.read("metrics.jsonl")), default=0) if folder.root.exists() else 0


def counts(folder: RunFolder) -> dict[str, int]:
    ledger = Ledger(folder.ledger)
    try:
        return ledger.counts()
    finally:
        ledger.close()


@pytest.fixture(scope="module")
def killed_run(model: Path, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A run in which an actor and a reward worker are killed."""
    place = tmp_path_factory.mktemp("killed")
    folder = RunFolder(place / "out")
    taken = [socket.socket() for _ in RAYS_PORTS]
    for port, its in zip(RAYS_PORTS, taken, strict=True):
        with suppress(OSError):  # somebody else has it: just as good
            its.bind(("127.0.0.1", port))
            its.listen()
    run = Command("run", write_recipe(place, model, steps=8), "--out", folder.root)
    run.until(lambda: steps(folder) >= 1)
    (place / "listening").write_text("\n".join(sorted(run.listening())))
    for worker, after in (("actor-0", 2), ("rewarder-0", 4)):
        run.until(lambda after=after: steps(folder) >= after)
        pid = [e["pid"] for e in events(folder, "ready") if e["worker"] == worker][-1]
        os.kill(pid, signal.SIGKILL)
        run.until(lambda worker=worker: any(e["worker"] == worker for e in events(folder, "died")))
    code, text = run.end()
    assert code == 0, text
    for its in taken:
        its.close()
    return folder


def test_nothing_of_a_local_ray_listens_to_the_outside(killed_run: RunFolder) -> None:
    found = (killed_run.root.parent / "listening").read_text().split()
    assert found, "Ray has servers"
    assert set(found) <= {"127.0.0.1", "::1", "::ffff:127.0.0.1"}


def test_killed_workers_are_replaced_and_every_prompt_is_trained_on_once(killed_run: RunFolder) -> None:
    found = counts(killed_run)
    assert steps(killed_run) == 8
    assert found["trained"] == 8 * 3
    assert found["duplicated"] == found["lost"] == 0
    ready = [e["worker"] for e in events(killed_run, "ready")]
    assert ready.count("actor-0") == ready.count("rewarder-0") == 2
    trained = [group.prompt.id for step in range(1, 9) for group in read_groups(killed_run.batch(step))]
    assert len(trained) == len(set(trained)) == 24


def test_no_token_is_older_than_allowed_and_recorded_log_probabilities_are_complete(killed_run: RunFolder) -> None:
    for step in range(1, 9):
        for group in read_groups(killed_run.batch(step)):
            for rollout in group.rollouts:
                assert 0 <= step - 1 - min(rollout.steps) <= 1
                assert (rollout.logprobs <= 0).all()


def test_a_run_leaves_its_summary_and_plots(killed_run: RunFolder) -> None:
    summary = json.loads((killed_run.root / "summary.json").read_text())
    assert summary["steps"] == 8
    assert summary["accuracy"]["before"]["questions"] == summary["accuracy"]["after"]["questions"] == 8
    assert summary["prompts"]["duplicated"] == summary["prompts"]["lost"] == 0
    assert sum(summary["deaths"].values()) == 2
    assert {p.name for p in killed_run.plots.iterdir()} >= {"reward.png", "accuracy.png", "lag.png", "throughput.png"}


@pytest.mark.slow
def test_export_is_loaded_by_transformers_and_is_not_the_initial_model(
    killed_run: RunFolder, model: Path, tmp_path: Path
) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    code, text = Command("export", killed_run.root, tmp_path / "model").end()
    assert code == 0, text
    trained = AutoModelForCausalLM.from_pretrained(tmp_path / "model", dtype=torch.float32)
    first = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    assert AutoTokenizer.from_pretrained(tmp_path / "model").chat_template
    assert any(not torch.equal(a, b) for a, b in zip(trained.parameters(), first.parameters(), strict=True))


@pytest.mark.slow
def test_eval_reports_pass_at_k_with_intervals(killed_run: RunFolder) -> None:
    code, text = Command(
        "eval", killed_run.root, "--questions", "5", "--samples", "3", "--json", "--set", "cluster.placement=inline"
    ).end()
    assert code == 0, text
    found = json.loads(text.splitlines()[-1])
    assert found["questions"] == 5
    assert found["step"] == 8
    for k in (1, 3):
        figure = found[f"pass@{k}"]
        assert 0 <= figure["low"] <= figure["value"] <= figure["high"] <= 1


@pytest.mark.slow
def test_a_stop_checkpoints_and_a_resume_ends_the_run_with_nothing_lost(model: Path, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "out")
    run = Command("run", write_recipe(tmp_path, model, steps=40), "--out", folder.root)
    run.until(lambda: steps(folder) >= 2)
    run.process.send_signal(signal.SIGINT)
    code, text = run.end()
    assert code == 130, text
    assert "swarm resume" in text
    stopped = steps(folder)
    assert 2 <= stopped < 40
    config = folder.config.read_text().replace("steps = 40", f"steps = {stopped + 2}")
    folder.config.write_text(config)
    code, text = Command("resume", folder.root).end()
    assert code == 0, text
    found = counts(folder)
    assert steps(folder) == stopped + 2
    assert found["trained"] == (stopped + 2) * 3
    assert found["duplicated"] == found["lost"] == 0


@pytest.mark.slow
def test_a_second_signal_stops_at_once_and_says_how_to_go_on(model: Path, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "out")
    run = Command("run", write_recipe(tmp_path, model, steps=1000), "--out", folder.root)
    run.until(lambda: steps(folder) >= 1)
    run.process.send_signal(signal.SIGINT)
    run.until(lambda: events(folder, "stopping"))
    run.process.send_signal(signal.SIGINT)
    code, text = run.end()
    assert code == 130, text
    assert "swarm resume" in text
    assert "Traceback" not in text


@pytest.mark.slow
def test_a_killed_driver_leaves_no_process_and_its_run_is_resumed(model: Path, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "out")
    run = Command("run", write_recipe(tmp_path, model, steps=30), "--out", folder.root)
    run.until(lambda: steps(folder) >= 5)
    run.process.kill()
    assert run.end()[0] == -signal.SIGKILL
    code, text = Command("resume", folder.root).end()
    assert code == 0, text
    found = counts(folder)
    assert found["trained"] == 30 * 3
    assert found["duplicated"] == found["lost"] == 0
    assert [e["target"] >= 5 for e in events(folder, "recovering")] == [True]
    assert not events(folder, "lineage"), "the replay gave other weights"


def test_a_run_that_diverges_ends_with_3_and_names_batch_and_checkpoint(model: Path, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "out")
    recipe = write_recipe(tmp_path, model, steps=6)
    inline = ("--set", "cluster.placement=inline", "--set", "learners.checkpoint_every=2")
    code, text = Command("run", recipe, "--out", folder.root, "--set", "learners.steps=2", *inline).end()
    assert code == 0, text
    config = folder.config.read_text().replace("steps = 2\n", "steps = 6\n")
    folder.config.write_text(config.replace("grad_norm = 1000.0", "grad_norm = 1e-9"))
    code, text = Command("resume", folder.root).end()
    assert code == 3, text
    flat = text.replace("\n", "")
    assert "learners.limits.grad_norm = 1e-09" in flat
    (event,) = events(folder, "diverged")
    assert event["checkpoint"] == "step_000002"
    assert "step_000002" in flat
    assert folder.batch(event["step"]).name in flat
    assert read_groups(folder.batch(event["step"])), "the offending batch can be looked at"


SELECTIVE = (
    "--set",
    "rewarders.use=[{name = 'function', path = 'tests.cluster.small:sometimes_flat'}]",
    "--set",
    "actors.resample=3.0",
)
"""About half of all groups are flat, and other prompts take their place."""


def test_flat_groups_are_set_aside_and_accounted_for(model: Path, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "out")
    settings = (*SELECTIVE, "--set", "cluster.placement=inline", "--set", "actors.select={name = 'gvm', least = 3}")
    code, text = Command("run", write_recipe(tmp_path, model, steps=5), "--out", folder.root, *settings).end()
    assert code == 0, text
    found = counts(folder)
    assert found["trained"] == 5 * 3
    assert found["skipped"] > 2
    assert found["duplicated"] == found["lost"] == found["failed"] == found["dropped"] == 0
    groups = [group for step in range(1, 6) for group in read_groups(folder.batch(step))]
    for group in groups:
        assert len({verdict.value for rollout in group.rollouts for verdict in rollout.verdicts}) == 2
        assert len(group.rollouts) >= 3
    lines = folder.read("metrics.jsonl")
    assert 0 < sum(line["actors/resampled"] for line in lines) <= found["skipped"]
    unfiltered = [line["actors/pass_rate_unfiltered"] for line in lines if "actors/pass_rate_unfiltered" in line]
    assert min(unfiltered) < 0.4 < min(line["reward"] for line in lines)
    assert json.loads((folder.root / "summary.json").read_text())["prompts"]["skipped"] == found["skipped"]
    assert f"{found['skipped']} flat groups skipped" in " ".join(text.split())


@pytest.mark.slow
@pytest.mark.parametrize("stage", [1, 3])
def test_a_killed_rank_is_replaced_with_its_set_and_the_state_is_resumed_by_one(
    model: Path, tmp_path: Path, stage: int
) -> None:
    folder = RunFolder(tmp_path / "out")
    recipe = write_recipe(tmp_path, model, steps=10)
    settings = ("--set", "learners.ranks=2", "--set", f"learners.zero_stage={stage}")
    run = Command("run", recipe, "--out", folder.root, *settings)
    run.until(lambda: steps(folder) >= 4)
    assert run.listening() <= {"127.0.0.1", "::1", "::ffff:127.0.0.1"}
    pid = [e["pid"] for e in events(folder, "ready") if e["worker"] == "learner-1"][-1]
    os.kill(pid, signal.SIGKILL)
    run.until(lambda: events(folder, "recovering"))
    code, text = run.end()
    assert code == 0, text
    assert [e["worker"] for e in events(folder, "died")] == ["learner-1"]
    assert not events(folder, "lineage"), "the replay gave other weights"
    ready = [e["worker"] for e in events(folder, "ready")]
    assert ready.count("learner") == ready.count("learner-1") == 2
    found = counts(folder)
    assert found["trained"] == 10 * 3
    assert found["duplicated"] == found["lost"] == 0
    newest = events(folder, "checkpoint")[-1]
    assert newest["step"] == 10
    assert newest["bytes"] > 0
    files = sorted(p.name for p in (folder.checkpoints / "step_000010" / "learner").iterdir())
    state = ["state-0-of-2.safetensors", "state-1-of-2.safetensors"]
    assert files == ["evidence.json", "learner.json", "rng.pt", *state]

    code, text = Command("replay", folder.root, "--steps", "3").end()
    assert code == 0, text
    assert "all 3 sets of weights are equal" in text

    config = folder.config.read_text().replace("steps = 10", "steps = 12").replace("ranks = 2", "ranks = 1")
    folder.config.write_text(config.replace(f"zero_stage = {stage}", "zero_stage = 0"))
    code, text = Command("resume", folder.root).end()
    assert code == 0, text
    assert steps(folder) == 12
    assert not events(folder, "lineage")


@pytest.mark.slow
@pytest.mark.parametrize(
    "more", [(), (*SELECTIVE, "--set", "actors.select=variance_aware")], ids=["plain", "selective"]
)
def test_synchronous_runs_with_one_seed_are_equal(model: Path, tmp_path: Path, more: tuple[str, ...]) -> None:
    digests, tokens = [], []
    for name in ("first", "second"):
        folder = RunFolder(tmp_path / name)
        recipe = write_recipe(tmp_path, model, steps=3)
        settings = ("--set", "learners.max_lag=0", "--set", "cluster.placement=inline", *more)
        code, text = Command("run", recipe, "--out", folder.root, *settings).end()
        assert code == 0, text
        digests.append([m["digest"] for m in folder.read("metrics.jsonl")])
        groups = [group for step in (1, 2, 3) for group in read_groups(folder.batch(step))]
        tokens.append([rollout.tokens.tolist() for group in groups for rollout in group.rollouts])
    assert digests[0] == digests[1]
    assert len(set(digests[0])) == 3, "nothing was learnt"
    assert tokens[0] == tokens[1]
