"""`model.dtype = "auto"`: what a processor says of itself, and what becomes of a recipe."""

from __future__ import annotations

from pathlib import Path

import pytest

from cluster.precision import native_bfloat16, settled
from swarm.config import RunConfig, parse

FLAGS = {
    "flags\t\t: fpu sse2 avx2 fma": False,
    "flags\t\t: fpu avx512f avx512bw avx512_vnni": False,
    "flags\t\t: fpu avx512f avx512_bf16": True,
    "flags\t\t: fpu amx_tile amx_bf16": True,
    "Features\t: fp asimd bf16 i8mm": True,
    "Features\t: fp asimd": False,
    "model name\t: without flags, named bf16": False,
}


def recipe(dtype: str | None = None, **sections: dict) -> RunConfig:
    data = {
        "model": {"path": "tiny"} | ({"dtype": dtype} if dtype else {}),
        "actors": {"tasks": [{"name": "reasoning_gym", "family": "x"}]},
        "rewarders": {"use": ["exact"]},
        "learners": {"steps": 5},
    }
    return parse({name: data.get(name, {}) | sections.get(name, {}) for name in {*data, *sections}}, "test")


@pytest.mark.parametrize("line", FLAGS)
def test_a_processor_is_believed(line: str, tmp_path: Path) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text(f"processor\t: 0\n{line}\nbugs\t\t: bf16\n")
    assert native_bfloat16(cpuinfo) is FLAGS[line]
    assert settled(recipe(), cpuinfo).model.dtype == ("bfloat16" if FLAGS[line] else "float32")


def test_a_machine_that_says_nothing_gets_float32(tmp_path: Path) -> None:
    assert settled(recipe(), tmp_path / "none").model.dtype == "float32"


@pytest.mark.parametrize(
    ("roles", "dtype"), [(("actors", "learners"), "bfloat16"), (("actors",), "float32"), (("learners",), "float32")]
)
def test_gpus_mean_bfloat16_where_both_sides_have_them(roles: tuple[str, ...], dtype: str, tmp_path: Path) -> None:
    assert settled(recipe(**{role: {"gpus": 1.0} for role in roles}), tmp_path / "none").model.dtype == dtype


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_what_a_recipe_says_stays(dtype: str, tmp_path: Path) -> None:
    config = recipe(dtype)
    assert settled(config, tmp_path / "none") is config
