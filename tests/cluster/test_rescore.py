"""`swarm rescore` on recorded rollouts, by rules and by a judge behind a socket."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from cluster import cli
from rewarders.judge_server import application, serving
from rewarders.judge_simulator import Faults, JudgeSimulator
from swarm.journal import RunFolder
from swarm.schema import read_groups, write_groups
from swarm.types import Finish, Group, Prompt, Rollout, Span, Status, Verdict
from tests.cluster.yes_model import make_yes_model
from tests.minimal_recipe import MINIMAL

KEY = "sk-test-90ac1f7733"
TEXTS = ["4", "it is 4", "5", "4 apples"]
LOOSE = "rewarders.use=[{name = 'exact', extract = 'number'}]"


def group(step: int, number: int, source: str) -> Group:
    rollouts = tuple(
        Rollout(
            tokens=np.array([1], np.int32),
            logprobs=np.zeros(1, np.float32),
            spans=(Span(0, 0, 1),),
            text=text,
            finish=Finish.STOP,
            loss_mask=np.ones(1, bool),
            verdicts=(Verdict("exact", Status.SCORED, float(text == "4")),),
        )
        for text in TEXTS
    )
    prompt = Prompt(f"p{step}{number}", f"What is 2 + 2? ({step}, {number})", "4", source)
    return Group(f"{step}.{number}", number, 0, prompt, np.array([3], np.int32), rollouts, "learner", 0, 1.0, False)


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    made = RunFolder.create_at(tmp_path / "run")
    made.config.write_text(MINIMAL)
    write_groups(made.batch(1), [group(1, 0, "sums"), group(1, 1, "words")])
    write_groups(made.batch(2), [group(2, 0, "sums")])
    return made


def rescore(folder: RunFolder, *settings: str, as_json: bool = True) -> Result:
    options = [part for text in settings for part in ("--set", text)]
    return CliRunner().invoke(cli.group, ["rescore", str(folder.root), *options, *(["--json"] if as_json else [])])


def test_other_rewarders_give_other_rewards_beside_the_old_ones(folder: RunFolder) -> None:
    before = {path.name: path.read_bytes() for path in folder.rollouts.iterdir()}
    done = rescore(folder, LOOSE)
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    # "it is 4" and "4 apples" are right where the last number counts
    half = {"agreement": 0.5, "down": 0, "lost": 0, "won": 0, "mean_before": 0.25, "mean_after": 0.75}
    assert found["sources"] == {
        "sums": {"rollouts": 8, "compared": 8, "up": 4, **half},
        "words": {"rollouts": 4, "compared": 4, "up": 2, **half},
    }
    assert found["all"] == {"rollouts": 12, "compared": 12, "up": 6, **half}
    assert (found["steps"], found["steps_affected"]) == (2, [1, 2])
    assert {path.name: path.read_bytes() for path in folder.rollouts.iterdir()} == before
    [first, _] = read_groups(Path(found["written"]) / "step_000001.parquet")
    assert [r.verdicts[0].value for r in first.rollouts] == [1.0, 1.0, 0.0, 1.0]
    assert first.rollouts[0].verdicts[0].version.startswith("exact@")
    assert [r.text for r in first.rollouts] == TEXTS


def test_the_same_rewarders_change_nothing_and_nothing_is_written_over(folder: RunFolder) -> None:
    places = []
    for _ in range(2):
        found = json.loads(rescore(folder).stdout)
        assert (found["all"]["agreement"], found["steps_affected"]) == (1.0, [])
        places.append(found["written"])
    assert [Path(place).name for place in places] == ["rescored-1", "rescored-2"]


def test_a_lost_reward_is_told_apart_from_a_lower_one(folder: RunFolder) -> None:
    silent = [group(3, 0, "sums")]
    silent[0] = silent[0].with_verdicts([(Verdict("exact", Status.ERROR, None, "x"),)] * 4)
    write_groups(folder.batch(3), silent)
    found = json.loads(rescore(folder).stdout)
    assert (found["all"]["won"], found["all"]["compared"], found["steps_affected"]) == (4, 12, [3])


def test_the_table_says_what_would_have_changed(folder: RunFolder) -> None:
    done = rescore(folder, LOOSE, as_json=False)
    assert done.exit_code == 0, done.output
    for text in ("sums", "words", "agreement", "flips up", "0.250", "0.750", "2 of 2 steps", "exact: 12 scored"):
        assert text in done.output


def test_a_judge_is_asked_once_and_its_key_stays_in_the_environment(
    folder: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("TEST_JUDGE_KEY", KEY)
    caplog.set_level(logging.DEBUG)
    judge = JudgeSimulator(Faults(false_reject=0.2))
    with serving(application(judge, key=KEY)) as url:
        section = f"name = 'j', model = 'simulator', endpoint = '{url}', key_env = 'TEST_JUDGE_KEY'"
        settings = [
            f"rewarders.judges=[{{{section}}}]",
            "rewarders.use=[{name = 'yes_no', judge = 'j'}]",
            f"rewarders.store={tmp_path / 'verdicts.sqlite'}",
        ]
        first = rescore(folder, *settings)
        assert first.exit_code == 0, first.output
        assert judge.asked == 12
        second = rescore(folder, *settings)
        assert judge.asked == 12
    found, again = json.loads(first.stdout), json.loads(second.stdout)
    assert again["verdicts"]["yes_no"] == {"scored": 12, "known": 12}
    assert again["sources"] == found["sources"]
    everything = f"{first.output}{second.output}{caplog.text}".encode()
    everything += b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert KEY.encode() not in everything


def test_a_judge_behind_a_guard_is_asked_once_too_and_another_threshold_asks_again(
    folder: RunFolder, tmp_path: Path
) -> None:
    judge = JudgeSimulator()
    with serving(application(judge)) as url:

        def settings(rest: str) -> list[str]:
            return [
                f"rewarders.judges=[{{name = 'j', model = 'simulator', endpoint = '{url}'}}]",
                f"rewarders.use=[{{name = 'guard', of = {{name = 'yes_no', judge = 'j'{rest}}}}}]",
                f"rewarders.store={tmp_path / 'verdicts.sqlite'}",
            ]

        first = rescore(folder, *settings(""))
        assert first.exit_code == 0, first.output
        assert judge.asked == 12
        second = rescore(folder, *settings(""))
        assert judge.asked == 12
        assert rescore(folder, *settings(", threshold = 0.5")).exit_code == 0
        assert judge.asked == 24  # another version of the rewarder
    assert json.loads(second.stdout)["verdicts"]["guard"] == {"scored": 12, "known": 12}


def test_a_judge_that_the_node_served_is_served_again(folder: RunFolder, tmp_path: Path) -> None:
    model = make_yes_model(tmp_path / "yes")
    use = "{name = 'guard', of = {name = 'yes_no', judge = 'own', threshold = 0.5}}"
    judge = f"{{name = 'own', model = '{model}', engine = 'transformers', timeout_s = 120.0}}"
    done = rescore(folder, f"rewarders.use=[{use}]", f"rewarders.judges=[{judge}]", "model.dtype=float32")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["all"]["mean_after"] == 1.0  # it says yes to everything


def test_a_refused_key_is_an_error_of_every_verdict_and_no_reward(folder: RunFolder, monkeypatch) -> None:
    monkeypatch.setenv("TEST_JUDGE_KEY", "wrong")
    with serving(application(JudgeSimulator(), key=KEY)) as url:
        section = f"name = 'j', model = 'm', endpoint = '{url}', key_env = 'TEST_JUDGE_KEY'"
        done = rescore(folder, f"rewarders.judges=[{{{section}}}]", "rewarders.use=[{name = 'yes_no', judge = 'j'}]")
    found = json.loads(done.stdout)
    assert found["verdicts"]["yes_no"]["error"] == 12
    assert (found["all"]["lost"], found["all"]["mean_after"]) == (12, None)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (["rewarders.use=exakt"], "wanted a list"),
        (["rewarders.use=['exakt']"], 'did you mean "exact"'),
        (["rewarders.judges=[{name = 'j', model = './nowhere', engine = 'transformers'}]"], "no such folder"),
        (["rewarders.store=/dev/null/x"], "rewarders.store = '/dev/null/x': cannot be used"),
    ],
)
def test_what_cannot_be_done_is_said_at_once(folder: RunFolder, settings: list[str], said: str) -> None:
    done = rescore(folder, *settings)
    assert done.exit_code == 2
    assert said in done.stderr
    assert not list(folder.root.glob("rescored-*"))


def test_a_run_without_rollouts_and_a_live_one_are_refused(folder: RunFolder) -> None:
    with folder.locked():
        assert "in use by a live run" in rescore(folder).stderr
    for path in folder.rollouts.iterdir():
        path.unlink()
    assert "no recorded rollouts" in rescore(folder).stderr
