"""Log-probabilities of chosen tokens straight from hidden states, a block of the vocabulary at a time.

N = tokens with loss, H = hidden size, V = vocabulary. Logits are needed only to be reduced over the vocabulary, so a
block of them [N, width] is made and reduced: `width` shrinks as N grows. Blocks are kept for the backward pass up to
`KEEP` logits in all; where there are more none is, and the backward pass makes each again, which costs a third more
multiplications in the head. So memory has a bound that depends on neither V nor N.

Blocks cut the vocabulary and not the tokens, so every row of the weight is read once in each pass and every row of its
gradient is written once; cut the other way, the whole [V, H] would be read and written again for each block.

Source: online normaliser, arXiv 1805.02867, algorithm 3; recomputing the logits of a fused loss: arXiv 2411.09009
(which filters small gradients: not done here; the gradient is exact) and Liger Kernel, arXiv 2410.10989 (which computes
the gradient in the forward pass, and so has to know the loss).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

BLOCK = 1 << 21
"""Logits of one block: 8 MB in float32, which a processor's cache holds."""

KEEP = 1 << 26
"""Logits of one pass that are kept for its backward pass: 256 MiB in float32."""


class Shape(NamedTuple):
    """What a model does to its logits: `cap * tanh(scale * x / cap)`, without a cap `scale * x`."""

    scale: float = 1.0
    cap: float | None = None


def token_logprobs(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    temperatures: Tensor,
    shape: Shape = Shape(),  # noqa: B008 - immutable
    entropy: bool | None = None,
) -> tuple[Tensor, Tensor | None]:
    """[N] natural log of softmax(logits / temperature)[target], and [N] entropy of that distribution in nats.

    `hidden` [N, H], `weight` [V, H], `bias` [V], `targets` int64 [N], `temperatures` [N] > 0. `entropy`: None for none,
    False for one without gradient, True for one with. Products are in the dtype of autocast where one is active, else
    in that of `weight`; the reduction and the results are float32 (float64 where `weight` is).
    """
    kind = hidden.device.type
    lower = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else weight.dtype
    return _Head.apply(hidden, weight, bias, targets, temperatures, shape, entropy, lower)


class _Blocks:
    """The logits, block by block, as the model scales them and divided by the temperature."""

    def __init__(
        self,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        temperatures: Tensor,
        shape: Shape,
        lower: torch.dtype,
    ) -> None:
        self.hidden, self.weight, self.bias, self.shape, self.lower = hidden, weight, bias, shape, lower
        self.kind = torch.float64 if weight.dtype is torch.float64 else torch.float32
        self.low = hidden.to(lower)
        self.factors = temperatures.to(self.kind).reciprocal()[:, None]
        """[N, 1]: 1 / temperature."""
        self.scales = shape.scale != 1.0 or not bool(
            (self.factors == 1.0).all()
        )  # asked once: a GPU has to wait for it

    def bounds(self) -> Iterator[tuple[int, int]]:
        size = len(self.weight)
        width = max(BLOCK // max(len(self.hidden), 1), 16)
        return ((start, min(start + width, size)) for start in range(0, size, width))

    def logits(self, start: int, end: int) -> Tensor:
        """[N, end - start] in `kind`."""
        out = torch.mm(self.low, self.weight[start:end].to(self.lower).t()).to(self.kind)
        if self.bias is not None:
            out.add_(self.bias[start:end])
        scale, cap = self.shape
        if cap is not None:
            return out.mul_(scale / cap).tanh_().mul_(cap).mul_(self.factors)
        return out.mul_(self.factors * scale) if self.scales else out


class _Head(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        temperatures: Tensor,
        shape: Shape,
        entropy: bool | None,
        lower: torch.dtype,
    ) -> tuple[Tensor, Tensor | None]:
        with torch.autocast(hidden.device.type, enabled=False):
            blocks = _Blocks(hidden, weight, bias, temperatures, shape, lower)
            factors = blocks.factors
            kept: list[Tensor] | None = [] if ctx.needs_input_grad[0] and len(hidden) * len(weight) <= KEEP else None
            largest = torch.full_like(factors, -torch.inf)
            total, mean, chosen = (torch.zeros_like(factors) for _ in range(3))
            for start, end in blocks.bounds():
                logits = blocks.logits(start, end)
                places = targets[:, None] - start
                inside = (places >= 0) & (places < end - start)
                chosen += logits.gather(1, places.clamp(0, end - start - 1)) * inside
                now = torch.maximum(largest, logits.amax(1, keepdim=True))
                shrink = (largest - now).exp_()
                if kept is None:
                    logits.sub_(now)
                else:
                    kept.append(logits)
                    logits = logits - now
                if entropy is None:
                    total = total * shrink + logits.exp_().sum(1, keepdim=True)
                else:
                    weights = logits.exp()
                    # `mean` is the sum of weight * (logit - largest); its origin moves with the largest
                    moved = torch.where(total > 0, mean + (largest - now) * total, 0.0)
                    mean = moved * shrink + weights.mul_(logits).sum(1, keepdim=True)
                    total = total * shrink + logits.exp_().sum(1, keepdim=True)
                largest = now
            normaliser = largest + total.log()
            spread = None if entropy is None else total.log() - mean / total
        ctx.save_for_backward(hidden, weight, bias, targets, temperatures, normaliser, spread)
        ctx.shape, ctx.lower, ctx.entropy, ctx.kept = shape, lower, entropy, kept
        logprobs = (chosen - normaliser)[:, 0]
        if spread is None:
            return logprobs, None
        out = spread[:, 0].clone()
        if not entropy:
            ctx.mark_non_differentiable(out)
        return logprobs, out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, grad_entropy: Tensor | None) -> tuple[Tensor | None, ...]:
        hidden, weight, bias, targets, temperatures, normaliser, spread = ctx.saved_tensors
        scale, cap = ctx.shape
        blocks = _Blocks(hidden, weight, bias, temperatures, ctx.shape, ctx.lower)
        kind, lower, factors = blocks.kind, ctx.lower, blocks.factors
        grad = grad.to(kind)[:, None]
        to_hidden = torch.zeros(hidden.shape, dtype=kind, device=hidden.device)
        frozen = not ctx.needs_input_grad[1]  # with adapters the weight is, and its gradient half of the work
        to_weight = None if frozen else torch.empty(weight.shape, dtype=weight.dtype, device=weight.device)
        to_bias = None if bias is None else torch.empty_like(bias)
        kept, ctx.kept = ctx.kept, None  # taken apart below, block by block
        for number, (start, end) in enumerate(blocks.bounds()):
            if kept is None:
                logits = blocks.logits(start, end)
            else:
                logits, kept[number] = kept[number], hidden  # its memory is free after this block
            slope = None if cap is None else (logits / factors).div_(cap).square_().neg_().add_(1.0)
            logits.sub_(normaliser)  # now log-probabilities
            if ctx.entropy and grad_entropy is not None:
                each = logits.add(spread).mul_(-grad_entropy.to(kind)[:, None]).sub_(grad)
                out = logits.exp_().mul_(each)
            else:
                out = logits.exp_().mul_(-grad)
            places = targets[:, None] - start
            inside = (places >= 0) & (places < end - start)
            out.scatter_add_(1, places.clamp(0, end - start - 1), grad * inside)
            if slope is not None:
                out.mul_(slope)
            if blocks.scales:
                out.mul_(factors * scale)
            if to_bias is not None:
                to_bias[start:end] = out.sum(0)
            low = out.to(lower)
            block = weight[start:end].to(lower)
            if lower is kind:
                to_hidden.addmm_(low, block)
            else:
                to_hidden += torch.mm(low, block)
            if to_weight is None:
                continue
            if lower is weight.dtype:
                torch.mm(low.t(), blocks.low, out=to_weight[start:end])
            else:
                to_weight[start:end] = torch.mm(low.t(), blocks.low)
        return to_hidden.to(hidden.dtype), to_weight, to_bias, None, None, None, None, None
