"""Publishing weights: float32 masters -> a copy in the engines' dtype -> one file on a RAM-backed file system.

The copy is a model of its own on the CPU, made once and overwritten at each publication. It is exactly what the file
holds, so the canary's log-probabilities come from it: an engine that loaded the file right must agree with them up to
its own kernels.
"""

from __future__ import annotations

import copy
import fcntl
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from learners.policy import token_logprobs
from swarm import weights
from swarm.types import PolicyVersion, Weights

_KEEP = 2
_CANARY_TOKENS = 24
_PREFIX = "swarm-weights-"


class Publisher:
    """Writes sets of weights; the two newest stay, all go at `close`."""

    def __init__(self, model: nn.Module, dtype: torch.dtype, seed: int, folder: Path | None = None) -> None:
        """`model` is copied as it is now (before ZeRO partitions it). Without `folder` one is made in shared memory."""
        self._copy = copy.deepcopy(model).requires_grad_(False)
        for parameter in self._copy.parameters():
            parameter.data = parameter.data.to("cpu", dtype)  # buffers keep float32: rotary frequencies need it
        # Tied parameters appear once here, under the name that the model lists first.
        self._named = dict(self._copy.named_parameters())
        vocab = int(model.get_input_embeddings().weight.shape[0])
        self._canary = torch.from_numpy(np.random.default_rng(seed).integers(0, vocab, _CANARY_TOKENS))
        self._dtype = str(dtype).removeprefix("torch.")
        self._lock: int | None = None
        if folder is None:
            folder, self._lock = _make_folder()
        self._folder = folder
        self._written: list[Path] = []

    def publish(self, parameters: Mapping[str, Tensor], version: PolicyVersion) -> Weights:
        """Write `parameters` (names of the model, any float dtype and device) as the weights of `version`."""
        torch._foreach_copy_(list(self._named.values()), [parameters[name] for name in self._named])
        path = self._folder / f"{version.lineage}-{version.step}.safetensors"
        tensors = {n: (self._dtype, tuple(p.shape), _bytes_of(p)) for n, p in self._named.items()}
        digest, size = weights.write(path, tensors)
        self._written = [p for p in self._written if p != path] + [path]
        for old in self._written[:-_KEEP]:
            old.unlink(missing_ok=True)
        self._written = self._written[-_KEEP:]
        return Weights(version, str(path), digest, size, tuple(self._canary.tolist()), self._canary_logprobs())

    def _canary_logprobs(self) -> tuple[float, ...]:
        with torch.no_grad():
            logits = self._copy(input_ids=self._canary[None, :-1], use_cache=False).logits[0]
            ones = torch.ones(_CANARY_TOKENS - 1)
            return tuple(token_logprobs(logits, self._canary[1:], ones).tolist())

    def close(self) -> None:
        """Remove what was written. Mappings that engines hold stay valid."""
        for path in self._written:
            path.unlink(missing_ok=True)
        if self._lock is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            os.close(self._lock)
            self._lock = None


def _bytes_of(tensor: Tensor) -> np.ndarray:
    """The tensor's memory as uint8, without a copy; numpy has no bfloat16."""
    return tensor.detach().contiguous().view(-1).view(torch.uint8).numpy()


def _make_folder() -> tuple[Path, int]:
    """A new folder in shared memory, locked while this process lives; folders of killed processes are removed."""
    shared = Path("/dev/shm")  # noqa: S108 - RAM-backed; the folder in it is made with an unguessable name and mode 700
    parent = shared if os.access(shared, os.W_OK) else Path(tempfile.gettempdir())
    for left in parent.glob(_PREFIX + "*"):
        _remove_if_dead(left)
    hidden = Path(tempfile.mkdtemp(prefix="." + _PREFIX, dir=parent))
    lock = os.open(hidden / "lock", os.O_CREAT | os.O_RDWR)
    fcntl.flock(lock, fcntl.LOCK_EX)
    folder = parent / hidden.name.removeprefix(".")
    hidden.rename(folder)  # seen by others only when locked
    return folder, lock


def _remove_if_dead(folder: Path) -> None:
    try:
        lock = os.open(folder / "lock", os.O_RDWR)
    except OSError:
        return  # another user's, or just being made
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(folder, ignore_errors=True)
    except OSError:
        pass  # its owner lives
    finally:
        os.close(lock)
