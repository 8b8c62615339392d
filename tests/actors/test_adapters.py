"""Adapters become a whole set of weights before an engine sees them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from actors import staging
from actors.adapters import Base
from swarm.errors import ActorError
from swarm.weights import Tensor

TARGET = "model.layers.0.self_attn.q_proj"


def tensor(values: np.ndarray) -> Tensor:
    values = np.ascontiguousarray(values, np.float32)
    return Tensor("float32", values.shape, memoryview(values).cast("B"))


def pair(wanted, rank=2, seed=0):
    out, inside = wanted[f"{TARGET}.weight"][1]
    rng = np.random.default_rng(seed)
    a, b = rng.standard_normal((rank, inside)), rng.standard_normal((out, rank))
    return {f"{TARGET}.lora_A.weight": tensor(a), f"{TARGET}.lora_B.weight": tensor(b)}, b @ a


def values(found: Tensor) -> torch.Tensor:
    return torch.frombuffer(bytearray(found.data), dtype=getattr(torch, found.dtype)).view(found.shape)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_product_is_added_in_float32_and_the_rest_stays(llama, dtype):
    wanted = staging.manifest(llama, dtype)
    plain = staging.from_folder(llama, staging.manifest(llama, "float32"))
    adapters, product = pair(wanted)
    base = Base(llama, wanted)
    for _ in range(2):  # the folder's own numbers stay as they are
        found = base.merged(adapters, 0.5)
        assert list(found) == list(wanted)
        sums = values(plain[f"{TARGET}.weight"]).double() + 0.5 * torch.from_numpy(product)
        got = values(found[f"{TARGET}.weight"]).double()
        assert torch.allclose(got, sums, rtol=1e-2 if dtype == "bfloat16" else 1e-5, atol=1e-6)
        name = "model.embed_tokens.weight"
        assert torch.equal(values(found[name]), values(plain[name]).to(getattr(torch, dtype)))


def test_adapters_that_do_not_fit_are_refused(llama):
    wanted = staging.manifest(llama, "float32")
    adapters, _ = pair(wanted)
    base = Base(llama, wanted)
    with pytest.raises(ActorError, match="pairs"):
        base.merged({n: t for n, t in adapters.items() if "lora_A" in n}, 1.0)
    with pytest.raises(ActorError, match="does not have: elsewhere"):
        base.merged({n.replace(TARGET, "elsewhere"): t for n, t in adapters.items()}, 1.0)
    narrow = adapters | {f"{TARGET}.lora_A.weight": tensor(np.ones((2, 3)))}
    with pytest.raises(ActorError, match=r"adapters of .*q_proj.weight are \(2, 3\)"):
        base.merged(narrow, 1.0)
