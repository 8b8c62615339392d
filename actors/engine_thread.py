"""What both engines share: a thread that owns the model, a running batch, and weight updates while it runs.

    event loop                         engine thread
    complete(), logprobs()  --inbox-->  admit -> advance -> deliver        (requests join and leave between steps)
    load(): stage, then     --inbox-->  pause -> replace -> resume -> canary -> accept, or roll back

The model is built, stepped and freed on that one thread (OpenMP teams belong to threads). A load whose replacement
fails pushes the last good weights back before anything is generated again. After a load the canary, a token sequence
whose log-probabilities the learner published, is scored in the running batch; what finishes meanwhile is held, and on
a bad canary it fails together with all requests under way, since the rejected weights may have sampled them.
"""

from __future__ import annotations

import asyncio
import itertools
import math
import queue
import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from actors import staging
from actors.adapters import Base
from actors.canary import Canary
from actors.clock import Clock
from swarm.errors import ActorError, DeadActor, PromptRefused, SwarmError
from swarm.roles import Completion, Sampling, SyncReport, Usage
from swarm.types import PolicyVersion, Weights
from swarm.weights import Tensor


@dataclass(slots=True)
class Request:
    """One unit of work: sample after `tokens`, or (where `score_from` is set) score `tokens[score_from:]`, or (where
    `choices` is) score each of these as the next token."""

    id: str
    tokens: list[int]
    max_new_tokens: int = 0
    temperature: float = 0.0
    seed: int = 0
    score_from: int | None = None
    choices: list[int] | None = None
    future: Future[Any] = field(default_factory=Future)


@dataclass(slots=True)
class Sync:
    """One weight update on its way."""

    weights: Weights
    tensors: Mapping[str, Tensor]
    stage_s: float
    future: Future[SyncReport] = field(default_factory=Future)
    pause_s: float = 0.0
    in_flight: int = 0


class EngineThread(ABC):
    """Base of the engines; see :class:`swarm.roles.Engine` for what its public methods promise."""

    def __init__(
        self,
        model: str,
        *,
        dtype: str,
        max_context: int,
        seed: int,
        version: PolicyVersion,
        max_num_seqs: int,
        keep_cache: bool,
        eos_ids: Sequence[int],
    ) -> None:
        self.version = version
        """Of the weights that sample now."""
        self.keep_cache = keep_cache
        """Whether the key-value cache outlives a weight update."""
        self._model, self._dtype, self._max_context, self._seed = model, dtype, max_context, seed
        self._eos_ids = tuple(eos_ids) or staging.stop_ids(model)
        self._max_num_seqs = max_num_seqs
        self._ids = itertools.count()
        self._inbox: queue.SimpleQueue[tuple[Callable[[], None], Future[Any]]] = queue.SimpleQueue()
        self._waiting: deque[Request] = deque()
        self._running: dict[str, Request] = {}
        self._held: list[tuple[Request, Completion | np.ndarray]] = []
        self._syncs: deque[Sync] = deque()
        self._sync: Sync | None = None  # loaded, its canary not yet back
        self._good: tuple[Mapping[str, Tensor] | None, PolicyVersion] = (None, version)  # None: the model folder
        self._canary = Canary(dtype)
        self._tokens = 0
        self._closing = False
        self._ended: BaseException | None = None
        self._gate = threading.Lock()  # nothing enters the inbox once the thread has swept it
        booted: Future[None] = Future()
        self._thread = threading.Thread(target=self._run, args=(booted,), name=type(self).__name__, daemon=True)
        self._thread.start()
        booted.result()

    # What an engine adds. All of it runs on the engine's thread.

    @abstractmethod
    def _open(self) -> None:
        """Build the model and set `_wanted`, `_vocab`."""

    @abstractmethod
    def _start(self, request: Request) -> None:
        """Let a request join the running batch; it takes part from the next `_advance` on."""

    @abstractmethod
    def _advance(self) -> list[tuple[str, Completion | np.ndarray]]:
        """One step of the running batch; the requests that finished in it leave."""

    @abstractmethod
    def _drop(self, ids: Sequence[str]) -> None:
        """Take requests out of the running batch."""

    @abstractmethod
    def _pause(self, clear_cache: bool) -> None: ...

    @abstractmethod
    def _replace(self, tensors: Mapping[str, Tensor], version: PolicyVersion) -> None:
        """Load a staged set and label it. On an exception the model may be left unusable until the next call."""

    @abstractmethod
    def _resume(self) -> None: ...

    @abstractmethod
    def _shut(self) -> None: ...

    _wanted: staging.Manifest
    _base: Base | None = None
    _vocab: int

    # The role, called from one event loop.

    async def complete(self, prompt: np.ndarray, sampling: Sampling, seed: int) -> Completion:
        tokens = self._checked(prompt, sampling.max_new_tokens)
        if sampling.max_new_tokens < 1 or not sampling.temperature >= 0:
            raise ActorError(f"cannot sample with {sampling}")
        new = sampling.max_new_tokens
        return await self._ask(Request(self._id(), tokens, new, sampling.temperature, seed & (2**63 - 1)))

    async def logprobs(self, prompt: np.ndarray, completion: np.ndarray) -> np.ndarray:
        tokens = self._checked(np.concatenate([prompt, completion]), 0)
        if len(completion) == 0:
            return np.empty(0, np.float32)
        return await self._ask(Request(self._id(), tokens, score_from=len(prompt)))

    async def first_logprobs(self, prompt: np.ndarray, tokens: np.ndarray) -> np.ndarray:
        ids = self._checked(prompt, 1)
        if bad := [int(t) for t in tokens if not 0 <= t < self._vocab]:
            raise ActorError(f"tokens {bad}: the vocabulary has {self._vocab}")
        if len(tokens) == 0:
            return np.empty(0, np.float32)
        choices = sorted(set(map(int, tokens)))
        found = await self._ask(Request(self._id(), ids, max_new_tokens=1, choices=choices))
        return np.asarray(found)[np.searchsorted(choices, tokens)]

    async def load(self, weights: Weights) -> SyncReport:
        began = time.monotonic()
        tensors = await asyncio.to_thread(self._stage, weights)
        if len(weights.canary_tokens) not in (0, len(weights.canary_logprobs) + 1):
            raise ActorError("a canary needs one log-probability for each token but the first")
        sync = Sync(weights, tensors, time.monotonic() - began)
        self._post(lambda: self._syncs.append(sync), sync.future)
        return await asyncio.shield(asyncio.wrap_future(sync.future))

    def _stage(self, weights: Weights) -> Mapping[str, Tensor]:
        """The whole set, checked; adapters are added to the model's own weights."""
        if weights.adapter_scale is None:
            return staging.stage(weights, self._wanted)
        adapters = staging.stage(weights, None)
        if self._base is None:
            self._base = Base(self._model, self._wanted)
        return self._base.merged(adapters, weights.adapter_scale)

    def usage(self) -> Usage:
        spent = self._clock.read()
        cpu = time.process_time() - self._cpu_start
        return Usage(spent["busy"], spent["idle"], spent["paused"], cpu, self._tokens)

    def close(self) -> None:
        """End the thread and free the model; unfinished requests fail. Closing twice is fine."""
        self._closing = True
        self._inbox.put((lambda: None, Future()))
        self._thread.join()

    def _id(self) -> str:
        return str(next(self._ids))

    def _checked(self, tokens: np.ndarray, new: int) -> list[int]:
        if not 0 < len(tokens) <= self._max_context - new:
            raise PromptRefused(f"{len(tokens)} tokens and {new} new ones in a context of {self._max_context}")
        if tokens.min() < 0 or tokens.max() >= self._vocab:
            raise PromptRefused(f"token ids {tokens.min()} to {tokens.max()} in a vocabulary of {self._vocab}")
        return [int(t) for t in tokens]

    async def _ask(self, request: Request) -> Any:
        self._post(lambda: self._waiting.append(request), request.future)
        try:
            return await asyncio.wrap_future(request.future)
        except asyncio.CancelledError:
            if self._ended is None:
                self._inbox.put((lambda: self._forget(request), Future()))
            raise

    def _post(self, work: Callable[[], None], future: Future[Any]) -> None:
        with self._gate:
            if self._ended is not None:
                raise DeadActor(f"the engine has stopped: {self._ended}")
            self._inbox.put((work, future))

    # The thread.

    def _run(self, booted: Future[None]) -> None:
        try:
            self._open()
            self._clock, self._cpu_start = Clock(), time.process_time()
        except BaseException as error:  # noqa: BLE001 - the constructor raises it
            booted.set_exception(error)
            return
        booted.set_result(None)
        cause: BaseException = ActorError("closed")
        try:
            while True:
                self._take_inbox()
                if self._closing:
                    break
                if self._sync is None and self._syncs:
                    self._begin(self._syncs.popleft())
                while self._waiting and len(self._running) < self._max_num_seqs:
                    self._admit(self._waiting.popleft())
                if self._running:
                    for request_id, result in self._advance():
                        request = self._running.pop(request_id, None)
                        if request is not None:  # else failed by a canary earlier in this very step
                            self._finish(request, result)
        except BaseException as error:  # noqa: BLE001 - every waiting caller is told
            cause = error
        finally:
            self._end(cause)

    def _take_inbox(self) -> None:
        if not (self._waiting or self._running or self._syncs):
            self._clock.enter("idle")
            work, _ = self._inbox.get()
            self._clock.enter("busy")
            work()
        while not self._inbox.empty():
            self._inbox.get()[0]()

    def _admit(self, request: Request) -> None:
        if request.future.cancelled():
            return
        try:
            self._start(request)
        except Exception as error:  # noqa: BLE001 - its caller is told
            _fail(request.future, ActorError(f"request refused by the engine: {type(error).__name__}: {error}"))
        else:
            self._running[request.id] = request

    def _finish(self, request: Request, result: Completion | np.ndarray) -> None:
        if self._sync is not None and request.future is self._sync.future:
            assert isinstance(result, np.ndarray)
            self._judge(self._sync, result)
            return
        if isinstance(result, Completion):
            self._tokens += len(result.tokens)
            gap = _span_gap(result)
            if gap:
                _fail(request.future, ActorError(gap))
                return
        unverified = self._sync.weights.version.step if self._sync else None
        if self._sync and (isinstance(result, np.ndarray) or any(s.step == unverified for s in result.spans)):
            self._held.append((request, result))
        else:
            _give(request.future, result)

    def _forget(self, request: Request) -> None:
        if self._running.pop(request.id, None):
            self._drop([request.id])

    def _fail_running(self, why: str) -> None:
        self._drop(list(self._running))
        for request in [*self._running.values(), *(request for request, _ in self._held)]:
            _fail(request.future, ActorError(why))
        self._running.clear()
        self._held.clear()

    # Weight updates.

    def _begin(self, sync: Sync) -> None:
        version = sync.weights.version
        lag = self.version.lag_behind(version)
        if lag is not None and lag < 0:
            _fail(sync.future, ActorError(f"weights of step {version.step} after those of step {self.version.step}"))
            return
        sync.in_flight = len(self._running) + len(self._waiting)
        if lag is None:  # spans carry steps only: no rollout may mix two lineages
            self._fail_running(f"weights changed from {self.version} to {version}")
        began = self._clock.enter("paused")
        self._pause(clear_cache=not self.keep_cache)
        failure: Exception | None = None
        try:
            self._replace(sync.tensors, version)
        except Exception as error:  # noqa: BLE001 - the loader is told
            failure = error
            self._restore()  # if this fails too the engine stops: it never generates with half a model
        self._resume()
        sync.pause_s = self._clock.enter("busy") - began
        if failure is not None:
            text = str(failure) if isinstance(failure, SwarmError) else f"{type(failure).__name__}: {failure}"
            _fail(sync.future, ActorError(f"loading step {version.step}: {text}; step {self.version.step} is back"))
            return
        self.version = version
        if not sync.weights.canary_tokens:
            self._accept(sync, math.nan, math.nan)
            return
        self._sync = sync
        # It shares the sync's future, which marks it; it joins at once, beyond max_num_seqs.
        self._admit(Request(self._id(), list(sync.weights.canary_tokens), score_from=1, future=sync.future))
        if sync.future.done():
            self._reject(sync, "the engine refused the canary")

    def _judge(self, sync: Sync, found: np.ndarray) -> None:
        mean, worst, problem = self._canary.judge(found, sync.weights.canary_logprobs)
        if problem:
            self._reject(sync, problem)
        else:
            self._accept(sync, mean, worst)

    def _accept(self, sync: Sync, mean: float, worst: float) -> None:
        self._sync = None
        self._good = (sync.tensors, sync.weights.version)
        for request, result in self._held:
            _give(request.future, result)
        self._held.clear()
        step = sync.weights.version.step
        _give(sync.future, SyncReport(step, sync.stage_s, sync.pause_s, mean, worst, sync.in_flight))

    def _reject(self, sync: Sync, why: str) -> None:
        self._sync = None
        step = sync.weights.version.step
        self._fail_running(f"sampled by weights of step {step}, which did not verify")
        self._clock.enter("paused")
        self._pause(clear_cache=True)
        self._restore()
        self._resume()
        self._clock.enter("busy")
        _fail(sync.future, ActorError(f"weights of step {step}: {why}; step {self.version.step} is back"))

    def _restore(self) -> None:
        tensors, version = self._good
        self._replace(staging.from_folder(self._model, self._wanted) if tensors is None else tensors, version)
        self.version = version

    def _end(self, cause: BaseException) -> None:
        with self._gate:
            self._ended = cause
        futures = [r.future for r in (*self._waiting, *self._running.values(), *(r for r, _ in self._held))]
        futures += [sync.future for sync in (*self._syncs, self._sync) if sync]
        while not self._inbox.empty():
            futures.append(self._inbox.get()[1])
        for future in futures:
            _fail(future, ActorError(f"the engine has stopped: {type(cause).__name__}: {cause}"))
        self._shut()


def _span_gap(completion: Completion) -> str:
    """What is wrong with the spans of a completion: they must be contiguous and cover all of it."""
    at = 0
    for span in completion.spans:
        if span.start != at or span.end <= at:
            return f"version spans are not contiguous: {completion.spans}"
        at = span.end
    return "" if at == len(completion.tokens) else f"{len(completion.tokens)} tokens, version spans end at {at}"


def _give(future: Future[Any], result: Any) -> None:
    with suppress(InvalidStateError):  # its caller was cancelled
        future.set_result(result)


def _fail(future: Future[Any], error: Exception) -> None:
    with suppress(InvalidStateError):
        future.set_exception(error)
