"""Placement on Ray: a process per worker, groups moved by reference, and replacement of what dies.

    driver (loop) --prompt--> ActorWorker --record batch--> object store --> RewarderWorker --> ... --> LearnerWorker

The driver holds references and facts; it never copies tokens. A worker that dies is noticed by the call that fails:
the call becomes a StageFailure (the loop asks again), a new process is started, and it serves only when it holds the
newest weights. The learner and its ranks are `cluster.ray_learner`'s.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayActorError, RayError

from cluster import environment
from cluster.evidence import Evidence
from cluster.ray_calls import BOOT_TRIES, CLOSE_S, Notice, brief, host_of, own
from cluster.ray_judge import RayJudges
from cluster.ray_learner import RankActor, RayLearner
from cluster.ray_transport import Transport
from cluster.workers import ActorWorker, RewarderWorker, parcel
from swarm import schema
from swarm.config import RunConfig
from swarm.errors import ActorError, RewarderError, StageFailure, StarvedError, SwarmError
from swarm.roles import Saved, SyncReport, Usage
from swarm.types import Group, Handle, Prompt, StepReport, Weights


@dataclass(slots=True)
class Seat:
    """One worker's place: the process that holds it now, and what is running there."""

    name: str
    make: Callable[[], Any]
    """Starts a new process and returns its Ray handle."""
    process: Any = None
    pid: int = 0
    host: str = ""
    """Ray's id of the host that the process is on."""
    running: int = 0
    replacing: asyncio.Task[None] | None = None


class RayCrew:
    """`swarm.roles.Crew` over Ray actors. Make it with `start`."""

    def __init__(
        self,
        config: RunConfig,
        model: str,
        judge_models: Mapping[str, Path],
        weights: Mapping[str, float],
        notice: Notice,
    ) -> None:
        self._config, self._model, self._weights, self._notice = config, model, weights, notice
        self._lineage = 0
        self._newest: Weights | None = None
        self._transport = Transport(notice)
        self._evidence = Evidence()
        self._routable = asyncio.Condition()
        self._fatal: SwarmError | None = None
        a, r, s = config.actors, config.rewarders, config.learners
        self.judges = RayJudges(config, judge_models, notice)
        self.actors = [Seat(f"actor-{i}", self._maker(ActorWorker, a.threads, a.gpus)) for i in range(a.num)]
        self.rewarders = [Seat(f"rewarder-{i}", self._maker(RewarderWorker, 1, 0)) for i in range(r.num)]
        self.learner = RayLearner(self._maker(RankActor, s.threads, s.gpus), s.ranks, notice)

    @classmethod
    async def start(
        cls,
        config: RunConfig,
        model: str,
        judge_models: Mapping[str, Path],
        weights: Mapping[str, float],
        notice: Notice,
        with_learner: bool = True,
    ) -> RayCrew:
        """Start every process at once and wait until all are ready. `judge_models` are the folders of the judges that
        this node serves."""
        crew = cls(config, model, judge_models, weights, notice)
        seats = [*crew.actors, *crew.rewarders]
        for seat in seats:
            seat.process = seat.make()
        if with_learner:
            crew.learner.start()
        try:
            learner = [crew.learner.ready()] if with_learner else []
            await asyncio.gather(*(crew._await_ready(seat) for seat in seats), crew.judges.ready(), *learner)
        except BaseException:
            await crew.close()
            raise
        return crew

    async def generate(self, prompt: Prompt, ticket: int, attempt: int, greedy: bool = False, num: int = 0) -> Handle:
        seat = await self._pick(self.actors)
        return await self._work(seat, ActorError, "generate", prompt, ticket, attempt, greedy, num)

    async def score(self, handle: Handle) -> Handle:
        seat = await self._pick(self.rewarders)
        return await self._work(seat, RewarderError, "score", handle.ref, handle.facts)

    async def step(self, step: int, batch: Sequence[Handle], record: Path | None) -> StepReport:
        return (await self.learner.call("step", step, record, *[handle.ref for handle in batch]))[0]

    async def publish(self) -> Weights:
        return (await self.learner.call("publish"))[0]

    async def sync(self, weights: Weights) -> list[SyncReport]:
        self._newest = weights
        reports = await asyncio.gather(*(self._load(seat) for seat in self.actors if seat.replacing is None))
        for seat in self.actors:
            if seat.replacing is not None:
                await seat.replacing  # it loads the newest before it serves
        if self._fatal:
            raise self._fatal
        await self._exchange()
        return [report for report in reports if report is not None]

    async def _exchange(self) -> None:
        """Let each reward worker know what all found. A dead one is found by the next call of work."""
        r = self._config.rewarders
        if r.channels is None and not r.sentinels and not any(judge.budget_tokens for judge in r.judges):
            return

        async def see(seat: Seat) -> None:
            with suppress(RayError):
                self._evidence.saw(seat.name, await seat.process.evidence.remote())

        async def tell(seat: Seat) -> None:
            with suppress(RayError):
                await self._tell(seat)

        seats = [seat for seat in self.rewarders if seat.process is not None and seat.replacing is None]
        await asyncio.gather(*map(see, seats))
        await asyncio.gather(*map(tell, seats))

    async def _tell(self, seat: Seat) -> None:
        await own(seat.process.hear.remote(self._evidence.others(seat.name), self._evidence.before(seat.name)))

    async def save(self, folder: Path) -> Saved:
        await self._exchange()
        self._evidence.save(folder)
        taken: list[Saved] = await self.learner.call("save", folder)
        return Saved(max(t.capture_s for t in taken), sum(t.bytes for t in taken))

    async def saved(self) -> None:
        await self.learner.saved()

    async def restore(self, folder: Path | None, lineage: int) -> None:
        self._lineage = lineage
        if folder is not None:
            self._evidence.recall(folder)
        await self.learner.call("restore", folder, lineage)

    async def fetch(self, handle: Handle) -> Group:
        return schema.from_batch(await handle.ref)

    async def adopt(self, group: Group) -> Handle:
        batch, facts = parcel(group, self._weights)
        return Handle(ray.put(batch), facts)

    async def usage(self) -> Mapping[str, Usage]:
        found = dict(await self.learner.usage())
        for seat in [*self.actors, *self.rewarders]:
            if seat.process is not None and seat.replacing is None:
                try:
                    found[seat.name] = await seat.process.usage.remote()
                except RayError:
                    continue  # dead or dying: the next call of work will find out and replace it
        return found

    async def close(self) -> None:
        await self.learner.close()
        for seat in [*self.actors, *self.rewarders]:
            if seat.replacing is not None:
                seat.replacing.cancel()
            if seat.process is None:
                continue
            with suppress(RayError, SwarmError, TimeoutError):  # it is about to be killed
                await asyncio.wait_for(own(seat.process.close.remote()), CLOSE_S)
            ray.kill(seat.process)
        await self.judges.close()
        await self._transport.close()

    # -- processes ----------------------------------------------------------------------------------------------------

    def _maker(self, kind: type, threads: int, gpus: float) -> Callable[..., Any]:
        options: dict[str, Any] = {
            "num_cpus": threads,
            "num_gpus": gpus,
            "runtime_env": {"env_vars": environment.of_worker(threads, gpus)},
        }
        remote = ray.remote(**options, max_concurrency=1000)(kind)

        def make(rank: int = 0) -> Any:
            if kind is ActorWorker:
                return remote.remote(self._config, self._model, self._lineage)
            if kind is RewarderWorker:
                return remote.remote(self._config, self.judges.chats)
            return remote.remote(self._config, self._model, rank)

        return make

    async def _await_ready(self, seat: Seat) -> None:
        seat.pid = await own(seat.process.ready.remote())
        seat.host = await own(seat.process.__ray_call__.remote(host_of))
        self._notice("ready", worker=seat.name, pid=seat.pid)

    async def _replace(self, seat: Seat, cause: str) -> None:
        """Start processes until one is ready and holds the newest weights, or knows what its predecessor knew."""
        self._notice("died", worker=seat.name, pid=seat.pid, cause=cause)
        for _ in range(BOOT_TRIES):
            try:
                ray.kill(seat.process)
                seat.process = seat.make()
                await self._await_ready(seat)
                if seat in self.rewarders:
                    await self._tell(seat)
                elif self._newest is not None:
                    await self._send(seat, self._newest)
                break
            except (RayError, SwarmError) as error:
                cause = str(error)
                self._notice("boot_failed", worker=seat.name, cause=cause)
        else:
            self._fatal = StarvedError(f"{seat.name} did not start {BOOT_TRIES} times in a row; the last time: {cause}")
        async with self._routable:
            seat.replacing = None
            seat.running = 0
            self._routable.notify_all()

    def _bury(self, seat: Seat, process: Any, cause: str) -> None:
        """Replace a seat's process, once, however many calls noticed its death."""
        if seat.process is process and seat.replacing is None:
            seat.replacing = asyncio.create_task(self._replace(seat, cause))

    async def _pick(self, seats: Sequence[Seat]) -> Seat:
        """The least busy worker that serves; waits while all are being replaced."""
        async with self._routable:
            await self._routable.wait_for(lambda: self._fatal or any(s.replacing is None for s in seats))
            if self._fatal:
                raise self._fatal
            return min((s for s in seats if s.replacing is None), key=lambda s: s.running)

    async def _work(self, seat: Seat, failure: type[StageFailure], method: str, *args: Any) -> Handle:
        """Call a worker; its record batch stays where it is made, its facts come here."""
        process = seat.process
        seat.running += 1
        try:
            ref, facts = getattr(process, method).options(num_returns=2).remote(*args)
            return Handle(ref, await own(facts))
        except RayActorError as error:
            self._bury(seat, process, brief(error))
            raise failure(f"{seat.name} died") from None
        finally:
            if seat.process is process:
                seat.running -= 1

    # -- weights ------------------------------------------------------------------------------------------------------

    async def _load(self, seat: Seat) -> SyncReport | None:
        """Bring one actor to the newest weights; one that cannot take them is replaced by a process that can."""
        assert self._newest is not None
        process = seat.process
        try:
            return await self._send(seat, self._newest)
        except (RayActorError, StageFailure) as error:
            self._bury(seat, process, f"could not load weights of step {self._newest.version.step}: {brief(error)}")
            return None

    async def _send(self, seat: Seat, weights: Weights) -> SyncReport:
        """Beside the learner the actor maps the published file; elsewhere the copy that is brought to its host."""
        process = seat.process
        path = await self._transport.bring(weights, self.learner.host, seat.host)
        return await own(process.load.remote(replace(weights, path=path)))
