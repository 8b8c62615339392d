"""The summary, from a run folder alone."""

from __future__ import annotations

import io
import json

import pytest
from rich.console import Console
from run_folders import START, evaluation, event, fill_ledger, make, step, usage

from cluster.summary import print_summary, samples, summarise, write_summary
from swarm import checkpoints
from swarm.journal import Journal, RunFolder


def test_every_figure_of_a_whole_run_is_there(tmp_path):
    folder = make(tmp_path)
    found = write_summary(folder)
    assert json.loads((folder.root / "summary.json").read_text()) == found
    assert found["accuracy"]["before"]["accuracy"] == 0.1
    assert found["accuracy"]["after"] == {
        "step": 20, "accuracy": 0.9, "low": pytest.approx(0.7695, abs=1e-3), "high": pytest.approx(0.9604, abs=1e-3),
        "questions": 40, "unanswered": 0,
    }  # fmt: skip
    assert found["steps"] == found["planned_steps"] == 20
    assert found["time"]["wall_s"] == 75.0
    assert found["time"]["learner"] == {"step": 0.6, "wait": 0.2, "sync": 0.15, "other": 0.05}
    assert found["time"]["actors"] == pytest.approx({"busy": 0.7, "idle": 0.25, "paused": 0.05})
    assert found["memory"]["peak_bytes"] == 3 * 2**30
    assert found["sync"] == {
        "count": 20,
        "pause_median_s": pytest.approx(0.205),
        "pause_worst_s": pytest.approx(0.3),
        "canary_mean_largest": 0.04,
    }
    assert found["lag"] == {"mean": pytest.approx(0.75), "largest": 2.0, "allowed": 2}
    assert found["prompts"] == {
        "asked": 41, "trained": 40, "waiting": 1, "failed": 2, "dropped": 1, "skipped": 0, "duplicated": 0, "lost": 0,
    }  # fmt: skip
    assert found["deaths"] == {"actor-0": 1}
    assert found["checkpoints"]["written"] == 1


def test_the_bound_is_trained_tokens_over_processor_time_on_all_cores(tmp_path):
    speed = summarise(make(tmp_path))["throughput"]
    assert speed["trained_tokens_per_s"] == pytest.approx(300.0)
    assert speed["work_conserving_bound"] == pytest.approx(20 * 900 * speed["cores"] / (1.6 * 60))
    assert speed["share_of_bound"] == pytest.approx(1.6 / speed["cores"])


def test_causes_that_differ_in_numbers_only_are_counted_together(tmp_path):
    assert summarise(make(tmp_path))["failures"] == {
        "ActorError: actor-# died after # s": 2,
        "PromptRefused: prompt of # tokens": 1,
    }


def test_length_bias_comes_with_its_interval(tmp_path):
    bias = summarise(make(tmp_path))["length_bias"]
    assert bias["low"] <= bias["value"] <= bias["high"]
    assert bias["groups"] == 40


def test_samples_are_of_the_same_questions_and_start_with_those_that_became_right(tmp_path):
    chosen = summarise(make(tmp_path))["samples"]
    assert [(s["before"]["correct"], s["after"]["correct"]) for s in chosen] == [(False, True)] * 3 + [(False, False)]
    assert all(s["after"]["text"] == s["answer"] for s in chosen[:3])


def test_samples_of_one_evaluation_only_are_shown_with_the_other_side_open():
    answer = {"question": "q", "answer": "1", "text": "1", "reward": 1.0, "correct": True}
    (only,) = samples({"answers": [answer]}, None)
    assert only["before"]["correct"]
    assert only["after"] is None
    assert samples(None, None) == []


def test_a_run_that_was_cut_off_has_a_summary_with_open_figures(tmp_path):
    folder = RunFolder.create(tmp_path, "cut")
    folder.config.write_text('name = "cut"\n[learners]\nsteps = 9\n')
    journal = Journal(folder)
    journal.step(step(1, 12.0, reward=None) | {"reward": float("nan")})
    journal.close()
    (folder.root / "eval_before.json").write_text('{"step": 0, "accur')
    found = write_summary(folder)
    assert found["steps"] == 1
    assert found["planned_steps"] == 9
    assert found["accuracy"] == {"before": None, "after": None}
    assert found["prompts"] is None
    assert found["length_bias"]["value"] is None
    assert "NaN" not in (folder.root / "summary.json").read_text()
    assert "not measured" in (folder.root / "summary.md").read_text()
    assert not folder.ledger.exists()  # reading makes no ledger


def test_a_folder_without_a_single_line_has_a_summary(tmp_path):
    folder = RunFolder.create(tmp_path, "empty")
    assert write_summary(folder)["steps"] == 0


def test_a_resumed_run_sums_its_processes(tmp_path):
    folder = make(tmp_path)
    journal = Journal(folder)
    later = START + 10_000
    event(journal, 3.0, "checkpoint_broken", later, problem="step_000020: a.bin is missing", used="step_000015")
    event(journal, 10.0, "usage", later, workers=usage(0.0))
    journal.step(step(21, 14.0, later))
    event(journal, 14.0, "usage", later, workers=usage(4.0))
    journal.close()
    found = summarise(folder)
    assert found["time"]["processes"] == 2
    assert found["time"]["wall_s"] == 75.0 + 14.0
    assert found["throughput"]["train_s"] == pytest.approx(64.0)
    assert found["checkpoints"]["broken"] == ["step_000020: a.bin is missing"]


def test_what_is_printed_fits_80_columns_and_takes_no_markup_from_answers(tmp_path):
    folder = make(tmp_path)
    evaluation(folder, "after", 20, right=5)
    screen = Console(file=io.StringIO(), width=80, record=True)
    print_summary(screen, write_summary(folder))
    lines = screen.export_text().splitlines()
    assert max(len(line) for line in lines[:-1]) <= 80
    assert lines[-1] == f"run folder  {folder.root.resolve()}"  # in one piece, however long
    text = "\n".join(lines)
    for wanted in ("0.100", "40 questions", "[4]", "wrong: I think", "work-conserving", "median 205 ms, worst 300 ms",
                   "busy 70.0%", "0 lost, 0 duplicated", "3.00 GiB", "largest 2, allowed 2"):  # fmt: skip
        assert wanted in text, wanted


def test_the_markdown_escapes_what_would_break_its_tables(tmp_path):
    folder = make(tmp_path)
    (folder.plots / "lag.png").write_bytes(b"")
    write_summary(folder)
    text = (folder.root / "summary.md").read_text()
    assert "What is 4 \\| 1 + [4]?" in text
    assert "it is \\*seven\\*" in text
    assert "![lag](plots/lag.png)" in text
    assert "reward.png" not in text
    tables = [line for line in text.splitlines() if line.startswith("| What")]
    assert all(line.replace("\\|", "").count("|") == 5 for line in tables)


def test_the_ledger_is_read_after_another_process_has_filled_it(tmp_path):
    folder = RunFolder.create(tmp_path, "ledger")
    fill_ledger(folder, 3)
    assert summarise(folder)["prompts"]["trained"] == 6


def test_accuracies_and_rewards_are_shown_without_the_errors_that_the_run_measured(tmp_path):
    folder = make(tmp_path)
    channels = '[rewarders]\nuse = [{ name = "judge" }]\n[rewarders.channels]\n'
    folder.config.write_text(folder.config.read_text() + channels)
    after = json.loads((folder.root / "eval_after.json").read_text())
    for answer in after["answers"]:
        answer |= {"verdicts": {"judge": answer["reward"]}, "stratum": ""}
    (folder.root / "eval_after.json").write_text(json.dumps(after))
    assert "corrected" not in summarise(folder)["accuracy"]["after"]
    assert summarise(folder)["reward"]["last_debiased"] is None

    place = checkpoints.begin(folder.checkpoints, 20) / "learner"
    place.mkdir()
    counts = {"wrong": 5e3, "accepted_wrong": 1e3, "right": 1e4, "rejected_right": 0.0}
    families = {"sums": {"the answer": [True, 9, 1], "off by one": [False, 20, 0], "key ':'": [False, 6, 3]}}
    tallies = {
        stratum: {
            name: {"right": right, "num": num, "wrongly": wrongly, "unscored": 0}
            for name, (right, num, wrongly) in part.items()
        }
        for stratum, part in families.items()
    }
    form = {"template": "x", "holds_answer": False, "cause": "c", "example": "Solution:"}
    watch = {"families": tallies, "quarantine": [form], "breaker": {}}
    found = {"heard": True, "channels": {"judge": {"": counts}}, "watches": {"judge": watch}}
    (place / "evidence.json").write_text(json.dumps({"rewarder-0": found, "rewarder-1": found}))
    checkpoints.finish(place.parent, 2)
    journal = Journal(folder)
    event(journal, 79.0, "breaker", rewarder="judge", cause="too many keys")
    alarm = {"rewarder": "judge", "of": 50, "statuses": {"timeout": 30}, "cause": "slow"}
    event(journal, 79.1, "unscored", **alarm, without=30)
    event(journal, 79.2, "unscored", **alarm, without=40)
    journal.step(step(21, 80.0) | {"learn/reward_debiased_mean": 0.25})
    journal.close()
    summary = write_summary(folder)
    corrected = summary["accuracy"]["after"]["corrected"]
    assert corrected["value"] == pytest.approx((0.9 - 0.2) / 0.8)
    assert corrected["label"] == "Rogan-Gladen, rates measured in the run"
    text = (folder.root / "summary.md").read_text()
    assert "rates measured in the run" in text
    assert (
        "| the same, corrected | not known and 0.250, each step by the error rates known or measured until then |"
        in text
    )
    row = next(line for line in text.splitlines() if "sentinels, judge" in line)
    assert "6 of 52 wrong responses accepted, 2 of 18 right ones rejected; worst family: key ':', 6 of 12" in row
    assert "| no verdict, judge | 40 of 50 verdicts had no value (2 x): slow |" in text
    assert "; its breaker opened 1 x; in quarantine: 'Solution:'" in row
