"""`swarm certify` and the check before `swarm run`, by the command itself."""

from __future__ import annotations

import json
import shlex
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from cluster.certify import require
from cluster.check import check
from cluster.cli import group
from swarm.config import JudgeSection
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

FAIR = "    return [float(text == right) for text, right in zip(completions, answer)]\n"


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


def test_a_certificate_of_other_questions_is_refused_and_the_mend_is_the_whole_command(recipe) -> None:
    recipe.write_text(RECIPE.format(use='{ name = "exact", extract = "number" }'))
    assert swarm("certify", recipe, "--items", 20).exit_code == 0
    settings = ["actors.tasks=[{name='reasoning_gym', family='gcd'}]"]
    with pytest.raises(ConfigError, match="of other questions") as caught:
        require(recipe, check(recipe, settings), settings)
    command = str(caught.value).partition("`")[2].rstrip("`")
    done = swarm(*shlex.split(command)[1:], "--items", 20)
    assert done.exit_code == 0, done.output
    assert require(recipe, check(recipe, settings), settings)


def test_it_is_written_to_where_the_recipe_looks_for_it(recipe) -> None:
    text = RECIPE.format(use='{ name = "exact", extract = "number" }')
    recipe.write_text(text.replace("require_certificate", 'certificate = "there/exact.json"\nrequire_certificate'))
    done = swarm("certify", recipe, "--items", 20)
    assert done.exit_code == 2
    assert "make its folder, or give another file with --out" in done.output
    Path("there").mkdir()
    assert swarm("certify", recipe, "--items", 20).exit_code == 0
    assert require(recipe, check(recipe)) == Path("there/exact.json")


def mended(error: ConfigError) -> Result:
    """The command that a message names, as one types it."""
    make = str(error).partition("`")[2].partition("`")[0]
    return swarm(*shlex.split(make)[1:], "--items", 20)


COUNTS = {"wrong": 50, "accepted_wrong": 5, "right": 50, "rejected_right": 5}


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (None, "cannot be read"),
        ("{", "cannot be read"),
        (json.dumps({"channels": {"exact": {"": COUNTS}}, "digest": "0"}), "was changed after it was made"),
        (json.dumps({"channels": {"judge": {"": COUNTS}}}), "counts errors of judge, of no rewarder"),
        (json.dumps({"channels": {}}), "counts errors of nobody, of no rewarder"),
    ],
)
def test_error_rates_that_are_none_are_mended_by_the_command_that_the_message_names(recipe, text, why) -> None:
    recipe = recipe.with_name("my recipe.toml")
    recipe.write_text(
        RECIPE.format(use='"choice"').replace("require_certificate = true", "")
        + '[rewarders.channels]\ncertificate = "my rates.json"\n'
    )
    settings = ['rewarders.use=[{ name = "exact", extract = "number" }]']
    if text is not None:
        Path("my rates.json").write_text(text)
    with pytest.raises(ConfigError, match=why) as caught:
        check(recipe, settings)
    done = mended(caught.value)
    assert done.exit_code == 0, done.output
    assert require(recipe, check(recipe, settings), settings) is None


def test_error_rates_of_another_version_of_a_rewarder_are_refused(recipe) -> None:
    text = RECIPE.format(use='{ name = "exact", extract = "number" }').replace("require_certificate = true", "")
    text += '[rewarders.channels]\ncertificate = "rates.json"\n'
    recipe.write_text(text)
    with pytest.raises(ConfigError) as caught:
        check(recipe)
    assert mended(caught.value).exit_code == 0
    assert require(recipe, check(recipe)) is None
    recipe.write_text(text.replace('"number"', '"last_line"'))
    done = swarm("run", recipe)
    assert done.exit_code == 2
    assert "rewarders.channels.certificate: rates.json: stale: rewarder exact is another one now" in done.output
    assert not (recipe.parent / "runs").exists()
    with pytest.raises(ConfigError) as caught:
        require(recipe, check(recipe))
    done = mended(caught.value)
    assert require(recipe, check(recipe)) is None, done.output
    body = json.loads(Path("rates.json").read_text())
    Path("rates.json").write_text(json.dumps({"channels": body["channels"]}))  # stated by hand: of no version
    recipe.write_text(text)
    assert require(recipe, check(recipe)) is None


def test_a_resume_asks_again(recipe) -> None:
    use = '{ name = "function", path = "certify_rewards:fair", about_truth = true }'
    Path("certify_rewards.py").write_text("def fair(completions, answer, **rest):\n" + FAIR)
    recipe.write_text(RECIPE.format(use=use))
    assert swarm("certify", recipe, "--items", 20).exit_code == 0
    run = recipe.with_name("run")
    run.mkdir()
    (run / "config.toml").write_text(check(recipe).to_toml())
    shutil.copy(recipe.with_name("mine.certificate.json"), run / "certificate.json")
    assert require(run / "config.toml", check(run / "config.toml"), path=run / "certificate.json")
    Path("certify_rewards.py").write_text(
        "def fair(completions, answer, **rest):\n    # paid more\n" + FAIR + "\n\nx = 1\n"
    )
    done = swarm("resume", run)
    assert done.exit_code == 2
    assert "stale: rewarder function is another one now" in done.output
    assert f"--out {run / 'certificate.json'}" in done.output


def test_a_judge_that_was_served_is_closed_where_the_next_cannot_be(recipe, monkeypatch) -> None:
    judges = "".join(f'[[rewarders.judges]]\nname = "{name}"\nmodel = "tiny"\n' for name in ("one", "two", "three"))
    recipe.write_text(RECIPE.format(use='{ name = "yes_no", judge = "one" }') + judges)
    made: list[str] = []
    closed: list[str] = []

    class Served:
        def __init__(self, section: JudgeSection, folder: Path, dtype: str) -> None:
            if section.name == "three":
                raise ConnectionError("no room for it")
            self.name = section.name
            made.append(section.name)

        def close(self) -> None:
            closed.append(self.name)

    monkeypatch.setattr("cluster.served_judge.resolve", lambda path, say: Path(path))
    monkeypatch.setattr("cluster.served_judge.ServedJudge", Served)
    done = swarm("certify", recipe, "--items", 5)
    assert isinstance(done.exception, ConnectionError)
    assert "no room for it" in str(done.exception)
    assert made == ["one", "two"]
    assert closed == ["two", "one"]


def test_an_endpoint_whose_key_is_not_set_is_said_before_a_judge_is_served(recipe, monkeypatch) -> None:
    monkeypatch.delenv("CERTIFY_KEY", raising=False)
    served = '[[rewarders.judges]]\nname = "here"\nmodel = "tiny"\n'
    judge = '[[rewarders.judges]]\nname = "one"\nmodel = "m"\nendpoint = "http://127.0.0.1:9/v1"\n'
    use = '{ name = "yes_no", judge = "one" }, { name = "yes_no", judge = "here" }'
    recipe.write_text(RECIPE.format(use=use) + served + judge + 'key_env = "CERTIFY_KEY"\n')
    done = swarm("certify", recipe, "--items", 5)
    assert done.exit_code == 2, done.output
    assert done.output.strip() == "swarm: rewarders.judges, one: environment variable CERTIFY_KEY is not set"


def test_an_option_that_is_none_is_said_before_a_judge_is_served(recipe) -> None:
    served = '[[rewarders.judges]]\nname = "here"\nmodel = "tiny"\n'
    recipe.write_text(RECIPE.format(use='{ name = "yes_no", judge = "here", template = "Is it?" }') + served)
    done = swarm("certify", recipe, "--items", 5)
    assert done.exit_code == 2, done.output
    assert "template: lacks {" in done.output
    assert "starting judge" not in done.output
