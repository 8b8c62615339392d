"""Sets of weights as a learner publishes them, with their deltas, and no learner."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from swarm import weight_delta, weights
from swarm.types import Delta, PolicyVersion, Weights


class Source:
    """What a learner's publisher leaves in a folder: one tensor of 70,001 elements, of which a share changes."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.step = folder, 0
        self.values = np.random.default_rng(0).integers(0, 1 << 16, 70_001).astype(np.uint16)
        self.newest: Weights | None = None

    def publish(self, share: float = 0.01) -> Weights:
        self.step += 1
        chosen = np.random.default_rng(self.step).random(len(self.values)) < share
        self.values = np.where(chosen, self.values ^ 1, self.values).astype(np.uint16)
        path = self.folder / f"{self.step}.safetensors"
        each, size = weights.write(path, {"w": ("bfloat16", self.values.shape, self.values)})
        delta = None
        if self.newest:
            content, changed = weight_delta.encode(np.fromfile(self.newest.path, np.uint8), np.fromfile(path, np.uint8))
            (self.folder / f"{self.step}.delta").write_bytes(content)
            file = str(self.folder / f"{self.step}.delta")
            delta = Delta(self.newest.digest, file, len(content), changed, len(self.values), 0.0)
        version = PolicyVersion("learner", 0, self.step)
        self.newest = Weights(version, str(path), weights.combined(each), size, tensors=each, delta=delta)
        return self.newest
