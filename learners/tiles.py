"""Attention of packed groups on a processor, tile by tile.

Completions are cut into tiles of queries, longest completion first:

    tile            1         2         3            its queries attend to
    completion a    #######   #######   ###..        [prompt; own tokens up to the end of the tile]
    completion b    #######   ##.....                so that short completions cost nothing where long ones go on,
    completion c    ####...                          and little of what a causal mask hides is computed

and what is kept for the backward pass are the packed tensors, not the padded ones.

The kernels are those that torch's `scaled_dot_product_attention` takes on a processor; they are called by name because
their normalisers have to be kept, so that the backward pass can gather its inputs again.

Source: tiles and kept normalisers, FlashAttention-2, arXiv 2307.08691, algorithm 2; a prefix shared by several
continuations: Hydragen, arXiv 2402.05099. Differs: the prefix is read once per completion, since a separate pass over
it would save memory traffic but no time here.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from learners.layout import Layout, Parts, tile_inputs


class Tiled(torch.autograd.Function):
    """[T, heads, D] queries and [T, fewer heads, D] keys and values -> [T, heads, D], tile by tile."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, layout: Layout, scale: float | None) -> Tensor:
        flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
        parts = Parts(layout)
        (pq, cq), (pk, ck), (pv, cv) = (parts.of(x) for x in (query, key, value))
        out = query.new_empty(len(layout.spread), *query.shape[1:])
        po, co = parts.views(out)
        result, norm = flash(*(x.transpose(1, 2) for x in (pq, pk, pv)), 0.0, True, scale=scale)
        po.copy_(result.transpose(1, 2))
        norms = [norm]
        for tile in layout.tiles:
            inputs = tile_inputs(tile, layout, cq, (pk, ck), (pv, cv))
            result, norm = flash(*inputs, 0.0, False, attn_mask=tile.mask.to(query.dtype), scale=scale)
            co[: tile.count, tile.start : tile.end] = result.transpose(1, 2)
            norms.append(norm)
        packed = out.index_select(0, layout.collect)
        ctx.save_for_backward(query, key, value, packed, *norms)
        ctx.layout, ctx.scale = layout, scale
        return packed

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward
        query, key, value, packed, norm, *norms = ctx.saved_tensors
        layout, scale = ctx.layout, ctx.scale
        parts, cut = Parts(layout), layout.prompts[1]
        (pq, cq), (pk, ck), (pv, cv), (po, co), (pg, cg) = (parts.of(x) for x in (query, key, value, packed, grad))
        parts.clear(pg, cg)
        grads = [x.new_zeros(len(layout.spread), *x.shape[1:]) for x in (query, key, value)]
        (pdq, cdq), *pairs = (parts.views(x) for x in grads)
        prefixes = [x.new_zeros(layout.completions[0], *x.shape[1:]) for x in (pk, pv)]
        found = flash(*(x.transpose(1, 2) for x in (pg, pq, pk, pv, po)), norm, 0.0, True, scale=scale)
        for place, one in zip((pdq, pairs[0][0], pairs[1][0]), found, strict=True):
            place.copy_(one.transpose(1, 2))
        for tile, norm in zip(layout.tiles, norms, strict=True):
            inputs = tile_inputs(tile, layout, cq, (pk, ck), (pv, cv))
            rows = slice(tile.count), slice(tile.start, tile.end)
            before, after = cg[rows].transpose(1, 2), co[rows].transpose(1, 2)
            found = flash(before, *inputs, after, norm, 0.0, False, attn_mask=tile.mask.to(query.dtype), scale=scale)
            cdq[rows] = found[0].transpose(1, 2)
            for (_, own), prefix, one in zip(pairs, prefixes, found[1:], strict=True):
                prefix[: tile.count] += one[:, :, :cut].transpose(1, 2)
                own[: tile.count, : tile.end] += one[:, :, cut:].transpose(1, 2)
        for (place, _), prefix in zip(pairs, prefixes, strict=True):
            place.index_add_(0, layout.owner, prefix)
        return *(x.index_select(0, layout.collect) for x in grads), None, None
