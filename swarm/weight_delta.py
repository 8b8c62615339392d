"""What changed between two weight files of one layout, bit for bit: the changed 16-bit elements and nothing else.

At the learning rates of RL most updates are smaller than half the distance between two neighbouring bfloat16 numbers,
so that a published set differs from the one before in few elements, and hosts that hold that one need only those. That
low precision hides most of an update is described in arXiv 2511.08567; sending changed indices and values only, without
loss, is SparseRL-Sync (arXiv 2605.07330), from which the format below differs.

Both files are taken as rows of uint16, header included (it is equal), and cut into blocks of 65,536. A block with k
changed elements of n is written in the smallest of three forms, which reader and writer derive from k and n:

    sparse   k offsets as uint16, k values      4 k bytes
    mask     n bits, k values                   n/8 + 2 k bytes
    whole    n values                           2 n bytes

    file: magic (8 bytes), number of elements (uint64), k of every block (uint32), the blocks; all little-endian

Elements are compared as bits: -0.0 is not 0.0, and a NaN with another payload is another NaN. Numpy only.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

BLOCK = 1 << 16
"""Elements; their offsets in a block fit into uint16, and a block into the processor's cache."""

_MAGIC = b"swdelta1"
_HEAD = len(_MAGIC) + 8


def encode(old: Any, new: Any) -> tuple[bytes, int]:
    """(delta, number of changed elements) that turns the bytes of `old` into those of `new`.

    Both are contiguous buffers of equal and even size; raises ValueError where they are not.
    """
    before, after = _elements(old), _elements(new)
    if len(before) != len(after):
        raise ValueError(f"{len(before)} elements before, {len(after)} after: not of one layout")
    counts = np.zeros(-(-len(after) // BLOCK), "<u4")
    body: list[memoryview] = []
    for number, start in enumerate(range(0, len(after), BLOCK)):
        block = after[start : start + BLOCK]
        differs = before[start : start + BLOCK] != block
        offsets = np.flatnonzero(differs)
        counts[number] = len(offsets)
        form = _form(len(offsets), len(block))
        if form == "sparse":
            body += [offsets.astype("<u2").data, block[offsets].data]
        elif form == "mask":
            body += [np.packbits(differs).data, block[offsets].data]
        else:
            body.append(block.data)
    return b"".join([_MAGIC, len(after).to_bytes(8, "little"), counts.data, *body]), int(counts.sum(dtype=np.int64))


def apply(target: Any, delta: Any) -> int:
    """Patch a writable buffer in place; returns the number of changed elements.

    Raises ValueError where the delta is damaged or of another layout, as far as that can be seen; the target is then
    worth nothing. That the result is right is proved by its digest, not here.
    """
    elements, data = _elements(target), np.frombuffer(delta, np.uint8)
    counts, at = _head(data, len(elements)), _HEAD + 4 * -(-len(elements) // BLOCK)
    lengths = [_size(int(k), n) for k, n in zip(counts, _blocks(len(elements)), strict=True)]
    if at + sum(lengths) != len(data):
        raise ValueError(f"delta of {len(data)} bytes, its head says {at + sum(lengths)}: cut short or damaged")
    start = 0
    for k, n, length in zip(counts.tolist(), _blocks(len(elements)), lengths, strict=True):
        part, block = data[at : at + length], elements[start : start + n]
        form = _form(k, n)
        if form == "sparse":
            offsets = part[: 2 * k].view("<u2")
            if k and int(offsets.max()) >= n:
                raise ValueError(f"delta: an offset of {int(offsets.max())} in a block of {n} elements")
            block[offsets] = part[2 * k :].view("<u2")
        elif form == "mask":
            differs = np.unpackbits(part[: -(-n // 8)], count=n).view(bool)
            if int(np.count_nonzero(differs)) != k:
                raise ValueError(f"delta: {int(np.count_nonzero(differs))} marks for {k} values")
            block[differs] = part[-(-n // 8) :].view("<u2")
        else:
            block[:] = part.view("<u2")
        at, start = at + length, start + n
    return int(counts.sum(dtype=np.int64))


def _head(data: np.ndarray, wanted: int) -> np.ndarray:
    """uint32 [blocks]: changed elements of each."""
    blocks = -(-wanted // BLOCK)
    if len(data) < _HEAD + 4 * blocks or data[: len(_MAGIC)].tobytes() != _MAGIC:
        raise ValueError(f"{len(data)} bytes that are no delta of {wanted} elements")
    elements = int.from_bytes(data[len(_MAGIC) : _HEAD].tobytes(), "little")
    if elements != wanted:
        raise ValueError(f"delta of {elements} elements for a file of {wanted}")
    counts: np.ndarray = data[_HEAD : _HEAD + 4 * blocks].view("<u4")
    for number, (k, n) in enumerate(zip(counts.tolist(), _blocks(wanted), strict=True)):
        if k > n:
            raise ValueError(f"delta: {k} changed elements in block {number} of {n}")
    return counts


def _blocks(elements: int) -> Iterator[int]:
    """Elements of each block."""
    return (min(BLOCK, elements - start) for start in range(0, elements, BLOCK))


def _form(k: int, n: int) -> str:
    sparse, mask, whole = 4 * k, -(-n // 8) + 2 * k, 2 * n
    if sparse <= min(mask, whole):
        return "sparse"
    return "mask" if mask < whole else "whole"


def _size(k: int, n: int) -> int:
    return {"sparse": 4 * k, "mask": -(-n // 8) + 2 * k, "whole": 2 * n}[_form(k, n)]


def _elements(buffer: Any) -> np.ndarray:
    """uint16 view of a contiguous buffer."""
    view = memoryview(buffer)
    if view.nbytes % 2 or not view.c_contiguous:
        raise ValueError(f"a buffer of {view.nbytes} bytes: wanted contiguous 16-bit elements")
    return np.frombuffer(view, "<u2") if view.nbytes else np.empty(0, "<u2")
