"""The learner's state in files: every trained parameter's float32 master weight and AdamW's two moments.

    state-0-of-2.safetensors  state-1-of-2.safetensors     one per rank, each with the pieces that its rank had
    KIND:START:NAME -> float32 [num]                       elements START .. START + num of the flattened parameter

Nothing in it depends on the ZeRO stage or the number of ranks: whoever restores reads the elements it needs, from
whichever files have them. Reading maps the files, so a rank touches only its share.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, MutableMapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from swarm import weights

KINDS = ("weight", "exp_avg", "exp_avg_sq")
_NAME = re.compile(r"state-(\d+)-of-(\d+)\.safetensors")


@dataclass(frozen=True, slots=True)
class Piece:
    """Elements `start` .. `start + num` of a flattened parameter, as the optimiser holds them."""

    name: str
    start: int
    num: int
    flat: Tensor
    """The float32 tensor that the optimiser updates, of any shape; the elements lie in it from `offset` on."""
    offset: int
    states: MutableMapping[Any, dict[str, Any]]
    """The optimiser's, by such tensor."""

    def part(self, start: int, stop: int) -> Piece:
        """Its own elements `start` .. `stop`."""
        return replace(self, start=self.start + start, num=stop - start, offset=self.offset + start)

    def updates(self) -> int:
        """How often it was updated."""
        state = self.states.get(self.flat)
        return int(state["step"]) if state else 0

    def reset(self, updates: int) -> None:
        """Give its tensor moments where it has none, and this number of updates."""
        state = self.states[self.flat]
        if "exp_avg" not in state:
            state["step"] = torch.zeros((), dtype=torch.float32, device=self.flat.device)
            for kind in KINDS[1:]:
                state[kind] = torch.zeros_like(self.flat, requires_grad=False)
        state["step"].fill_(float(updates))

    def tensors(self) -> dict[str, Tensor]:
        """float32 [num] views by kind; moments are absent before the first update."""
        state = self.states.get(self.flat) or {}
        whole = {"weight": self.flat} | {kind: state[kind] for kind in KINDS[1:] if kind in state}
        return {kind: t.detach().view(-1)[self.offset : self.offset + self.num] for kind, t in whole.items()}


def path_of(folder: Path, rank: int, ranks: int) -> Path:
    """Where a rank's pieces are."""
    return folder / f"state-{rank}-of-{ranks}.safetensors"


def write(path: Path, pieces: Iterable[tuple[str, int, Mapping[str, Tensor]]]) -> int:
    """Write (name, start, tensors by kind) pieces; returns the bytes. Missing moments are written as zeros. Raises
    OSError from the disk, and leaves no half file."""
    entries = {}
    for name, start, tensors in pieces:
        num = tensors["weight"].numel()
        for kind in KINDS:
            tensor = tensors[kind] if kind in tensors else torch.zeros(num)
            entries[f"{kind}:{start}:{name}"] = ("float32", (num,), tensor.cpu().numpy())
    return weights.write(path, entries)[1]


class SavedState:
    """What ranks wrote into a folder, by whatever number of them."""

    def __init__(self, folder: Path, shapes: Mapping[str, tuple[int, ...]], updates: Mapping[str, int]) -> None:
        """`shapes` and `updates` of every parameter, as saved. Raises OSError where a rank's file is missing,
        ValueError where one is broken or elements are missing."""
        self.folder, self.shapes, self.updates = folder, dict(shapes), dict(updates)
        found = {path: match for path in folder.glob("state-*") if (match := _NAME.fullmatch(path.name))}
        counts = {int(match[2]) for match in found.values()}
        if len(counts) != 1:
            raise FileNotFoundError(f"{folder}: state files of {len(counts)} savings; wanted those of one")
        (ranks,) = counts
        self._parts: dict[tuple[str, str], list[tuple[int, memoryview]]] = defaultdict(list)
        for rank in range(ranks):
            path = path_of(folder, rank, ranks)
            if path not in found:
                raise FileNotFoundError(f"{path}: missing; the {ranks} ranks that saved wrote a file each")
            for key, tensor in weights.open_mapped(path).items():
                kind, begin, name = key.split(":", 2)
                self._parts[kind, name].append((int(begin), tensor.data))
        for name, shape in self.shapes.items():
            for kind in KINDS:
                at = 0
                for start, data in sorted(self._parts[kind, name], key=lambda part: part[0]):
                    if start != at:
                        break
                    at += data.nbytes // 4
                if at != math.prod(shape):
                    raise ValueError(f"{folder}: {kind} of {name} is not whole: wanted {math.prod(shape)} elements")

    def read_into(self, target: Tensor, kind: str, name: str, start: int) -> None:
        """Copy elements `start` .. of a flattened parameter's `kind` into float32 [num] `target`."""
        stop = start + target.numel()
        for begin, data in self._parts[kind, name]:
            end = begin + data.nbytes // 4
            low, high = max(begin, start), min(end, stop)
            if low < high:
                values = torch.frombuffer(data, dtype=torch.float32)[low - begin : high - begin]
                target[low - start : high - start].copy_(values)

    def whole(self, kind: str, name: str) -> Tensor:
        """float32 tensor of a parameter's shape."""
        out = torch.empty(math.prod(self.shapes[name]), dtype=torch.float32)
        self.read_into(out, kind, name, 0)
        return out.view(self.shapes[name])
