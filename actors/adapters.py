"""LoRA on the side of the engine: a published set holds A and B only, and the host adds their product to its model.

    W' = W + scale B A,   A [rank, in], B [out, rank]

The sum is taken in float32 from the model folder's own numbers and then brought to the engine's dtype, before the
engine is paused: what it loads is a whole set, like any other.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from actors.staging import Manifest, check_manifest
from swarm.errors import ActorError
from swarm.weights import Tensor, open_mapped

if TYPE_CHECKING:
    import torch

_A, _B = ".lora_A.weight", ".lora_B.weight"


class Base:
    """A model folder's weights, mapped; those that no adapter touches are brought to the engine's dtype once."""

    def __init__(self, model: str, wanted: Manifest) -> None:
        self._wanted = wanted
        self._raw: dict[str, Tensor] = {}
        for file in sorted(Path(model).glob("*.safetensors")):
            self._raw |= {name: tensor for name, tensor in open_mapped(file).items() if name in wanted}
        self._untouched: dict[str, Tensor] = {}

    def merged(self, adapters: Mapping[str, Tensor], scale: float) -> dict[str, Tensor]:
        """The whole set. Raises ActorError where adapters do not fit the model."""
        targets = {name.removesuffix(_A) for name in adapters if name.endswith(_A)}
        if set(adapters) != {target + part for target in targets for part in (_A, _B)}:
            raise ActorError(f"adapters do not come in pairs: {', '.join(sorted(adapters)[:3])} ...")
        if unknown := sorted(t for t in targets if f"{t}.weight" not in self._wanted):
            raise ActorError(f"adapters for weights that the model does not have: {', '.join(unknown[:3])}")
        out = {}
        for name in self._wanted:
            target = name.removesuffix(".weight")
            if target in targets:
                out[name] = self._sum(name, adapters[target + _A], adapters[target + _B], scale)
            else:
                if name not in self._untouched and name in self._raw:
                    self._untouched[name] = self._cast(name, _torch(self._raw[name]))
                out |= {name: self._untouched[name]} if name in self._untouched else {}
        check_manifest(out, self._wanted)
        return out

    def _sum(self, name: str, a: Tensor, b: Tensor, scale: float) -> Tensor:
        import torch

        weight = _torch(self._raw[name]).float()
        if a.shape[:1] != b.shape[1:] or (b.shape[0], a.shape[1]) != tuple(weight.shape):
            raise ActorError(f"adapters of {name} are {a.shape} and {b.shape}, the weight is {tuple(weight.shape)}")
        return self._cast(name, torch.addmm(weight, _torch(b), _torch(a), alpha=scale))

    def _cast(self, name: str, values: torch.Tensor) -> Tensor:
        import torch

        dtype = self._wanted[name][0]
        flat = values.to(getattr(torch, dtype)).contiguous()
        return Tensor(dtype, tuple(values.shape), memoryview(flat.view(-1).view(torch.uint8).numpy()))


def _torch(tensor: Tensor) -> torch.Tensor:
    import torch

    return torch.frombuffer(tensor.data, dtype=getattr(torch, tensor.dtype)).view(tensor.shape)
