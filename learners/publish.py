"""Publishing weights: float32 masters -> the engines' dtype -> one file on a RAM-backed file system.

The canary's log-probabilities come from a model whose weights are the file itself, mapped: an engine that loaded the
file right must agree with them up to its own kernels. Beside the file this takes memory only for values that have to be
converted or brought from a GPU, while they are written.
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
from transformers import GenerationConfig

from learners.policy import token_logprobs
from swarm import weights
from swarm.types import CANARY_TOKENS, PolicyVersion, Weights

_KEEP = 2
_PREFIX = "swarm-weights-"


class Publisher:
    """Writes sets of weights; the two newest stay, all go at `close`."""

    def __init__(self, model: nn.Module, dtype: torch.dtype, seed: int, folder: Path | None = None) -> None:
        """`model` is copied, without its parameters. Without `folder` one is made in shared memory."""
        self._mirror = _without_parameters(model)
        # Tied parameters appear once here, under the name that the model lists first.
        self._named = dict(self._mirror.named_parameters())
        self._canary = _sampled(model, seed)
        self._dtype = dtype
        self._lock: int | None = None
        if folder is None:
            folder, self._lock = _make_folder()
        self._folder = folder
        self._written: list[Path] = []

    def publish(self, parameters: Mapping[str, Tensor], version: PolicyVersion) -> Weights:
        """Write `parameters` (names of the model, any float dtype and device) as the weights of `version`."""
        path = self._folder / f"{version.lineage}-{version.step}.safetensors"
        name_of_dtype = str(self._dtype).removeprefix("torch.")
        tensors = {
            n: (name_of_dtype, tuple(parameters[n].shape), _bytes_of(parameters[n], self._dtype)) for n in self._named
        }
        before = [p for p in self._written if p != path]
        for old in before[: 1 - _KEEP]:  # first, so that there is never room needed for one more
            old.unlink(missing_ok=True)
        digest, size = weights.write(path, tensors)
        self._written = [*before[1 - _KEEP :], path]
        for name, tensor in weights.open_mapped(path).items():
            if tensor.data.nbytes:
                self._named[name].data = torch.frombuffer(tensor.data, dtype=self._dtype).view(tensor.shape)
        return Weights(version, str(path), digest, size, tuple(self._canary.tolist()), self._canary_logprobs())

    def _canary_logprobs(self) -> tuple[float, ...]:
        with torch.no_grad():
            logits = self._mirror(input_ids=self._canary[None, :-1], use_cache=False).logits[0]
            ones = torch.ones(CANARY_TOKENS - 1)
            return tuple(token_logprobs(logits, self._canary[1:], ones).tolist())

    def close(self) -> None:
        """Remove what was written. Mappings that engines hold stay valid."""
        for path in self._written:
            path.unlink(missing_ok=True)
        if self._lock is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            os.close(self._lock)
            self._lock = None


def _sampled(model: nn.Module, seed: int) -> Tensor:
    """int64 [CANARY_TOKENS] that the model itself would write. Tokens drawn at random are so unlikely that bfloat16
    tells their log-probabilities apart only coarsely."""
    vocab = int(model.get_input_embeddings().weight.shape[0])
    first = int(np.random.default_rng(seed).integers(0, vocab))
    new = CANARY_TOKENS - 1
    plain = GenerationConfig(do_sample=True, top_k=0, min_new_tokens=new, max_new_tokens=new)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return model.generate(torch.tensor([[first]]), generation_config=plain)[0].cpu()


def _without_parameters(model: nn.Module) -> nn.Module:
    """A copy on the CPU with an empty parameter in the place of each, tied ones still tied."""
    empty = {id(p): nn.Parameter(torch.empty(0), requires_grad=False) for p in model.parameters()}
    return copy.deepcopy(model, dict(empty)).to("cpu")  # buffers keep float32: rotary frequencies need it


def _bytes_of(tensor: Tensor, dtype: torch.dtype) -> np.ndarray:
    """The values in `dtype` as uint8 in memory, copied only where they must be; numpy has no bfloat16."""
    return tensor.detach().to("cpu", dtype).contiguous().view(-1).view(torch.uint8).numpy()


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
