"""Publishing weights: float32 masters -> the engines' dtype -> one file on a RAM-backed file system.

In bfloat16, where most elements stay as they were, a second file holds what changed since the set before
(`swarm.weight_delta`), for hosts that hold that set; both lead to the same bits.

The canary's log-probabilities come from a model whose weights are the file itself, mapped: an engine that loaded the
file right must agree with them up to its own kernels. Beside the file this takes memory only for values that have to be
converted or brought from a GPU, while they are written.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from transformers import GenerationConfig

from learners.adapters import published_name
from learners.policy import token_logprobs
from swarm import weight_delta, weights
from swarm.ram_folder import RamFolder
from swarm.types import CANARY_TOKENS, Delta, PolicyVersion, Weights

_KEEP = 2


class Publisher:
    """Writes sets of weights; the two newest stay, all go at `close`."""

    def __init__(
        self,
        model: nn.Module,
        dtype: torch.dtype,
        seed: int,
        folder: Path | None = None,
        adapter_scale: float | None = None,
    ) -> None:
        """`model` is copied, without its parameters. Without `folder` one is made in shared memory. With an
        `adapter_scale` only what is trained is published, in float32; the canary then sees the learner's weights."""
        self._mirror = _without_parameters(model)
        self._scale = adapter_scale
        # Tied parameters appear once here, under the name that the model lists first.
        named = dict(self._mirror.named_parameters())
        trained = {name for name, p in model.named_parameters() if p.requires_grad}
        self._named = named if adapter_scale is None else {n: p for n, p in named.items() if n in trained}
        self._frozen = {n: p for n, p in named.items() if n not in self._named}
        self._canary = _sampled(model, seed)
        self._dtype = dtype if adapter_scale is None else torch.float32
        self._own: RamFolder | None = None
        if folder is None:
            self._own = RamFolder()
            folder = self._own.path
        self._folder = folder
        self._written: list[Path] = []
        self._newest: tuple[str, np.ndarray] | None = None  # digest and bytes, mapped
        self._delta_path: Path | None = None

    def publish(self, parameters: Mapping[str, Tensor], version: PolicyVersion) -> Weights:
        """Write `parameters` (names of the model, any float dtype and device) as the weights of `version`."""
        path = self._folder / f"{version.lineage}-{version.step}.safetensors"
        name_of_dtype = str(self._dtype).removeprefix("torch.")
        tensors = {
            published_name(n): (name_of_dtype, tuple(parameters[n].shape), _bytes_of(parameters[n], self._dtype))
            for n in self._named
        }
        before = [p for p in self._written if p != path]
        for old in before[: 1 - _KEEP]:  # first, so that there is never room needed for one more
            old.unlink(missing_ok=True)
        each, size = weights.write(path, tensors)
        self._written = [*before[1 - _KEEP :], path]
        digest, data = weights.combined(each), np.memmap(path, np.uint8, "r")
        delta = self._delta(path, data, sum(parameters[n].numel() for n in self._named))
        self._newest = digest, data
        mapped = weights.open_mapped(path)
        for name, parameter in self._named.items():
            tensor = mapped[published_name(name)]
            if tensor.data.nbytes:
                parameter.data = torch.frombuffer(tensor.data, dtype=self._dtype).view(tensor.shape)
        for name, parameter in self._frozen.items():
            parameter.data = parameters[name].to("cpu")
        canary = tuple(self._canary.tolist()), self._canary_logprobs()
        return Weights(version, str(path), digest, size, *canary, self._scale, tensors=each, delta=delta)

    def _delta(self, path: Path, data: np.ndarray, elements: int) -> Delta | None:
        """Write what `data` changed in the newest set, beside it. None in float32, of which nearly everything changes,
        and where there is no set before it of the same layout."""
        if self._delta_path:
            self._delta_path.unlink(missing_ok=True)  # of use only to who holds the set before the newest
            self._delta_path = None
        if self._dtype != torch.bfloat16 or self._newest is None or len(self._newest[1]) != len(data):
            return None
        began = time.monotonic()
        base, old = self._newest
        content, changed = weight_delta.encode(old, data)
        self._delta_path = path.with_suffix(".delta")
        self._delta_path.write_bytes(content)
        return Delta(base, str(self._delta_path), len(content), changed, elements, time.monotonic() - began)

    def _canary_logprobs(self) -> tuple[float, ...]:
        with torch.no_grad():
            logits = self._mirror(input_ids=self._canary[None, :-1], use_cache=False).logits[0]
            ones = torch.ones(CANARY_TOKENS - 1)
            return tuple(token_logprobs(logits, self._canary[1:], ones).tolist())

    def close(self) -> None:
        """Remove what was written. Mappings that engines hold stay valid."""
        for path in filter(None, (*self._written, self._delta_path)):
            path.unlink(missing_ok=True)
        if self._own is not None:
            self._own.close()


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
