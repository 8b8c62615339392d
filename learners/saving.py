"""Saving the learner's state while it trains on: a short capture, then a thread that writes.

    save: masters and moments -> buffer (made once) -> [thread] state-I-of-R.safetensors; rank 0 also:
          learner.json (version, shapes, update counts), rng.pt

A learner whose only checkpoint is the one at the end needs no buffer: the files are written from the live tensors, and
whatever would change these waits.
"""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from learners import state
from learners.state import KINDS, SavedState

if TYPE_CHECKING:
    from learners.engine_deepspeed import DeepSpeedEngine

_FACTS, _RNG = "learner.json", "rng.pt"


class Saver:
    """Writes the state of one rank; one saving at a time."""

    def __init__(self, engine: DeepSpeedEngine, rank: int, ranks: int, buffered: bool) -> None:
        self._engine, self._rank, self._ranks = engine, rank, ranks
        self._buffer: Tensor | None = None
        if buffered:  # touched now: memory that is not there is found out at the start of a run
            self._buffer = torch.empty(len(KINDS) * sum(piece.num for piece in engine.pieces())).fill_(0.0)
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    def start(self, folder: Path, facts: Mapping[str, Any]) -> int:
        """Capture, and begin to write into `folder`, which must exist; returns the bytes of weights and moments.
        Waits for the saving before, whose failure is lost where nobody asked."""
        self._join()
        self._error = None
        pieces = [(piece.name, piece.start, piece.tensors()) for piece in self._engine.pieces()]
        size = sum(len(KINDS) * tensors["weight"].numel() * 4 for _, _, tensors in pieces)
        if self._buffer is not None:
            at = 0
            for _, _, tensors in pieces:
                for kind, tensor in tensors.items():
                    place = self._buffer[at : at + tensor.numel()]
                    place.copy_(tensor)
                    tensors[kind] = place
                    at += tensor.numel()
        small: dict[str, bytes] = {}
        if self._rank == 0:
            shapes, rng = self._engine.shapes(), io.BytesIO()
            torch.save({"rng": torch.get_rng_state(), "rng_cuda": torch.cuda.get_rng_state_all()}, rng)
            whole = {**facts, "ranks": self._ranks, "updates": self._engine.updates(), "shapes": shapes}
            small = {_FACTS: json.dumps(whole).encode(), _RNG: rng.getvalue()}

        def write() -> None:
            try:
                state.write(state.path_of(folder, self._rank, self._ranks), pieces)
                for name, content in small.items():
                    (folder / name).write_bytes(content)
            except BaseException as error:  # noqa: BLE001 - told to whoever waits
                self._error = error

        self._thread = threading.Thread(target=write, name="saving", daemon=True)
        self._thread.start()
        return size

    def wait(self) -> None:
        """Until the files are there. Raises what writing them raised, once."""
        self._join()
        error, self._error = self._error, None
        if error is not None:
            raise error

    def before_change(self) -> None:
        """Where the files are written from the live tensors: until they are there."""
        if self._buffer is None:
            self._join()

    def settle(self) -> None:
        """Let what is being written end, however it does."""
        self._join()

    def _join(self) -> None:
        if self._thread is not None:
            self._thread.join()


def read(folder: Path) -> tuple[dict[str, Any], dict[str, Any], SavedState]:
    """What was saved in `folder`: facts, random states, weights and moments. Raises OSError where files are missing,
    ValueError where they are broken."""
    facts = _facts(folder)
    content = io.BytesIO((folder / _RNG).read_bytes())
    try:
        rng: dict[str, Any] = torch.load(content, weights_only=True)
    except (RuntimeError, ValueError, OSError, EOFError, UnpicklingError) as error:  # torch has no error of its own
        raise ValueError(f"{folder / _RNG}: broken: {str(error).splitlines()[0]}") from None
    return facts, rng, _state(folder, facts)


def read_weights(folder: Path) -> dict[str, Tensor]:
    """The float32 master weights of what was saved in `folder`, by the names of the model. Errors as in `read`."""
    saved = _state(folder, _facts(folder))
    return {name: saved.whole("weight", name) for name in saved.shapes}


def _facts(folder: Path) -> dict[str, Any]:
    try:
        facts: dict[str, Any] = json.loads((folder / _FACTS).read_text())
    except ValueError as error:
        raise ValueError(f"{folder / _FACTS}: broken: {error}") from None
    if "shapes" not in facts:
        raise ValueError(f"{folder}: saved by an earlier release, in DeepSpeed's own files; this one cannot read it")
    return facts


def _state(folder: Path, facts: Mapping[str, Any]) -> SavedState:
    return SavedState(folder, {name: tuple(shape) for name, shape in facts["shapes"].items()}, facts["updates"])
