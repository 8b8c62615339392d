"""Staging: finiteness is read from bit patterns, stop ids from the folder."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from actors import staging
from swarm.errors import ActorError
from swarm.types import PolicyVersion, Weights
from swarm.weights import Tensor, combined, write


@given(hnp.arrays(np.float32, st.integers(1, 40), elements=st.floats(width=32)))
def test_float32_is_finite_exactly_where_numpy_says_so(values: np.ndarray) -> None:
    assert staging.is_finite(Tensor("float32", values.shape, memoryview(values).cast("B"))) == np.isfinite(values).all()


@given(hnp.arrays(np.uint16, st.integers(1, 40)))
def test_bfloat16_is_finite_exactly_where_the_float32_of_its_bits_is(bits: np.ndarray) -> None:
    wide = (bits.astype(np.uint32) << 16).view(np.float32)
    assert staging.is_finite(Tensor("bfloat16", bits.shape, memoryview(bits).cast("B"))) == np.isfinite(wide).all()


@given(hnp.arrays(np.float16, st.integers(1, 40), elements=st.floats(width=16)))
def test_float16_is_finite_exactly_where_numpy_says_so(values: np.ndarray) -> None:
    assert staging.is_finite(Tensor("float16", values.shape, memoryview(values).cast("B"))) == np.isfinite(values).all()


def test_one_bad_value_in_a_large_tensor_is_found() -> None:
    values = np.zeros(3_000_001, np.float32)
    assert staging.is_finite(Tensor("float32", values.shape, memoryview(values).cast("B")))
    values[-1] = np.inf
    assert not staging.is_finite(Tensor("float32", values.shape, memoryview(values).cast("B")))


def test_what_a_model_wants_is_what_its_parameters_are_with_a_tied_head_left_out(llama: str) -> None:
    from transformers import AutoModelForCausalLM

    net = AutoModelForCausalLM.from_pretrained(llama)
    wanted = staging.manifest(llama, "bfloat16")
    assert wanted == {name: ("bfloat16", tuple(p.shape)) for name, p in net.named_parameters()}
    assert "lm_head.weight" not in wanted


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_model_folder_is_read_as_a_published_set_of_any_dtype(llama: str, dtype: str) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    net = AutoModelForCausalLM.from_pretrained(llama, dtype=getattr(torch, dtype))
    found = staging.from_folder(llama, staging.manifest(llama, dtype))
    for name, p in net.named_parameters():
        assert bytes(found[name].data) == bytes(p.detach().contiguous().view(torch.uint8).numpy())


def test_a_folder_without_all_weights_is_refused(llama: str) -> None:
    with pytest.raises(ActorError, match="missing head"):
        staging.from_folder(llama, staging.manifest(llama, "float32") | {"head": ("float32", (1,))})


@pytest.mark.parametrize(
    ("files", "ids"),
    [
        ({"generation_config.json": {"eos_token_id": [4, 7]}, "config.json": {"eos_token_id": 9}}, (4, 7)),
        ({"generation_config.json": {}, "config.json": {"eos_token_id": 9}}, (9,)),
        ({}, ()),
    ],
)
def test_stop_ids_come_from_the_generation_config_else_from_the_config(tmp_path: Path, files: dict, ids: tuple) -> None:
    for name, content in files.items():
        (tmp_path / name).write_text(json.dumps(content))
    assert staging.stop_ids(str(tmp_path)) == ids


def test_a_set_that_is_not_what_was_published_is_refused_with_the_first_tensor_that_differs(tmp_path: Path) -> None:
    values = {"a": np.arange(3, dtype=np.float32), "b": np.ones(2, np.float32)}
    each, size = write(tmp_path / "w", {n: ("float32", v.shape, v) for n, v in values.items()})
    wanted = {n: ("float32", v.shape) for n, v in values.items()}
    published = Weights(PolicyVersion("learner", 0, 7), str(tmp_path / "w"), combined(each), size, tensors=each)
    assert list(staging.stage(published, wanted)) == ["a", "b"]
    values["b"][1] = 2
    write(tmp_path / "w", {n: ("float32", v.shape, v) for n, v in values.items()})
    with pytest.raises(ActorError, match=r"step 7: digest .*; b is not what was published"):
        staging.stage(published, wanted)
