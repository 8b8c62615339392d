"""The weight file: what is written is read, what is broken is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from swarm import weights

KINDS = {"float32": np.float32, "bfloat16": np.uint16, "float16": np.float16, "int64": np.int64, "bool": np.bool_}
SHAPES = st.lists(st.integers(0, 4), max_size=3).map(tuple)
SETS = st.dictionaries(st.text(min_size=1, max_size=8), st.tuples(st.sampled_from(list(KINDS)), SHAPES), max_size=6)


def filled(layout: dict[str, tuple[str, tuple[int, ...]]]) -> dict[str, tuple[str, tuple[int, ...], np.ndarray]]:
    rng = np.random.default_rng(0)
    return {n: (d, s, rng.integers(0, 2, s).astype(KINDS[d])) for n, (d, s) in layout.items() if n != "__metadata__"}


def entries(found: dict[str, weights.Tensor]) -> list[tuple[str, str, tuple[int, ...], memoryview]]:
    return [(name, t.dtype, t.shape, t.data) for name, t in found.items()]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(SETS)
def test_a_set_comes_back_bit_for_bit_in_its_order_and_with_its_digest(tmp_path: Path, layout: dict) -> None:
    tensors = filled(layout)
    each, size = weights.write(tmp_path / "w", tensors)
    found = weights.open_mapped(tmp_path / "w")
    assert size == (tmp_path / "w").stat().st_size
    assert {n: (t.dtype, t.shape, bytes(t.data)) for n, t in found.items()} == {
        n: (d, s, a.tobytes()) for n, (d, s, a) in tensors.items()
    }
    assert weights.digests(entries(found)) == each == weights.digests((n, *rest) for n, rest in tensors.items())
    assert list(each) == list(tensors)


def test_the_safetensors_library_reads_the_file(tmp_path: Path) -> None:
    from safetensors import safe_open

    values = {"b": np.arange(6, dtype=np.float32).reshape(2, 3), "a": np.arange(3, dtype=np.int64)}
    weights.write(tmp_path / "w", {n: (str(a.dtype), a.shape, a) for n, a in values.items()})
    with safe_open(tmp_path / "w", "np") as file:
        assert {n: file.get_tensor(n).tolist() for n in sorted(values)} == {n: a.tolist() for n, a in values.items()}


def test_a_file_cut_at_any_byte_is_refused(tmp_path: Path) -> None:
    _, size = weights.write(tmp_path / "w", filled({"a": ("float32", (3,)), "b": ("bfloat16", (2, 2))}))
    whole = (tmp_path / "w").read_bytes()
    for length in range(size):
        (tmp_path / "cut").write_bytes(whole[:length])
        with pytest.raises(ValueError, match=r"weight file|cut short"):
            weights.open_mapped(tmp_path / "cut")


def test_names_types_shapes_order_and_bytes_all_change_the_digest() -> None:
    a, b = np.zeros(4, np.float32), np.ones(4, np.float32)
    base = [("x", "float32", (4,), a), ("y", "float32", (4,), b)]
    others = [
        [("z", "float32", (4,), a), base[1]],
        [("x", "int32", (4,), a), base[1]],
        [("x", "float32", (2, 2), a), base[1]],
        [("x", "float32", (4,), b), base[1]],
        base[::-1],
        base[:1],
    ]
    assert len({weights.digest(entry) for entry in [base, *others]}) == 1 + len(others)


def test_a_failed_write_leaves_the_old_file_and_no_litter(tmp_path: Path) -> None:
    weights.write(tmp_path / "w", filled({"a": ("float32", (3,))}))
    before = (tmp_path / "w").read_bytes()
    with pytest.raises(ValueError, match="do not fit"):
        weights.write(tmp_path / "w", {"a": ("float32", (3,), np.zeros(2, np.float32))})
    with pytest.raises(IsADirectoryError):
        weights.write(tmp_path, filled({"a": ("float32", (3,))}))
    assert [p.name for p in tmp_path.iterdir()] == ["w"]
    assert (tmp_path / "w").read_bytes() == before
    assert not list(tmp_path.parent.glob(".*.part"))


def test_a_mapping_outlives_the_unlinked_file(tmp_path: Path) -> None:
    each, _ = weights.write(tmp_path / "w", filled({"a": ("float32", (3,))}))
    found = weights.open_mapped(tmp_path / "w")
    (tmp_path / "w").unlink()
    assert weights.digests(entries(found)) == each


def test_the_digest_of_a_set_is_made_of_its_tensors_digests_and_their_order() -> None:
    a, b = np.zeros(4, np.float32), np.ones(4, np.float32)
    one = weights.digests([("x", "float32", (4,), a), ("y", "float32", (4,), b)])
    other = weights.digests([("x", "float32", (4,), a), ("y", "float32", (4,), a)])
    assert one["x"] == other["x"]
    assert one["y"] != other["y"]
    assert weights.combined(one) != weights.combined(other)
    assert weights.combined(one) != weights.combined(dict(reversed(one.items())))
