"""`swarm rescore --rates`: error rates without gold, on answers of a run and rewarders whose rates are known."""

from __future__ import annotations

import asyncio
import io
import json
import random
import tomllib
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from rich.console import Console

from cluster import cli
from cluster.check import check
from cluster.rescore_rates import Crowd, show_rates
from swarm.config import WeightedSpec
from swarm.journal import RunFolder
from swarm.schema import write_groups
from swarm.types import Finish, Group, Prompt, Rollout, Span, Status, Verdict
from tests.minimal_recipe import MINIMAL

GROUPS, SIZE, RIGHT = 100, 8, 0.6


def verdict(right: bool) -> Verdict:
    return Verdict("exact", Status.SCORED, float(right))


def group(number: int, dice: random.Random, has_gold: bool = True) -> Group:
    answer = 1000 + number
    texts = [str(answer if dice.random() < RIGHT else answer + dice.randint(1, 400)) for _ in range(SIZE)]
    one, spans, mask = np.array([1], np.int32), (Span(0, 0, 1),), np.ones(1, bool)
    rollouts = tuple(
        Rollout(one, np.zeros(1, np.float32), spans, text, Finish.STOP, mask, verdicts=(verdict(text == str(answer)),))
        for text in texts
    )
    prompt = Prompt(f"p{number}", f"What is 1000 + {number}?", str(answer) if has_gold else None, "sums")
    return Group(f"g{number}", number, 0, prompt, one, rollouts, "learner", 0, 1.0, False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    made = RunFolder.create_at(tmp_path_factory.mktemp("rates") / "run")
    made.config.write_text(MINIMAL)
    dice = random.Random(0)
    for step in range(1, 5):
        write_groups(made.batch(step), [group(step * GROUPS + i, dice) for i in range(GROUPS // 4)])
    return made


def noisy(false_accept: float, false_reject: float, seed: int) -> str:
    rates = f"false_accept = {false_accept}, false_reject = {false_reject}, seed = {seed}"
    return f"{{name = 'noisy', of = 'exact', {rates}}}"


def rates(folder: RunFolder, *use: str, questions: int = 60, as_json: bool = True) -> Result:
    settings = ["--set", f"rewarders.use=[{', '.join(use)}]", "--rates", str(questions)]
    return CliRunner().invoke(cli.group, ["rescore", str(folder.root), *settings, *(["--json"] if as_json else [])])


def test_rates_are_found_without_gold(folder: RunFolder) -> None:
    known = [(0.1, 0.3), (0.3, 0.1), (0.05, 0.2)]
    done = rates(folder, *(noisy(*pair, seed) for seed, pair in enumerate(known)))
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)["rates"]
    assert (found["answers"], found["sentinels"]["right"]) == (GROUPS * SIZE, 60)
    for (accept, reject), r in zip(known, found["rewarders"].values(), strict=True):
        assert abs(r["false_accept"] - accept) < 0.08
        assert abs(r["false_reject"] - reject) < 0.08
    assert abs(found["right"] - RIGHT) < 0.08
    assert found["shared"] == []


def test_rewarders_that_err_together_are_named(folder: RunFolder) -> None:
    key = "{name = 'noisy', of = 'exact', kind = 'systematic', pattern = '[13579]$'}"
    done = rates(folder, key, key, noisy(0.1, 0.1, 0), as_json=False)
    assert done.exit_code == 0, done.output
    text = " ".join(done.output.split())
    assert "noisy and noisy-2 err together on wrong answers (correlation 1.00" in text


def test_the_lines_for_a_recipe_can_be_used(folder: RunFolder, tmp_path: Path) -> None:
    done = rates(folder, noisy(0.1, 0.3, 0), noisy(0.2, 0.1, 1), questions=20, as_json=False)
    lines = done.output[done.output.index("[rewarders.channels]") :]
    given = tomllib.loads(lines)["rewarders"]["channels"]["rates"]
    assert [r["rewarder"] for r in given] == ["noisy", "noisy-2"]
    recipe = tmp_path / "mine.toml"
    recipe.write_text(MINIMAL.replace('use = ["exact"]', f"use = [{noisy(0.1, 0.3, 0)}, {noisy(0.2, 0.1, 1)}]") + lines)
    channels = check(recipe).rewarders.channels
    assert channels is not None
    assert [r.false_accept for r in channels.rates] == [r["false_accept"] for r in given]


@pytest.mark.parametrize(
    ("use", "said"),
    [
        (["'exact'"], "compares rewarders that judge truth, and here is 1 (exact)"),
        (["'exact'", "{name = 'length', most = 9}"], "here is 1 (exact, length)"),
        (
            ["'exact'", "'choice'"],
            "can be compared: choice gave no vote on right sentinels, wrong sentinels, attack sentinels",
        ),
        (["'exact'", "{name = 'exact', extract = 'boxed'}"], "in different forms: exact ..., exact-2 \\boxed{...}"),
    ],
)
def test_what_cannot_be_compared_is_said_before_an_answer_is_judged(folder: RunFolder, use, said) -> None:
    before = set(folder.root.iterdir())
    done = rates(folder, *use)
    assert done.exit_code == 2
    assert said in " ".join(done.stderr.split())
    assert set(folder.root.iterdir()) == before


LOOSE = "{name = 'exact', ignore_case = true}"


def test_a_rewarder_that_never_votes_is_left_out_by_name(folder: RunFolder) -> None:
    """It was recommended with a false accept rate of 0."""
    found = json.loads(rates(folder, "'exact'", LOOSE, "'choice'", questions=20).stdout)["rates"]
    assert {label: r["votes"] for label, r in found["rewarders"].items()} == {"exact": 800, "exact-2": 800}
    why = "gave no vote on the answers, right sentinels, wrong sentinels, attack sentinels (abstained: "
    assert list(found["left_out"]) == ["choice"]
    assert found["left_out"]["choice"].startswith(why)
    shown = rates(folder, "'exact'", LOOSE, "'choice'", questions=20, as_json=False).output
    assert "choice gave no vote on the answers" in " ".join(shown.split())
    lines = tomllib.loads(shown[shown.index("[rewarders.channels]") :])
    assert [r["rewarder"] for r in lines["rewarders"]["channels"]["rates"]] == ["exact", "exact-2"]


def test_answers_that_nobody_judged_are_not_counted_as_wrong(tmp_path: Path) -> None:
    made, dice = RunFolder.create_at(tmp_path / "run"), random.Random(0)
    made.config.write_text(MINIMAL)
    write_groups(made.batch(1), [group(i, dice, has_gold=i % 2 == 0) for i in range(60)])
    found = json.loads(rates(made, "'exact'", LOOSE, questions=20).stdout)["rates"]
    assert (found["answers"], found["unjudged"]) == (480, 240)
    assert abs(found["right"] - RIGHT) < 0.1
    assert "240 without any vote" in rates(made, "'exact'", LOOSE, questions=20, as_json=False).output


def test_questions_without_answers_are_said_before_anything_is_judged(tmp_path: Path) -> None:
    made = RunFolder.create_at(tmp_path / "run")
    made.config.write_text(MINIMAL)
    write_groups(made.batch(1), [group(i, random.Random(0), has_gold=i == 0) for i in range(3)])
    done = rates(made, "'exact'", LOOSE)
    assert done.exit_code == 2
    assert "fewer than two recorded questions have an answer or tests" in " ".join(done.stderr.split())
    assert not list(made.root.glob("rescored-*"))


def crowd() -> Crowd:
    return Crowd([WeightedSpec(name="exact"), WeightedSpec(name="exact", options={"ignore_case": True})])


def test_without_votes_on_the_answers_there_are_no_rates() -> None:
    known = {"right": np.ones((4, 2)), "wrong": np.zeros((4, 2))}
    found = crowd().fit(np.array([[1.0, np.nan], [np.nan, np.nan]]), known)
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert (found["rewarders"], found["right"], list(found["left_out"])) == ({}, None, ["exact-2"])
    console = Console(file=io.StringIO(), width=200)
    show_rates(console, found)
    assert "there are no rates" in console.file.getvalue()  # type: ignore[attr-defined]
    assert "rates = [" not in console.file.getvalue()  # type: ignore[attr-defined]


def test_sentinels_are_judged_at_once() -> None:
    async def main() -> None:
        together = asyncio.Barrier(5)

        async def judge(asked: Group) -> Group:
            await together.wait()  # for all five questions
            scores = [float(r.text == asked.prompt.answer) for r in asked.rollouts]
            return asked.with_verdicts(
                [tuple(Verdict(name, Status.SCORED, s) for name in ("exact", "exact-2")) for s in scores]
            )

        compared = crowd()
        made = compared.sentinels([group(i, random.Random(0)).prompt for i in range(5)], 5, 0)
        async with asyncio.timeout(20):
            known = await compared.known(made, judge)
        assert (known["right"] == 1.0).all()
        assert (known["wrong"] == 0.0).all()
        assert sum(map(len, known.values())) == sum(map(len, made))

    asyncio.run(main())
