"""A published weight set: one safetensors file on a RAM-backed file system, and the digests that prove it.

The learner writes it, engines map it; both take the digests from here: one of every tensor, and from those the set's,
so that two sets that differ can be told apart by the first tensor that does. Nothing here needs torch: tensors are a
dtype name, a shape and a buffer, so that bfloat16 (which numpy lacks) is only bytes. Data types carry torch's names.

The file is written under another name and renamed, so a reader sees all of it or none. A reader holds a mapping: pages
stay valid after the learner has unlinked the file, which is what a rollback to the last good version rests on.
"""

from __future__ import annotations

import json
import math
import mmap
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import xxhash

_CODES = {
    "float64": ("F64", 8),
    "float32": ("F32", 4),
    "float16": ("F16", 2),
    "bfloat16": ("BF16", 2),
    "int64": ("I64", 8),
    "int32": ("I32", 4),
    "int16": ("I16", 2),
    "int8": ("I8", 1),
    "uint8": ("U8", 1),
    "bool": ("BOOL", 1),
}
_NAMES = {code: (name, size) for name, (code, size) in _CODES.items()}
_HEADER_LIMIT = 100_000_000  # bytes, as in the safetensors library


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor of a set: dtype by torch's name (`bfloat16`), shape, and its bytes in C order."""

    dtype: str
    shape: tuple[int, ...]
    data: memoryview


Entry = tuple[str, str, Sequence[int], Any]
"""Name, dtype, shape and contiguous buffer of a tensor."""


def digests(entries: Iterable[Entry]) -> dict[str, str]:
    """xxh3-128 hex digest of each tensor by name: over name, dtype and shape as one JSON line, then its bytes."""
    return {name: _digest(name, dtype, shape, _flat(buffer)) for name, dtype, shape, buffer in entries}


def combined(each: Mapping[str, str]) -> str:
    """The digest of a set, from those of its tensors: xxh3-128 over one JSON line for each, in the order given."""
    state = xxhash.xxh3_128()
    for item in each.items():
        state.update(json.dumps(item).encode() + b"\n")
    return state.hexdigest()


def digest(entries: Iterable[Entry]) -> str:
    """The digest of a set whose own tensors' digests nobody asks for."""
    return combined(digests(entries))


def write(
    path: str | os.PathLike[str], tensors: Mapping[str, tuple[str, Sequence[int], Any]]
) -> tuple[dict[str, str], int]:
    """Write `name -> (dtype, shape, contiguous buffer)` as a safetensors file; returns (digests, size in bytes).

    The order of the mapping is the order of the file. The file appears under `path` by a rename, complete; a
    failed write leaves nothing behind. Raises ValueError where a buffer does not fit its dtype and shape, OSError from
    the disk.
    """
    path = Path(path)
    header: dict[str, Any] = {}
    flat: dict[str, memoryview] = {}
    end = 0
    for name, (dtype, shape, buffer) in tensors.items():
        code, size = _CODES[dtype]
        flat[name] = _flat(buffer)
        wanted = size * math.prod(shape)
        if flat[name].nbytes != wanted:
            raise ValueError(f"{name}: {flat[name].nbytes} bytes do not fit {dtype} {tuple(shape)} ({wanted} bytes)")
        header[name] = {"dtype": code, "shape": list(shape), "data_offsets": [end, end + wanted]}
        end += wanted
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the format aligns the first tensor to 8 bytes

    each: dict[str, str] = {}
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with open(part, "wb", buffering=0) as file:
            _write_all(file.fileno(), memoryview(len(text).to_bytes(8, "little") + text))
            for name, (dtype, shape, _) in tensors.items():
                each[name] = _digest(name, dtype, shape, flat[name])
                _write_all(file.fileno(), flat[name])
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    return each, 8 + len(text) + end


def open_mapped(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """Names, dtypes, shapes and bytes of a safetensors file, in file order, without copying.

    The buffers are views of one private mapping that lives as long as any of them does; what a process writes into
    them stays its own. Raises ValueError where the file is cut short or is not a safetensors file, FileNotFoundError
    where there is none.
    """
    path = Path(path)
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size < 8:
            raise ValueError(f"{path}: {size} bytes are too few for a weight file")
        # writable although nobody writes: torch warns about tensors over read-only memory
        view = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY))
    length = int.from_bytes(view[:8], "little")
    if length > min(_HEADER_LIMIT, size - 8):
        raise ValueError(f"{path}: header of {length} bytes in a file of {size}: cut short, or not a weight file")
    try:
        header = json.loads(bytes(view[8 : 8 + length]))
        header.pop("__metadata__", None)
        items = sorted(header.items(), key=lambda item: item[1]["data_offsets"][0])
        out: dict[str, Tensor] = {}
        at = 0
        for name, item in items:
            dtype, width = _NAMES[item["dtype"]]
            shape = tuple(int(n) for n in item["shape"])
            start, end = item["data_offsets"]
            if start != at or end - start != width * math.prod(shape):
                raise ValueError(f"{name} lies at {start}:{end}, wanted {at}:{at + width * math.prod(shape)}")
            out[name] = Tensor(dtype, shape, view[8 + length + start : 8 + length + end])
            at = end
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path}: not a weight file: {error}") from None
    if 8 + length + at != size:
        raise ValueError(f"{path}: {size} bytes, its header says {8 + length + at}: cut short")
    return out


def _digest(name: str, dtype: str, shape: Sequence[int], data: memoryview) -> str:
    state = xxhash.xxh3_128(json.dumps([name, dtype, [int(n) for n in shape]]).encode() + b"\n")
    state.update(data)
    return state.hexdigest()


def _flat(buffer: Any) -> memoryview:
    view = memoryview(buffer)
    if not view.c_contiguous:
        raise ValueError("buffer is not contiguous")
    return view if view.nbytes == 0 else view.cast("B")


def _write_all(fd: int, data: memoryview) -> None:
    while data.nbytes:  # one call writes 2 GiB at most
        data = data[os.write(fd, data) :]
