"""Reading a published weight set and proving it before an engine is touched.

vLLM checks next to nothing of what it loads: a missing layer or NaN passes without an error. So a set is staged first,
whole: names, shapes and dtypes against the model's own, every value finite, and the publisher's digest. What an engine
then loads is the very mapping that was checked, also if the file has been replaced or unlinked since.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from swarm.errors import ActorError
from swarm.types import Weights
from swarm.weights import Tensor, combined, digests, open_mapped

Manifest = Mapping[str, tuple[str, tuple[int, ...]]]
"""Name -> (dtype, shape) of every tensor that a set must have, and of no other."""

# Bits of exponent and mantissa, and the smallest pattern that is not finite, by dtype.
_FINITE = {
    "float32": (np.uint32, 0x7FFFFFFF, 0x7F800000),
    "bfloat16": (np.uint16, 0x7FFF, 0x7F80),
    "float16": (np.uint16, 0x7FFF, 0x7C00),
}
_CHUNK = 1 << 18  # elements; small enough that the scratch buffer stays in the processor's cache


def manifest(model: str, dtype: str) -> dict[str, tuple[str, tuple[int, ...]]]:
    """What a learner publishes of this model: `named_parameters()` of the transformers model, a tied head left out.

    Built on the meta device: no weights are read. Raises OSError where the folder is no model of transformers.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    with torch.device("meta"):
        skeleton = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(model))
    skeleton.tie_weights()
    return {name: (dtype, tuple(p.shape)) for name, p in skeleton.named_parameters()}


def stage(weights: Weights, wanted: Manifest | None) -> dict[str, Tensor]:
    """Map the published file and check all of it, its names only where they are `wanted`. Raises ActorError that names
    what is wrong."""
    try:
        tensors = open_mapped(weights.path)
    except (OSError, ValueError) as error:
        raise ActorError(f"weights of step {weights.version.step}: {error}") from None
    if wanted is not None:
        check_manifest(tensors, wanted)
    for name, tensor in tensors.items():
        if not is_finite(tensor):
            raise ActorError(f"weights of step {weights.version.step}: {name} is not finite")
    each = digests((name, t.dtype, t.shape, t.data) for name, t in tensors.items())
    if (found := combined(each)) != weights.digest:
        other = next((name for name in each if weights.tensors.get(name, each[name]) != each[name]), "")
        where = f"; {other} is not what was published" if other else ""
        raise ActorError(
            f"weights of step {weights.version.step}: digest {found}, published as {weights.digest}{where}"
        )
    return tensors


def check_manifest(tensors: Mapping[str, Tensor], wanted: Manifest) -> None:
    """Raise ActorError unless names, dtypes and shapes are exactly those wanted."""
    missing = sorted(wanted.keys() - tensors.keys())
    unknown = sorted(tensors.keys() - wanted.keys())
    if missing or unknown:
        parts = [f"{what} {_few(names)}" for what, names in (("missing", missing), ("unknown", unknown)) if names]
        raise ActorError(f"weights do not fit the model: {'; '.join(parts)}")
    for name, tensor in tensors.items():
        if (tensor.dtype, tensor.shape) != wanted[name]:
            dtype, shape = wanted[name]
            raise ActorError(f"weights: {name} is {tensor.dtype} {tensor.shape}, the model has {dtype} {shape}")


def is_finite(tensor: Tensor) -> bool:
    """Whether no value is infinite or NaN; reads bit patterns, so that bfloat16 needs no torch."""
    if tensor.dtype not in _FINITE or tensor.data.nbytes == 0:
        return True
    kind, mask, limit = _FINITE[tensor.dtype]
    bits = np.frombuffer(tensor.data, kind)
    scratch = np.empty(min(_CHUNK, len(bits)), kind)
    for start in range(0, len(bits), _CHUNK):
        part = bits[start : start + _CHUNK]
        np.bitwise_and(part, np.array(mask, kind), out=scratch[: len(part)])
        if scratch[: len(part)].max() >= limit:
            return False
    return True


def from_folder(model: str, wanted: Manifest) -> dict[str, Tensor]:
    """The weights that a model folder holds, in the wanted dtypes: what an engine rolls back to before its first load.

    Raises ActorError where the folder's safetensors files do not hold all that is wanted.
    """
    import torch

    found: dict[str, Tensor] = {}
    for file in sorted(Path(model).glob("*.safetensors")):
        found |= {name: tensor for name, tensor in open_mapped(file).items() if name in wanted}
    for name, tensor in found.items():
        dtype = wanted[name][0]
        if tensor.dtype != dtype:
            cast = torch.frombuffer(tensor.data, dtype=getattr(torch, tensor.dtype)).to(getattr(torch, dtype))
            found[name] = Tensor(dtype, tensor.shape, memoryview(cast.view(torch.uint8).numpy()))
    check_manifest(found, wanted)
    return found


def stop_ids(model: str) -> tuple[int, ...]:
    """End-of-sequence ids of a model folder: of its generation config, else of its config, else none."""
    for name in ("generation_config.json", "config.json"):
        path = Path(model) / name
        value = json.loads(path.read_text()).get("eos_token_id") if path.is_file() else None
        if value is not None:
            return tuple(value) if isinstance(value, list) else (int(value),)
    return ()


def _few(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
