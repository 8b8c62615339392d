"""Where the prompts and completions of packed groups lie, and how attention cuts them up.

T packed tokens of G prompts of at most P tokens and C completions of at most L. Attention wants rectangles, so both are
also laid out in M = G * P + C * L padded places, completions from long to short.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

_TILE = 64
"""Queries of a tile."""


@dataclass(frozen=True, slots=True)
class Tile:
    """Queries `start <= i < end` of the `count` longest completions."""

    count: int
    start: int
    end: int
    mask: Tensor
    """float32 [count or 1, 1, end - start, P + end], 0 or -inf."""


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
    """int64 [C]: the prompt of each completion. Here and in the padded places, completions go from long to short."""
    tiles: tuple[Tile, ...]
    """Cover all completions; one tile for all of them where it is not `tiled`."""
    tiled: bool
    """Whether attention goes tile by tile, in kernels that only processors have."""
    prompts: tuple[int, int]
    """(G, P)"""
    completions: tuple[int, int]
    """(C, L)"""

    @classmethod
    def of(
        cls, prompts: np.ndarray, completions: np.ndarray, owner: np.ndarray, device: str = "cpu", tile: int = _TILE
    ) -> Layout:
        """From int64 [G, 2] and [C, 2] (start, length) of the packed parts, and int64 [C]. `tile` queries make a tile
        on a processor; 0 is the way of other devices."""
        order = np.argsort(-completions[:, 1], kind="stable")
        completions, owner = completions[order], owner[order]
        width, length = int(prompts[:, 1].max()), int(completions[0, 1])
        places, real = zip(_padded(prompts, width), _padded(completions, length), strict=True)
        spread, holds = np.concatenate([p.ravel() for p in places]), np.concatenate([r.ravel() for r in real])
        collect = np.empty(int(holds.sum()), np.int64)
        collect[spread[holds]] = np.flatnonzero(holds)
        tiled = tile > 0 and device == "cpu"
        step = tile if tiled else max(length, 1)
        starts = range(0, length, step)
        counts = [int((completions[:, 1] > i).sum()) if tiled else len(owner) for i in starts]
        tiles = tuple(
            _tile(prompts[owner[:count], 1], width, start, min(start + step, length), device)
            for count, start in zip(counts, starts, strict=True)
        )
        spread, collect, holds, owner = (torch.from_numpy(x).to(device) for x in (spread, collect, holds, owner))
        return cls(spread, collect, holds, owner, tiles, tiled, (len(prompts), width), (len(owner), length))


def _tile(prefixes: np.ndarray, width: int, start: int, end: int, device: str) -> Tile:
    """`prefixes` [count]: lengths of their prompts, of `width` places."""
    prefix = np.arange(width) < prefixes[:, None]
    if prefix.all():
        prefix = prefix[:1]  # one mask is everyone's
    own = np.arange(end) <= np.arange(start, end)[:, None]
    shape = (len(prefix), end - start)
    seen = np.concatenate(
        [np.broadcast_to(prefix[:, None], (*shape, width)), np.broadcast_to(own, (*shape, end))], axis=2
    )
    mask = torch.from_numpy(np.where(seen, 0.0, -np.inf).astype(np.float32)[:, None]).to(device)
    return Tile(len(prefixes), start, end, mask)


def _padded(spans: np.ndarray, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Index of each place of [N, width], and whether it is one."""
    steps = np.arange(width)
    real = steps < spans[:, 1:]
    return np.where(real, spans[:, :1] + steps, 0), real


class Parts:
    """Padded prompts [G, P, ...] and completions [C, L, ...] of packed tensors."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._cut = layout.prompts[0] * layout.prompts[1]

    def of(self, packed: Tensor) -> tuple[Tensor, Tensor]:
        return self.views(packed.index_select(0, self._layout.spread))

    def views(self, padded: Tensor) -> tuple[Tensor, Tensor]:
        layout = self._layout
        return padded[: self._cut].unflatten(0, layout.prompts), padded[self._cut :].unflatten(0, layout.completions)

    def clear(self, prompts: Tensor, completions: Tensor) -> None:
        """Set places that hold no token to 0."""
        for part, real in zip((prompts, completions), self.views(self._layout.real), strict=True):
            part.mul_(real[:, :, None, None])


def tile_inputs(
    tile: Tile, layout: Layout, queries: Tensor, keys: tuple[Tensor, Tensor], values: tuple[Tensor, Tensor]
) -> list[Tensor]:
    """Of a tile, as attention wants them: [count, heads, tokens, D]."""
    owner = layout.owner[: tile.count]
    seen = [
        torch.cat([prompts.index_select(0, owner), own[: tile.count, : tile.end]], 1) for prompts, own in (keys, values)
    ]
    return [x.transpose(1, 2) for x in (queries[: tile.count, tile.start : tile.end], *seen)]
