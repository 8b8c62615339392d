"""Weights on hosts where no learner is: one courier per host, shared by its actors.

On the learner's host it reads what was published; on another it keeps the two newest sets in shared memory, as the
learner does on its own, and actors map them there. It makes a set of the one before and a delta, or takes all of it; in
both cases the digest must be the published one before any engine hears of the set. Nothing here knows of Ray.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np

from swarm import weight_delta
from swarm.errors import ActorError
from swarm.ram_folder import RamFolder
from swarm.types import Weights
from swarm.weights import digest, open_mapped

KEEP = 2
"""Sets: an actor that was just told of one may still have to open it when the next comes."""


class Courier:
    """Reads, or receives and keeps, sets of weights on its host."""

    def __init__(self) -> None:
        self._folder: RamFolder | None = None
        self._held: list[tuple[str, Path]] = []  # digest and file, the newest last

    def read(self, path: str) -> np.ndarray:
        """uint8: the bytes of a published file on this host. Raises ActorError where it is gone."""
        try:
            return np.fromfile(path, np.uint8)
        except OSError as error:
            raise ActorError(f"published weights cannot be read: {error}") from None

    def patch(self, weights: Weights, delta: np.ndarray) -> str:
        """Make the set of `weights` from its base, which is held here, and its delta; returns its path.

        The base stays as it is: engines that are to be rolled back have it mapped. Raises ActorError where the base is
        not held, the delta is damaged, or what comes out is not bit for bit what was published.
        """
        wanted = weights.delta
        base = next((path for held, path in reversed(self._held) if wanted and held == wanted.base), None)
        if base is None:
            raise ActorError(f"weights of step {weights.version.step}: what their delta applies to is not held here")

        def make(part: Path) -> None:
            shutil.copyfile(base, part)
            weight_delta.apply(np.memmap(part, np.uint8, "r+"), delta)

        return self._take(weights, make)

    def hold(self, weights: Weights, content: np.ndarray) -> str:
        """Keep a set that came whole; returns its path. Raises ActorError where it is not what was published."""
        return self._take(weights, content.tofile)

    def _take(self, weights: Weights, make: Callable[[Path], None]) -> str:
        if self._folder is None:
            self._folder = RamFolder()
        for _, old in self._held[: 1 - KEEP]:  # first, so that there is never room needed for one more
            old.unlink(missing_ok=True)
        self._held = self._held[1 - KEEP :]
        version = weights.version
        path = self._folder.path / f"{version.lineage}-{version.step}-{weights.digest[:8]}.safetensors"
        part = path.with_suffix(".part")
        try:
            make(part)
            found = digest((name, t.dtype, t.shape, t.data) for name, t in open_mapped(part).items())
            if found != weights.digest:
                raise ValueError(f"digest {found}, published as {weights.digest}")
            part.replace(path)
        except (OSError, ValueError) as error:
            part.unlink(missing_ok=True)
            raise ActorError(f"weights of step {version.step}: {error}") from None
        self._held.append((weights.digest, path))
        return str(path)

    def close(self) -> None:
        """Remove what is held; mappings that engines hold stay valid."""
        if self._folder is not None:
            self._folder.close()
