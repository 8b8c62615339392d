"""The roles: small protocols between packages. Each has one contract suite in `tests/`, run over all implementations.

    tasks -> PromptStream -> [ loop ] -> Crew.generate -> Actor(Engine) -> Group
                                      -> Crew.score    -> RewardWorker(Rewarder...) -> Group with verdicts
                                      -> Crew.step     -> Learner -> Weights -> Crew.sync -> Engine.load

`Engine`, `Rewarder` and `Learner` are what people write. `Crew` is the placement's face towards the loop: it turns
calls on handles into calls on processes (or, inline, on objects), and replaces what dies.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from swarm.types import Draw, Finish, Group, Handle, Prompt, PromptStats, Span, StepReport, Verdict, Weights


@dataclass(frozen=True, slots=True)
class Sampling:
    """How to sample. There is no top-p or top-k: truncation would bias the importance ratios."""

    temperature: float
    """0 is greedy; then log-probabilities are those of temperature 1."""
    max_new_tokens: int


@dataclass(frozen=True, slots=True)
class Completion:
    """What an engine returns for one request: int32 [C], float32 [C], spans over [0, C)."""

    tokens: np.ndarray
    logprobs: np.ndarray
    spans: tuple[Span, ...]
    finish: Finish


@dataclass(frozen=True, slots=True)
class SyncReport:
    """One weight update of one engine. `pause_s` is how long no request could advance."""

    step: int
    stage_s: float
    pause_s: float
    canary_mean: float
    """Mean absolute difference of the canary's log-probabilities, engine against learner, in nats."""
    canary_max: float
    in_flight: int
    """Requests that were unfinished when the pause began."""


@dataclass(frozen=True, slots=True)
class Usage:
    """Cumulative seconds and tokens of one worker since it was ready, on its own monotonic clock."""

    busy_s: float
    idle_s: float
    paused_s: float = 0.0
    cpu_s: float = 0.0
    tokens: int = 0


@dataclass(frozen=True, slots=True)
class Saved:
    """What a learner took to capture its state: seconds during which it did nothing else, bytes of all ranks."""

    capture_s: float
    bytes: int


@runtime_checkable
class Engine(Protocol):
    """Token ids in, token ids out, while weights change underneath. All methods are called from one event loop."""

    async def complete(self, prompt: np.ndarray, sampling: Sampling, seed: int) -> Completion:
        """Sample one completion of int32 [P] ids. Requests join and leave a running batch. The same seed, prompt and
        weights give the same tokens. Raises PromptRefused when prompt and new tokens exceed the context."""
        ...

    async def logprobs(self, prompt: np.ndarray, completion: np.ndarray) -> np.ndarray:
        """float32 [C] natural log at temperature 1 of given tokens under the present weights."""
        ...

    async def first_logprobs(self, prompt: np.ndarray, tokens: np.ndarray) -> np.ndarray:
        """float32 [C] natural log at temperature 1 of each of these int32 [C] ids as the first one after the prompt:
        one pass for all of them, which may use what is cached of the prompt."""
        ...

    async def load(self, weights: Weights) -> SyncReport:
        """Stage, verify, pause, load, check the loaded names, resume. In-flight requests go on with the new weights.
        On failure raises ActorError and the last good weights are back in place."""
        ...

    def usage(self) -> Usage: ...

    def close(self) -> None: ...


@runtime_checkable
class Rewarder(Protocol):
    """Judges the rollouts of one group. Never answers a number for its own failure: it abstains, or raises."""

    name: str

    async def judge(self, group: Group) -> Sequence[Verdict]:
        """One verdict per rollout, in order."""
        ...

    def close(self) -> None: ...


@runtime_checkable
class Learner(Protocol):
    """Scored groups in, weights out. Synchronous: it lives in a process of its own."""

    def step(self, step: int, groups: Sequence[Group]) -> StepReport:
        """One learner step on a batch; `step` is the number this step will have (1 is the first)."""
        ...

    def publish(self) -> Weights | None:
        """Write the present weights to RAM-backed storage of this host; the two newest sets are kept. One of several
        ranks publishes for all; the others answer None."""
        ...

    def save(self, folder: Path) -> Saved:
        """Capture everything a resume needs, and begin to write it into an existing empty folder. Returns once the
        next step may begin. One saving at a time: a second call waits for the first."""
        ...

    def saved(self) -> None:
        """Wait until the newest `save` is in its files; may be called from another thread than the rest. Raises
        OSError where they could not be written; the state in memory is as it was."""
        ...

    def restore(self, folder: Path, lineage: int) -> None:
        """The state that `save` wrote there, by any number of ranks; versions published from now on belong to
        `lineage`."""
        ...

    def usage(self) -> Usage: ...

    def close(self) -> None: ...


@runtime_checkable
class PromptStream(Protocol):
    """Seeded, resumable order of training prompts, and the held-out ones, disjoint by question content."""

    def next(self) -> Draw: ...

    def learned(self, prompts: Sequence[PromptStats]) -> None:
        """What became of prompts that `next()` gave: of each group that was trained on or set aside, once. What is
        drawn from now on may depend on it."""
        ...

    def held_out(self, num: int) -> list[Prompt]:
        """The first `num` distinct held-out questions (fewer where there are not so many)."""
        ...

    def state(self) -> Mapping[str, Any]:
        """JSON-able position after the last `next()` and `learned()`, of bounded size."""
        ...

    def restore(self, state: Mapping[str, Any]) -> None: ...


@runtime_checkable
class Crew(Protocol):
    """The processes of one node as the loop sees them. A dead one is replaced; what it held fails as a StageFailure.

    A dead learner is DeadActor, to whoever asks, until `restore`.
    """

    async def generate(self, prompt: Prompt, ticket: int, attempt: int, greedy: bool = False, num: int = 0) -> Handle:
        """A group of `num` rollouts (0: the recipe's group size)."""
        ...

    async def score(self, handle: Handle) -> Handle: ...

    async def step(self, step: int, batch: Sequence[Handle], record: Path | None) -> StepReport:
        """Train on the batch; with `record`, first write its groups durably to that Parquet file."""
        ...

    async def publish(self) -> Weights: ...

    async def sync(self, weights: Weights) -> list[SyncReport]:
        """Bring every live actor to these weights; an actor that starts later loads the newest before it serves."""
        ...

    async def save(self, folder: Path) -> Saved:
        """As the learner's: the state of this moment is taken, and is being written into `folder`."""
        ...

    async def saved(self) -> None:
        """As the learner's; does not wait for a step. Raises DeadActor where the learner died while it wrote."""
        ...

    async def restore(self, folder: Path | None, lineage: int) -> None:
        """The learner as it was saved in `folder` (None: as it was before the first step), in this lineage."""
        ...

    async def fetch(self, handle: Handle) -> Group: ...

    async def adopt(self, group: Group) -> Handle:
        """Take a group that was recorded (a checkpoint's pool, a replay) back in."""
        ...

    async def usage(self) -> Mapping[str, Usage]:
        """By worker name: `actor-0`, `rewarder-0`, `learner`, and further ranks `learner-1`, ..."""
        ...

    async def close(self) -> None: ...
