"""What a recipe can get wrong about its rewarders' errors, told before anything starts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cluster.check import check
from rewarders.certificate import digest_of
from swarm.errors import ConfigError
from tests.minimal_recipe import MINIMAL

CHANNELS = '[rewarders.channels]\nrates = [{ rewarder = "exact", false_accept = 0.1, false_reject = 0.2 }]\n'


def recipe(folder: Path, extra: str = CHANNELS) -> Path:
    path = folder / "mine.toml"
    path.write_text(MINIMAL + extra)
    return path


def settings(**given: str) -> list[str]:
    return [f"learners.{key}={json.dumps(value)}" for key, value in given.items()]


@pytest.mark.parametrize(
    "given",
    [
        {"noise": "backward", "advantage": "leave_one_out"},
        {"noise": "backward", "advantage": "mean_only"},
        {"noise": "forward", "advantage": "no_baseline"},
        {"on_failure": "ipw"},
    ],
)
def test_what_does_something_is_taken(tmp_path: Path, given: dict[str, str]) -> None:
    check(recipe(tmp_path), settings(**given))


@pytest.mark.parametrize("advantage", ["running_std", "batch_std"])
def test_a_scale_takes_one_pair_of_rates_off_again_and_leaves_what_strata_do(tmp_path: Path, advantage: str) -> None:
    given = settings(noise="backward", advantage=advantage)
    check(recipe(tmp_path, CHANNELS + 'stratify = ["format"]\n'), given)
    check(recipe(tmp_path), [*given, 'learners.truncation="soft_overlong"'])
    check(recipe(tmp_path), [*given, 'rewarders.use=["exact", "numeric"]'])
    with pytest.raises(ConfigError, match="one rewarder without strata has one pair of rates"):
        check(recipe(tmp_path), given)


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"noise": "backward"}, "group_norm divides by each group's own deviation. The correction is affine"),
        (
            {"noise": "forward", "advantage": "gdpo"},
            "takes it off again exactly where a group shares one pair of rates",
        ),
        ({"noise": "backward", "advantage": "receiver_baseline"}, "not linear in the reward"),
        ({"noise": "backward", "advantage": "bnpo"}, "not linear in the reward"),
        ({"noise": "forward", "advantage": "leave_one_out"}, "takes off the group's mean, and with it 1 - p1"),
        ({"noise": "backward", "loss": "copg"}, "reads rewards as given"),
        ({"on_failure": "ipw", "loss": "sft"}, "weighs advantages, which do not enter learners.loss = sft"),
        ({"noise": "backwards"}, 'did you mean "backward"'),
    ],
)
def test_what_does_nothing_is_refused_with_the_reason(tmp_path: Path, given: dict[str, str], why: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check(recipe(tmp_path), settings(**given))
    assert why in str(caught.value)


@pytest.mark.parametrize(
    ("extra", "why"),
    [
        ("", "no verdict would carry error rates"),
        ('[rewarders.channels]\ngold = "exakt"\n', 'no such rewarder in rewarders.use; did you mean "exact"?'),
        (CHANNELS.replace('"exact"', '"judge"'), 'rates.0.rewarder = "judge": no such rewarder'),
        ('[rewarders.channels]\ncertificate = "nowhere.json"\n', "certificate nowhere.json: cannot be read"),
    ],
)
def test_channels_of_nobody_are_refused(tmp_path: Path, extra: str, why: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check(recipe(tmp_path, extra), settings(noise="backward", advantage="leave_one_out"))
    assert why in str(caught.value)


def test_the_judge_that_is_appealed_to_has_rates_of_its_own(tmp_path: Path) -> None:
    config = check(recipe(tmp_path, CHANNELS.replace('"exact"', '"exact/appeal"')))
    assert config.rewarders.channels.rates[0].rewarder == "exact/appeal"


def test_a_certificate_of_others_or_a_changed_one_gives_no_rates(tmp_path: Path) -> None:
    path = tmp_path / "c.json"
    counts = {"wrong": 50, "accepted_wrong": 5, "right": 50, "rejected_right": 5}
    mine = recipe(tmp_path, f'[rewarders.channels]\ncertificate = "{path}"\n')
    path.write_text(json.dumps({"channels": {"exact": {"": counts}}}))
    check(mine)
    path.write_text(json.dumps({"channels": {"judge": {"": counts}}}))
    with pytest.raises(ConfigError, match=r"counts errors of judge, of no rewarder of this recipe \(exact\); make one"):
        check(mine)
    body = {"channels": {"exact": {"": counts}}}
    path.write_text(json.dumps(body | {"digest": digest_of(body)}))
    check(mine)
    path.write_text(json.dumps({"channels": {"exact": {"": counts | {"wrong": 500}}}, "digest": digest_of(body)}))
    with pytest.raises(ConfigError, match="was changed after it was made; make one with `swarm certify "):
        check(mine)
