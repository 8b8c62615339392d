"""Two layers of transformers' models with less traffic: root-mean-square norms, and gated linear units with SiLU.

As autograd would take them, each makes a tensor of its input's size for every elementary operation, and keeps most of
them for the backward pass. Here the norm keeps its input and one number per token, the gate its two factors. What they
compute is the same up to rounding.

`install` changes only modules that prove, by comparison, to be what they look like. Weights stay where they are and
modules are called as before, so hooks (ZeRO 3 gathers weights in them) hold.

Source: RMSNorm, arXiv 1910.07467, eq. 4; SwiGLU, arXiv 2002.05202, eq. 6; the idea of keeping less: Liger Kernel,
arXiv 2410.10989, section 3.2.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

_TOLERANCE = 1e-4
"""Largest difference, relative to the largest value, that counts as the same layer (float32)."""


class _Norm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        wide = x.float()
        rate = torch.linalg.vector_norm(wide, dim=-1, keepdim=True).square_()
        rate = rate.div_(x.shape[-1]).add_(eps).rsqrt_()
        ctx.save_for_backward(x, weight, rate)
        return (wide * rate).to(x.dtype) * weight

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor | None, None]:
        x, weight, rate = ctx.saved_tensors
        wide, scaled = x.float(), grad.float() * rate
        product = scaled * wide
        frozen = not ctx.needs_input_grad[1]
        to_weight = None if frozen else product.flatten(0, -2).sum(0).to(weight.dtype)
        pull = (product @ weight.float())[..., None] * rate.square().div_(x.shape[-1])
        return scaled.mul_(weight).addcmul_(wide, pull, value=-1).to(x.dtype), to_weight, None


class _Gate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        ctx.save_for_backward(gate, up)
        return nn.functional.silu(gate).mul_(up)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        gate, up = ctx.saved_tensors
        to_up = nn.functional.silu(gate).mul_(grad)
        return torch.ops.aten.silu_backward(grad * up, gate), to_up


class _NormForward:
    """An object and not a closure: a deep copy of the model then has its own."""

    def __init__(self, module: nn.Module, eps: float) -> None:
        self._module: Any = module
        self._eps = eps

    def __call__(self, x: Tensor) -> Tensor:
        return _Norm.apply(x, self._module.weight, self._eps)


class _GateForward:
    def __init__(self, module: nn.Module) -> None:
        self._module: Any = module

    def __call__(self, x: Tensor) -> Tensor:
        module = self._module
        return module.down_proj(_Gate.apply(module.gate_proj(x), module.up_proj(x)))


def install(model: nn.Module) -> int:
    """Make what can be made lean so; returns the number of modules."""
    return sum(_try(module) for module in model.modules())


def _try(module: nn.Module) -> bool:
    new = _lean(module)
    if new is None:
        return False
    before, weight = module.forward, next(module.parameters())
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(3, weight.shape[-1], generator=rng).to(weight.device)
    with torch.no_grad():
        try:
            wanted, found = before(x), new(x)
        except (TypeError, ValueError, RuntimeError, IndexError):  # it takes something else: so be it
            return False
    if wanted.shape != found.shape or (found - wanted).abs().max() > _TOLERANCE * wanted.abs().max():
        return False
    module.forward = new
    return True


def _lean(module: nn.Module) -> _NormForward | _GateForward | None:
    """By what a module looks like."""
    names = dict(module.named_children())
    if type(module).__name__.endswith("RMSNorm") and [n for n, _ in module.named_parameters()] == ["weight"]:
        eps = getattr(module, "variance_epsilon", getattr(module, "eps", None))
        return None if eps is None else _NormForward(module, float(eps))
    if set(names) == {"gate_proj", "up_proj", "down_proj", "act_fn"}:  # with adapters they are not plain linear layers
        return _GateForward(module)
    return None
