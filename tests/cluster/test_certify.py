"""`swarm certify` and the check before `swarm run`, by the command itself."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from cluster.certify import require
from cluster.check import check
from cluster.cli import group
from swarm.errors import ConfigError

RECIPE = """
[model]
path = "tiny"
[actors]
tasks = [{{ name = "reasoning_gym", family = "chain_sum" }}]
[rewarders]
use = [{use}]
require_certificate = true
[learners]
steps = 5
"""
FUNCTION = """
import random
rng = random.Random(0)
def coin(completions, **columns):
    return [float(rng.random() < 0.5) for _ in completions]
"""


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONHASHSEED", "0")
    Path("certify_rewards.py").write_text(FUNCTION)
    return tmp_path / "mine.toml"


def swarm(*args: object) -> Result:
    return CliRunner().invoke(group, [str(a) for a in args])


def test_good_rewarders_pass_and_their_file_is_what_run_asks_for(recipe) -> None:
    use = '{ name = "reasoning_gym" }, { name = "exact", extract = "number" }'
    recipe.write_text(RECIPE.format(use=use))
    with pytest.raises(ConfigError, match="no such certificate; make one with `swarm certify"):
        require(recipe, check(recipe))
    done = swarm("certify", recipe, "--items", 20)
    assert done.exit_code == 0, done.output
    assert "passed" in done.output
    path = recipe.with_name("mine.certificate.json")
    assert require(recipe, check(recipe)) == path
    found = json.loads(path.read_text())
    assert set(found["rewarders"]) == {"reasoning_gym", "exact"}
    assert found["channels"]["exact"]["family=chain_sum"]["right"] == 20
    recipe.write_text(RECIPE.format(use=use.replace('"number"', '"last_line"')))
    with pytest.raises(ConfigError, match="stale: rewarder exact is another one now"):
        require(recipe, check(recipe))


def test_a_random_reward_is_refused_with_its_figures_and_run_refuses_it_too(recipe) -> None:
    recipe.write_text(RECIPE.format(use='{ name = "function", path = "certify_rewards:coin", about_truth = true }'))
    done = swarm("certify", recipe, "--items", 20, "--json")
    assert done.exit_code == 1
    assert "function: J is" in done.output
    assert "its lower bound is below 0.5" in done.output
    run = swarm("run", recipe)
    assert run.exit_code == 2
    assert "refused: function: J is" in run.output
    assert not (recipe.parent / "runs").exists()


def test_where_nobody_judges_truth_nothing_is_certified(recipe) -> None:
    recipe.write_text(RECIPE.format(use='{ name = "function", path = "certify_rewards:coin" }'))
    done = swarm("certify", recipe, "--items", 5)
    assert done.exit_code == 1
    assert "no rewarder judges truth" in done.output


def test_a_recipe_that_asks_for_none_needs_none(recipe) -> None:
    recipe.write_text(RECIPE.format(use='"exact"').replace("require_certificate = true", ""))
    assert require(recipe, check(recipe)) is None
