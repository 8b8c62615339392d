"""`check(recipe)`: everything that a recipe gets wrong, told at once, in process and with nothing heavy imported."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cluster.check import check
from cluster.doctor import missing
from swarm.errors import ConfigError
from tests.minimal_recipe import MINIMAL


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "mine.toml"
    path.write_text(MINIMAL)
    return path


def problems(recipe: Path, *overrides: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        check(recipe, overrides)
    return str(caught.value).splitlines()


def test_a_good_recipe_comes_back_with_its_dtype_settled(recipe: Path) -> None:
    assert check(recipe).model.dtype in ("bfloat16", "float32")


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("actors.engine=vlm", 'actors.engine.name = "vlm": no such part; did you mean "vllm"?'),
        ("actors.engine={name = 'vllm', max_seqs = 3}", "actors.engine.max_seqs: unknown option of vllm"),
        ("actors.engine={name = 'vllm', max_num_seqs = 'x'}", "actors.engine.max_num_seqs = 'x': "),
        ("actors.tasks=[{name = 'jsonl'}]", "actors.tasks.0.path: missing; jsonl needs it"),
        ("actors.select=gmv", 'actors.select.name = "gmv": no such part; did you mean "gvm"?'),
        ("actors.select={name = 'variance_aware', mixx = 1}", "actors.select.mixx: unknown option of variance_aware"),
        ("actors.select={name = 'gvm', group_size = 4}", "actors.select.group_size: unknown option of gvm"),
        ("learners.loss=grop", 'learners.loss.name = "grop": no such part; did you mean "grpo"?'),
        ("rewarders.use=[{name = 'function', path = 'no_such_module:f'}]", "rewarders.use.0.path = 'no_such_module:f'"),
        ("learners.offload=true", "learners.offload = true: ZeRO does it; set learners.zero_stage to 1, 2 or 3"),
        ("learners.updates_per_step=9", "learners.updates_per_step = 9: a batch has only 8 groups"),
    ],
)
def test_what_a_well_formed_recipe_gets_wrong_is_named_with_its_file(recipe: Path, override: str, said: str) -> None:
    (found,) = problems(recipe, override)
    assert found.startswith(f"{recipe}: ")
    assert said in found


def test_all_problems_come_at_once(recipe: Path) -> None:
    wrong = ("actors.engine=vlm", "learners.loss=grop", "cluster.placement=inline", "cluster.address=auto")
    found = problems(recipe, *wrong, "learners.ranks=2")
    assert len(found) == 4
    assert 'learners.ranks = 2: ranks are processes, and placement = "inline" has one' in found[-2]
    assert 'only placement = "ray" has a cluster' in found[-1]


SHARES = (("exact", 0.7), ("numeric", 0.2), ("choice", 0.1))
"""Weights whose sum rounds to above 1."""
RULES = [
    ({"learners.advantage": "pure"}, "no rewarder of this recipe judges steps"),
    ({"learners.advantage": "bnpo", "learners.truncation": "soft_overlong"}, "needs rewards in"),
    ({"learners.advantage": "bnpo", "rewarders.use": [{"name": "truth", "rule": "exact"}]}, r"are in \[-1, 1\]"),
    ({"learners.advantage": "bnpo", "rewarders.use": [{"name": "exact", "weight": 2.0}]}, r"are in \[0, 2\]"),
    ({"learners.loss": "copg", "learners.advantage": "mean_only"}, "neither advantages nor the sampler"),
    ({"learners.loss": "sft", "learners.correction": "masked"}, "neither advantages nor the sampler"),
    ({"learners.proximal": "behaviour", "learners.correction": "masked"}, "all weights are 1"),
    ({"learners.kl_estimator": "k1"}, "there is no penalty"),
    ({"actors.select": "curriculum"}, "there is one task source"),
    ({"actors.resample": 1.0, "learners.advantage": "receiver_baseline"}, "learns from them"),
    ({"learners.correction": {"name": "truncated", "cap": 0.0}}, "learners.correction.cap"),
    ({"learners.loss": {"name": "ppo", "clip": -1.0}}, "learners.loss.clip"),
]


@pytest.mark.parametrize(("settings", "wanted"), RULES)
def test_parts_of_a_rule_that_do_nothing_together_are_refused(
    recipe: Path, settings: dict[str, object], wanted: str
) -> None:
    overrides = [f"{key}={_toml(value)}" for key, value in settings.items()]
    with pytest.raises(ConfigError, match=wanted):
        check(recipe, overrides)


@pytest.mark.parametrize(
    "settings",
    [
        {"learners.advantage": {"name": "pure", "outcome": 1.0}},
        {"learners.loss": "copg"},
        {"learners.loss": "ppo", "learners.proximal": "behaviour", "learners.correction": "none"},
        {"learners.kl_estimator": "k1", "learners.kl_coef": 0.1},
        {"actors.resample": 1.0},
        {"learners.advantage": "bnpo"},
        {"learners.advantage": "bnpo", "rewarders.use": [{"name": n, "weight": w} for n, w in SHARES]},
    ],
)
def test_parts_of_a_rule_that_go_together_are_taken(recipe: Path, settings: dict[str, object]) -> None:
    check(recipe, [f"{key}={_toml(value)}" for key, value in settings.items()])


def _toml(value: object) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{k} = {_toml(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return json.dumps(value)


JUDGE = "{name = 'j', model = 'm', endpoint = 'http://127.0.0.1:1/v1'}"


@pytest.mark.parametrize(
    ("use", "judges", "said"),
    [
        ("{name = 'yes_no', judge = 'k'}", JUDGE, 'rewarders.use.0.judge = "k": no such judge; known: j'),
        ("{name = 'yes_no', judge = 'jj'}", JUDGE, 'did you mean "j"?'),
        ("{name = 'yes_no', judge = 'j'}", "", "no such judge; there is no [[rewarders.judges]]"),
        ("{name = 'yes_no'}", JUDGE, "rewarders.use.0.judge: missing; yes_no needs it"),
        ("{name = 'rubric', judge = 3}", JUDGE, "rewarders.use.0.judge = 3: Input should be a valid string"),
        ("{name = 'exact', judge = 'j'}", JUDGE, "rewarders.use.0.judge: unknown option of exact"),
        ("'exact'", f"{JUDGE}, {JUDGE}", 'rewarders.judges.1.name = "j": there is another judge'),
        ("'exact'", "{name = 'j', model = 'm', endpoint = 'h:1'}", "rewarders.judges.0.endpoint = 'h:1': wanted http"),
        ("'exact'", "{name = 'j', model = 'm', key_env = 'K'}", "without an endpoint there is nothing to send a key"),
    ],
)
def test_a_judge_that_is_not_there_or_cannot_be_asked_is_named(recipe: Path, use: str, judges: str, said: str) -> None:
    found = problems(recipe, f"rewarders.use=[{use}]", f"rewarders.judges=[{judges}]")
    assert any(said in problem for problem in found), found


KEY = "sk-mQ7secret"


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        (f"key = '{KEY}'", 'rewarders.judges.0.key = (not shown): unknown key; did you mean "key_env"?'),
        (f"api_key = '{KEY}'", "rewarders.judges.0.api_key = (not shown): unknown key"),
        (f"token = '{KEY}'", "rewarders.judges.0.token = (not shown): unknown key"),
        (f"key_env = '{KEY}'", "rewarders.judges.0.key_env = (not shown): wanted the name of a variable"),
        (
            f"key_env = ['{KEY}']",
            "rewarders.judges.0.key_env = (not shown): wanted the name of a variable, in capitals",
        ),
        (f"endpoint = 'http://me:{KEY}@h:x/v1'", "rewarders.judges.0.endpoint = (not shown): a URL with a user name"),
    ],
)
def test_a_key_in_the_wrong_place_is_refused_and_not_repeated(recipe: Path, setting: str, said: str) -> None:
    found = problems(recipe, f"rewarders.judges=[{{name = 'j', model = 'm', {setting}}}]")
    assert any(said in problem for problem in found), found
    assert KEY not in "\n".join(found)


@pytest.mark.parametrize("judge", [JUDGE, "{name = 'j', model = 'tiny'}"])
def test_judges_with_and_without_an_endpoint_are_taken(recipe: Path, judge: str) -> None:
    use = "[{name = 'yes_no', judge = 'j'}, {name = 'principles', judge = 'j', principles = ['It is kind.']}]"
    check(recipe, [f"rewarders.use={use}", f"rewarders.judges=[{judge}]"])


def test_doctor_misses_a_key_that_is_not_in_the_environment(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    judge = JUDGE.replace("}", ", key_env = 'TEST_JUDGE_KEY'}")
    monkeypatch.delenv("TEST_JUDGE_KEY", raising=False)
    config = check(recipe, [f"rewarders.judges=[{judge}]"])
    assert any("environment variable TEST_JUDGE_KEY is not set" in problem.text for problem in missing(config))
    monkeypatch.setenv("TEST_JUDGE_KEY", "k")
    assert not any("TEST_JUDGE_KEY" in problem.text for problem in missing(config))
