"""A delta turns one set of bits into another, exactly; a damaged one is an error."""

from __future__ import annotations

from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarm import weight_delta
from swarm.weight_delta import BLOCK

NAN, OTHER_NAN, ZERO, MINUS_ZERO, ONE = 0x7FC0, 0x7FC1, 0x0000, 0x8000, 0x3F80
SIZES = st.sampled_from([0, 1, 2, 7, 9, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK + 13])
SHARES = st.sampled_from([0.0, 0.0001, 0.01, 0.0625, 0.2, 0.5, 0.97, 0.999, 1.0])


def patched(old: np.ndarray, delta: bytes) -> np.ndarray:
    target = old.copy()
    weight_delta.apply(target, delta)
    return target


def pair(size: int, share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Two rows of bits that differ in about this share of their elements."""
    rng = np.random.default_rng(seed)
    old = rng.integers(0, 1 << 16, size, np.uint16)
    flips = rng.integers(1, 1 << 16, size, np.uint16)
    return old, np.where(rng.random(size) < share, old ^ flips, old)


@given(SIZES, SHARES, st.integers(0, 2**32 - 1))
def test_a_patched_set_is_the_new_one_bit_for_bit(size: int, share: float, seed: int) -> None:
    old, new = pair(size, share, seed)
    delta, changed = weight_delta.encode(old, new)
    assert changed == np.count_nonzero(old != new)
    target = old.copy()
    assert weight_delta.apply(target, delta) == changed
    assert (target == new).all()


@given(st.lists(st.tuples(*[st.sampled_from([NAN, OTHER_NAN, ZERO, MINUS_ZERO, ONE])] * 2), max_size=40))
def test_zeros_of_either_sign_and_every_nan_are_told_apart(pairs: list[tuple[int, int]]) -> None:
    old, new = (np.array([p[i] for p in pairs], np.uint16) for i in (0, 1))
    delta, changed = weight_delta.encode(old, new)
    assert changed == sum(a != b for a, b in pairs)
    assert patched(old, delta).tobytes() == new.tobytes()


@pytest.mark.parametrize("share", [0.0, 0.01, 0.1, 0.5, 1.0])
def test_a_delta_is_as_small_as_its_smallest_form(share: float) -> None:
    size = 4 * BLOCK
    delta, changed = weight_delta.encode(*pair(size, share, 1))
    head = 16 + 4 * 4
    assert len(delta) <= head + min(4 * changed, size // 8 + 2 * changed, 2 * size)


def test_blocks_of_all_forms_stand_beside_each_other() -> None:
    old = np.zeros(4 * BLOCK, np.uint16)
    new = old.copy()
    new[5] = 1  # sparse
    new[BLOCK : 2 * BLOCK : 3] = 2  # mask
    new[2 * BLOCK : 3 * BLOCK] = 3  # whole; nothing in the last
    delta, changed = weight_delta.encode(old, new)
    assert changed == 1 + -(-BLOCK // 3) + BLOCK
    assert len(delta) == 16 + 4 * 4 + 4 + (BLOCK // 8 + 2 * -(-BLOCK // 3)) + 2 * BLOCK
    assert (patched(old, delta) == new).all()


def test_sets_of_different_layouts_have_no_delta() -> None:
    with pytest.raises(ValueError, match="not of one layout"):
        weight_delta.encode(np.zeros(3, np.uint16), np.zeros(4, np.uint16))
    with pytest.raises(ValueError, match="16-bit"):
        weight_delta.encode(np.zeros(3, np.uint8), np.zeros(3, np.uint8))


@given(SHARES, st.integers(0, 2**32 - 1), st.data())
def test_a_cut_delta_is_refused_at_any_byte(share: float, seed: int, data: st.DataObject) -> None:
    old, new = pair(BLOCK + 50, share, seed)
    delta, _ = weight_delta.encode(old, new)
    with pytest.raises(ValueError, match="delta"):
        patched(old, delta[: data.draw(st.integers(0, len(delta) - 1))])


@given(SHARES, st.integers(0, 2**32 - 1), st.data())
def test_a_flipped_byte_is_refused_with_a_value_error_or_left_to_the_digest(
    share: float, seed: int, data: st.DataObject
) -> None:
    old, new = pair(BLOCK + 50, share, seed)
    broken = bytearray(weight_delta.encode(old, new)[0])
    broken[data.draw(st.integers(0, len(broken) - 1))] ^= data.draw(st.integers(1, 255))
    with suppress(ValueError):
        assert len(patched(old, bytes(broken))) == len(new)


def test_a_delta_of_another_size_is_refused() -> None:
    delta, _ = weight_delta.encode(np.zeros(9, np.uint16), np.ones(9, np.uint16))
    with pytest.raises(ValueError, match="9 elements for a file of 8"):
        weight_delta.apply(np.zeros(8, np.uint16), delta)
