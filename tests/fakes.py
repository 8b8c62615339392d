"""Validating fakes of the roles that are not processes: what a caller hands over is checked."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np

from swarm.roles import Completion, Sampling, SyncReport, Usage
from swarm.types import Finish, PolicyVersion, Span, Weights


class FakeEngine:
    """An engine whose completions are a function of prompt and seed: the ids of `reply`, then `eos`.

    `gate` holds completions back and `load_gate` loads until they are set; request number `fail_at` fails.
    """

    def __init__(self, reply: list[int], eos: int, fail_at: int | None = None) -> None:
        self.reply, self.eos, self.fail_at = reply, eos, fail_at
        self.version = PolicyVersion("learner", 0, 0)
        self.keep_cache = True
        self.prompts: list[np.ndarray] = []
        self.samplings: list[Sampling] = []
        self.seeds: list[int] = []
        self.cancelled = 0
        self.most_at_once = self._at_once = 0
        self.full = asyncio.Event()
        """Set once `full_at` requests are under way."""
        self.full_at = 4
        self.gate = asyncio.Event()
        self.gate.set()
        self.load_gate = asyncio.Event()
        self.load_gate.set()
        self.load_error: Exception | None = None
        self.closed = False

    async def complete(self, prompt: np.ndarray, sampling: Sampling, seed: int) -> Completion:
        """The reply; checks what it is asked."""
        assert prompt.dtype == np.int32
        assert prompt.ndim == 1
        assert len(prompt)
        assert isinstance(seed, int)
        assert 0 <= seed < 2**63
        assert sampling.max_new_tokens >= 1
        assert not self.closed
        number = len(self.seeds)
        self.prompts.append(prompt)
        self.samplings.append(sampling)
        self.seeds.append(seed)
        self._at_once += 1
        self.most_at_once = max(self.most_at_once, self._at_once)
        if self._at_once >= self.full_at:
            self.full.set()
        try:
            if number == self.fail_at:
                raise ValueError("the engine broke")
            await self.gate.wait()
            await asyncio.sleep(0)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self._at_once -= 1
        tokens = np.array([*self.reply, self.eos][: sampling.max_new_tokens], np.int32)
        stopped = int(tokens[-1]) == self.eos
        return Completion(
            tokens=tokens,
            logprobs=np.full(len(tokens), -0.5, np.float32),
            spans=(Span(self.version.step, 0, len(tokens)),),
            finish=Finish.STOP if stopped else Finish.LENGTH,
        )

    async def logprobs(self, prompt: np.ndarray, completion: np.ndarray) -> np.ndarray:
        """float32 [C], all equal."""
        assert prompt.dtype == completion.dtype == np.int32
        return np.full(len(completion), -0.5, np.float32)

    async def first_logprobs(self, prompt: np.ndarray, tokens: np.ndarray) -> np.ndarray:
        """float32 [C], all equal."""
        assert prompt.dtype == tokens.dtype == np.int32
        return np.full(len(tokens), -4.0, np.float32)

    async def load(self, weights: Weights) -> SyncReport:
        """Take a version once `load_gate` is open, or fail with `load_error`."""
        assert not self.closed
        await self.load_gate.wait()
        if self.load_error:
            raise self.load_error
        self.version = weights.version
        return SyncReport(weights.version.step, 0.0, 0.0, 0.0, 0.0, self._at_once)

    def usage(self) -> Usage:
        """Counts requests as tokens."""
        return Usage(0.0, 0.0, tokens=len(self.seeds))

    def close(self) -> None:
        """Once only."""
        assert not self.closed
        self.closed = True


def weights_of(learner: str, lineage: int, step: int, path: Path | str = "none") -> Weights:
    """A published set that a fake engine takes."""
    return Weights(PolicyVersion(learner, lineage, step), str(path), digest="0" * 32, bytes=0)
