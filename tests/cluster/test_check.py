"""`check(recipe)`: everything that a recipe gets wrong, told at once, in process and with nothing heavy imported."""

from __future__ import annotations

from pathlib import Path

import pytest

from cluster.check import check
from swarm.errors import ConfigError

GOOD = """
[model]
path = "tiny"
[actors]
tasks = [{ name = "reasoning_gym", family = "gcd" }]
[rewarders]
use = ["exact"]
[learners]
steps = 5
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "mine.toml"
    path.write_text(GOOD)
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
