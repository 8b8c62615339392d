"""One pass over the prompt of a group, instead of one for each of its completions.

    packed tokens [T] of one micro-batch:    prompt a | completion a1 | a2 | ... | prompt b | b1 | b2 | ...

Every layer sees each token once. Only attention has to know who belongs to whom: prompts attend to themselves, and a
completion to [its prompt; itself], both as padded batches around one gather each way. A dense mask over the packed
tokens would give the same numbers and cost the square of a group's length.

transformers finds `attend` by its registered name, so it serves every model whose attention goes through that
registry. `install` says whether a model's does, by comparing log-probabilities with the plain way.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

NAME = "swarm_shared_prefix"
_TOLERANCE = 1e-3
"""Largest difference of logits, relative to the largest logit, that counts as the same model (float32)."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Where prompts and completions lie in the packed tokens. G prompts of at most P tokens, C completions of at most
    L (their last token is predicted, not read), T packed tokens, M = G * P + C * L padded places."""

    spread: Tensor
    """int64 [M]: the packed token at each padded place; 0 where there is none."""
    collect: Tensor
    """int64 [T]: the padded place of each packed token."""
    real: Tensor
    """bool [M]: places that hold a token."""
    owner: Tensor
    """int64 [C]: the prompt of each completion."""
    mask: Tensor
    """bool [C, 1, L, P + L]: what a completion's tokens may attend to."""
    prompts: tuple[int, int]
    """(G, P)"""
    completions: tuple[int, int]
    """(C, L)"""

    @classmethod
    def of(cls, prompts: np.ndarray, completions: np.ndarray, owner: np.ndarray, device: str = "cpu") -> Layout:
        """From int64 [G, 2] and [C, 2] (start, length) of the packed parts, and int64 [C]."""
        width, length = int(prompts[:, 1].max()), int(completions[:, 1].max())
        places, real = zip(_padded(prompts, width), _padded(completions, length), strict=True)
        spread, holds = np.concatenate([p.ravel() for p in places]), np.concatenate([r.ravel() for r in real])
        collect = np.empty(int(holds.sum()), np.int64)
        collect[spread[holds]] = np.flatnonzero(holds)
        prefix = np.arange(width) < prompts[owner, 1][:, None]
        own = np.tril(np.ones((length, length), bool))
        shape = (len(owner), length)
        mask = np.concatenate(
            [np.broadcast_to(prefix[:, None], (*shape, width)), np.broadcast_to(own, (*shape, length))], axis=2
        )
        spread, collect, holds, mask, owner = (
            torch.from_numpy(np.ascontiguousarray(x)).to(device) for x in (spread, collect, holds, mask[:, None], owner)
        )
        return cls(spread, collect, holds, owner, mask, (len(prompts), width), shape)


def _padded(spans: np.ndarray, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Index of each place of [N, width], and whether it is one."""
    steps = np.arange(width)
    real = steps < spans[:, 1:]
    return np.where(real, spans[:, :1] + steps, 0), real


class _Spread(torch.autograd.Function):
    """[T, ...] -> [M, ...]. Padded places get token 0, which no kept result depends on: their gradient is dropped."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layout: Layout) -> Tensor:
        ctx.layout = layout
        return x.index_select(0, layout.spread)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad.index_select(0, ctx.layout.collect), None


class _Collect(torch.autograd.Function):
    """[M, ...] -> [T, ...]. Padded places get a gradient of 0."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layout: Layout) -> Tensor:
        ctx.layout = layout
        return x.index_select(0, layout.collect)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        layout = ctx.layout
        out = grad.index_select(0, layout.spread)
        return out.mul_(layout.real.view(-1, *[1] * (grad.dim() - 1))), None


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    layout: Layout | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """transformers' attention interface: [1, heads, T, D] in, [1, T, heads, D] out. Without a layout, plain causal."""
    if layout is None:
        from transformers import AttentionInterface

        plain = AttentionInterface()["sdpa"]
        return plain(module, query, key, value, attention_mask, scaling=scaling, dropout=dropout, **options)
    odd = [name for name in ("sliding_window", "softcap", "s_aux", "position_bias") if options.get(name) is not None]
    if odd:
        raise NotImplementedError(f"shared prompts with {odd[0]}")
    heads, size = query.shape[1], query.shape[3]
    (groups, width), (count, length) = layout.prompts, layout.completions
    cut = groups * width
    q, k, v = (_Spread.apply(x[0].transpose(0, 1), layout) for x in (query, key, value))

    def prompts(x: Tensor) -> Tensor:
        return x[:cut].unflatten(0, (groups, width))

    def completions(x: Tensor) -> Tensor:
        return x[cut:].unflatten(0, (count, length))

    def run(q: Tensor, k: Tensor, v: Tensor, **how: Any) -> Tensor:
        """[N, length, heads, D] each; returns [N * length, heads, D]."""
        out = nn.functional.scaled_dot_product_attention(
            q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), scale=scaling, enable_gqa=True, **how
        )
        return out.transpose(1, 2).reshape(-1, heads, size)

    parts = [run(prompts(q), prompts(k), prompts(v), is_causal=True)]
    if length:
        seen = (torch.cat([prompts(x).index_select(0, layout.owner), completions(x)], 1) for x in (k, v))
        parts.append(run(completions(q), *seen, attn_mask=layout.mask))
    return _Collect.apply(torch.cat(parts), layout)[None], None


def install(model: nn.Module) -> bool:
    """Give a transformers model `attend`. Returns False, and leaves the model as it was, where it cannot share."""
    from transformers import AttentionInterface

    settings: Any = model.config
    settings = settings.get_text_config()
    kinds = set(getattr(settings, "layer_types", None) or ["full_attention"])
    window = getattr(settings, "sliding_window", None) and getattr(settings, "use_sliding_window", True)
    if kinds != {"full_attention"} or window:
        return False
    before = settings._attn_implementation
    AttentionInterface.register(NAME, attend)
    change: Any = model.set_attn_implementation
    try:
        change(NAME)
        same = _same(model)
    except (TypeError, ValueError, NotImplementedError, RuntimeError, IndexError):  # it cannot: that is the answer
        same = False
    if not same:
        change(before)
    return same


def _same(model: nn.Module) -> bool:
    """Whether two completions of one prompt, packed, have the logits that they have alone."""
    embedding: Any = model.get_input_embeddings()
    ids = np.random.default_rng(0).integers(0, embedding.num_embeddings, 11)
    prompt, first, second = ids[:5], ids[5:9], ids[9:]
    layout = Layout.of(np.array([[0, 5]]), np.array([[5, 4], [9, 2]]), np.array([0, 0]))
    positions = np.concatenate([np.arange(9), np.arange(5, 7)])

    def logits(tokens: np.ndarray, **how: Any) -> Tensor:
        out = model(input_ids=torch.from_numpy(tokens)[None].to(embedding.weight.device), use_cache=False, **how)
        return out.logits[0]

    with torch.no_grad():
        packed = logits(ids, position_ids=torch.from_numpy(positions)[None], layout=layout)
        alone = [logits(np.concatenate([prompt, tail])) for tail in (first, second)]
        wanted = torch.cat([alone[0], alone[1][5:]])
        return bool((packed - wanted).abs().max() <= _TOLERANCE * wanted.abs().max())
