"""Recipes: what is refused, in which words, and that a resolved one reads back as it is."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarm import config
from swarm.config import RunConfig, load, nearest, parse
from swarm.errors import ConfigError

RECIPE = """
name = "sums"
[model]
path = "tiny"
[actors]
tasks = [{ name = "reasoning_gym", weight = 2, family = "chain_sum", config = { max_terms = 2 } }, "other"]
[rewarders]
use = ["exact"]
[learners]
steps = 30
loss = { name = "grpo", clip_high = 0.28 }
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "sums.toml"
    path.write_text(RECIPE)
    return path


def problems_of(path: Path, *overrides: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(path, overrides)
    assert caught.value.exit_code == 2
    return caught.value.problems


def test_a_recipe_loads_with_defaults_and_options_beside_names(recipe: Path) -> None:
    read = load(recipe)
    assert (read.learners.steps, read.learners.max_lag, read.cluster.placement) == (30, 1, "ray")
    assert read.learners.loss.options == {"clip_high": 0.28}
    first, second = read.actors.tasks
    assert (first.weight, first.options) == (2.0, {"family": "chain_sum", "config": {"max_terms": 2}})
    assert (second.name, second.weight, second.options) == ("other", 1.0, {})


@pytest.mark.parametrize(
    ("override", "problem"),
    [
        ("learners.max_lagg=1", 'learners.max_lagg = 1: unknown key; did you mean "max_lag"?'),
        ("lerners.steps=1", "lerners = {'steps': 1}: unknown key; did you mean \"learners\"?"),
        ("zzz=1", "zzz = 1: unknown key; known: actors, cluster, eval, learners, model, name, rewarders, seed"),
        ("learners.steps=many", "learners.steps = 'many': wanted a whole number (Learner steps of the run)"),
        ("learners.steps=2.5", "learners.steps = 2.5: wanted a whole number (Learner steps of the run)"),
        ("learners.steps=true", "learners.steps = True: wanted a whole number (Learner steps of the run)"),
        ("learners.lr=high", "learners.lr = 'high': wanted a number (Peak learning rate)"),
        ("learners.lr=nan", "learners.lr = nan: wanted a finite number (Peak learning rate)"),
        ("learners.lr=inf", "learners.lr = inf: wanted a finite number (Peak learning rate)"),
        ("model.path=3", "model.path = 3: wanted a string (`smollm2-135m-instruct` or `tiny`"),
        ("learners.steps=0", "learners.steps = 0: wanted greater than or equal to 1 (Learner steps of the run)"),
        ("actors.group_size=1", "actors.group_size = 1: wanted greater than or equal to 2 (Rollouts per prompt)"),
        ("actors.temperature=2.5", "actors.temperature = 2.5: wanted less than or equal to 2 (Sampling temperature"),
        ("learners.zero_stage=4", "learners.zero_stage = 4: wanted less than or equal to 3"),
        ("learners.betas=[0.9]", "learners.betas = [0.9]: wanted a list of at least 2"),
        ("learners.betas=[0.9, 1.0]", "learners.betas.1 = 1.0: wanted less than 1"),
        ("model.dtype=float16", "model.dtype = 'float16': wanted 'auto', 'bfloat16' or 'float32'"),
        ("actors.tasks=[]", "actors.tasks = []: wanted a list of at least 1 (Task sources, mixed by weight)"),
        ("actors.tasks=sums", "actors.tasks = 'sums': wanted a list"),
        ("actors.tasks=[3]", "actors.tasks.0 = 3: wanted a name, or a table with a name"),
        ("rewarders.use=[{weight = 2}]", "rewarders.use.0.name: missing; wanted: Key in the registry"),
        ("rewarders.use=[{name = 'exact', weight = 0}]", "rewarders.use.0.weight = 0: wanted greater than 0"),
        ("model=tiny", "model = 'tiny': wanted a table [model]"),
        ("name=../up", "name = '../up': wanted pattern"),
        ("learners.keep_checkpoints=1", "learners.keep_checkpoints = 1: wanted greater than or equal to 2"),
    ],
)
def test_a_bad_value_is_named_with_file_key_value_and_what_was_wanted(
    recipe: Path, override: str, problem: str
) -> None:
    (found,) = problems_of(recipe, override)
    assert found.startswith(f"{recipe}: {problem}")


def test_all_problems_are_reported_at_once(recipe: Path) -> None:
    found = problems_of(recipe, "learners.stepz=3", "learners.lr=-1", "eval.questions=few", "actors.num=0")
    assert len(found) == 4
    for key in ("learners.stepz", "learners.lr", "eval.questions", "actors.num"):
        assert sum(key in problem for problem in found) == 1


def test_a_missing_section_and_a_missing_key_are_named(tmp_path: Path) -> None:
    path = tmp_path / "r.toml"
    path.write_text(re.sub(r"\[model\]\npath = .*\n", "", RECIPE).replace("steps = 30\n", ""))
    assert problems_of(path) == [
        f"{path}: model: missing; wanted a table [model]",
        f"{path}: learners.steps: missing; wanted: Learner steps of the run",
    ]


def test_a_long_value_is_shortened_in_messages(recipe: Path) -> None:
    (found,) = problems_of(recipe, f"learners.steps={'x' * 500}")
    assert len(found) < 250 + len(str(recipe))


def test_a_recipe_that_does_not_exist_suggests_the_nearest(recipe: Path) -> None:
    assert problems_of(recipe.with_name("sum.toml")) == [
        f'{recipe.with_name("sum.toml")}: no such recipe; did you mean "sums.toml"?'
    ]
    assert problems_of(recipe.parent / "nowhere" / "r.toml")[0].endswith("no such recipe")


@pytest.mark.parametrize("content", [b"name = ", b"[model\n", b"a = 1\na = 2\n"])
def test_invalid_toml_says_where(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "r.toml"
    path.write_bytes(content)
    (found,) = problems_of(path)
    assert found.startswith(f"{path}: not valid TOML: ")
    assert re.search(r"\((at line \d+, column \d+|at end of document)\)$", found)


def test_what_is_no_text_file_cannot_be_read_as_a_recipe(tmp_path: Path) -> None:
    (tmp_path / "r.toml").write_bytes(b"\xff\xfe\x00")
    for path in (tmp_path, tmp_path / "r.toml"):
        assert "cannot be read as a recipe" in problems_of(path)[0]


def test_overrides_reach_nested_keys_lists_and_bare_words(recipe: Path) -> None:
    read = load(
        recipe,
        [
            "learners.max_lag=0",
            "model.path=some/model=x",
            "learners.loss.clip_high=0.3",
            "eval.every = 5",
            "rewarders.use=['a', {name = 'b', weight = 0.5}]",
            'actors.system=""',
            "name=7b",
        ],
    )
    assert (read.learners.max_lag, read.model.path, read.eval.every) == (0, "some/model=x", 5)
    assert read.learners.loss.options == {"clip_high": 0.3}
    assert [(s.name, s.weight) for s in read.rewarders.use] == [("a", 1.0), ("b", 0.5)]
    assert (read.actors.system, read.name) == ("", "7b")


@pytest.mark.parametrize(
    ("override", "problem"),
    [
        ("learners.max_lag", "--set learners.max_lag: wanted key=value"),
        ("=3", "--set =3: wanted key=value"),
        ("name.first=3", "--set name.first=3: name is not a table in the recipe"),
        ("actors.tasks.0.weight=3", "--set actors.tasks.0.weight=3: tasks is not a table in the recipe"),
    ],
)
def test_a_bad_override_is_quoted(recipe: Path, override: str, problem: str) -> None:
    (found,) = problems_of(recipe, override)
    assert found.startswith(problem)


def test_bad_overrides_are_all_reported(recipe: Path) -> None:
    assert len(problems_of(recipe, "a", "b", "learners.steps=5")) == 2


def test_the_resolved_recipe_reads_back_equal(recipe: Path, tmp_path: Path) -> None:
    read = load(recipe, ["actors.engine={name = 'vllm', kv_bytes = 5}", "actors.system='a \"b\" \\n é'"])
    path = tmp_path / "config.toml"
    path.write_text(read.to_toml(), encoding="utf-8")
    assert load(path) == read


options = st.dictionaries(
    st.text("abcdefgh_", min_size=1, max_size=6).filter(lambda key: key not in ("name", "weight", "options")),
    st.integers(-9, 9) | st.booleans() | st.text(max_size=5) | st.lists(st.integers(0, 3), max_size=2)
    | st.dictionaries(st.text(max_size=4), st.integers(0, 3), max_size=2),
    max_size=3,
)  # fmt: skip


@given(task=options, loss=options, system=st.text(max_size=8), lr=st.floats(1e-9, 1), seed=st.integers(0, 2**40))
def test_any_options_survive_the_resolved_recipe(
    task: dict[str, Any], loss: dict[str, Any], system: str, lr: float, seed: int
) -> None:
    import tomllib

    read = parse(
        {
            "seed": seed,
            "model": {"path": "tiny"},
            "actors": {"tasks": [{"name": "t", "weight": 0.5, **task}], "system": system},
            "rewarders": {"use": ["exact"]},
            "learners": {"steps": 3, "lr": lr, "loss": {"name": "grpo", **loss}},
        },
        "here",
    )
    assert parse(tomllib.loads(read.to_toml()), "there") == read


def test_sections_are_frozen_and_every_key_is_documented(recipe: Path) -> None:
    with pytest.raises(ValueError, match="frozen"):
        load(recipe).learners.steps = 5  # type: ignore[misc]
    for name, info in RunConfig.model_fields.items():
        section = info.annotation
        if isinstance(section, type) and issubclass(section, config.Section):
            missing = [f"{name}.{key}" for key, field in section.model_fields.items() if not field.description]
            assert not missing


def test_nearest_names_one_or_all_or_none() -> None:
    assert nearest("grop", ["grpo", "ppo"]) == '; did you mean "grpo"?'
    assert nearest("zzz", ["grpo", "abc"]) == "; known: abc, grpo"
    assert nearest("zzz", []) == ""
