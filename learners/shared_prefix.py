"""One pass over the prompt of a group, instead of one for each of its completions.

    packed tokens [T] of one micro-batch:    prompt a | completion a1 | a2 | ... | prompt b | b1 | b2 | ...

Every layer sees each token once. Only attention has to know who belongs to whom: prompts attend to themselves, and a
completion to [its prompt; itself], both as padded batches around one gather each way. A dense mask over the packed
tokens would give the same numbers and cost the square of a group's length.

On a processor attention goes tile by tile (`learners.tiles`).

transformers finds `attend` by its registered name, so it serves every model whose attention goes through that
registry. `install` says whether a model's does, by comparing log-probabilities with the plain way.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from learners.layout import Layout, Parts, tile_inputs
from learners.tiles import Tiled

NAME = "swarm_shared_prefix"
_TOLERANCE = 1e-3
"""Largest difference of logits, relative to the largest logit, that counts as the same model (float32)."""


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
    packed = [x[0].transpose(0, 1) for x in (query, key, value)]
    if layout.tiled:
        if torch.is_autocast_enabled("cpu"):  # which knows torch's own function only, not what that calls
            packed = [x.to(torch.get_autocast_dtype("cpu")) for x in packed]
        return Tiled.apply(*packed, layout, scaling)[None], None
    heads, size = query.shape[1], query.shape[3]
    parts = Parts(layout)
    (pq, cq), (pk, ck), (pv, cv) = (parts.views(_Spread.apply(x, layout)) for x in packed)

    def run(inputs: Sequence[Tensor], **how: Any) -> Tensor:
        """[N, heads, length, D] each; returns [N * length, heads, D]."""
        out = nn.functional.scaled_dot_product_attention(*inputs, scale=scaling, enable_gqa=True, **how)
        return out.transpose(1, 2).reshape(-1, heads, size)

    found = [run([x.transpose(1, 2) for x in (pq, pk, pv)], is_causal=True)]
    found += [
        run(tile_inputs(tile, layout, cq, (pk, ck), (pv, cv)), attn_mask=tile.mask.to(query.dtype))
        for tile in layout.tiles  # one, of all completions
    ]
    return _Collect.apply(torch.cat(found), layout)[None], None


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
