"""The composition root: a checked recipe becomes live parts. The only place that knows which class is behind a name."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path

from actors.selection import SELECTIONS
from actors.tasks import TaskStream
from cluster.models import resolve
from cluster.workers import reward_weights
from swarm.config import RunConfig
from swarm.errors import ConfigError
from swarm.journal import Journal
from swarm.ledger import Ledger
from swarm.loop import Node
from swarm.pool import Pool, capacity, window
from swarm.resampling import Resampling
from swarm.roles import Crew, PromptStream

Notice = Callable[..., None]


def make_stream(config: RunConfig) -> PromptStream:
    """The recipe's prompts. Raises ConfigError for data or a selection that cannot be used."""
    a = config.actors
    return SELECTIONS[a.select.name](
        TaskStream(a.tasks, seed=config.seed, system=a.system),
        seed=config.seed,
        groups_per_step=config.learners.groups_per_step,
        group_size=a.group_size,
        **a.select.options,
    )


@asynccontextmanager
async def crew_for(config: RunConfig, model: Path, notice: Notice, with_learner: bool = True) -> AsyncIterator[Crew]:
    """All workers of a recipe, started; closed and gone when the block ends, however it ends.

    `notice(kind, **facts)` is told of what happens to them, as `Journal.event` is.
    """
    weights = reward_weights(config)

    def say(text: str) -> None:
        notice("phase", text=text)

    with ExitStack() as stack:
        if config.cluster.placement == "ray":
            from cluster.ray_node import ray_running

            judge_models = {j.name: resolve(j.model, say) for j in config.rewarders.served}
            notice("phase", text="starting Ray")
            stack.enter_context(ray_running(config))
            from cluster.ray_crew import RayCrew  # imports Ray, which has to be set up before

            notice("phase", text="starting actors, reward workers and the learner")
            crew: Crew = await RayCrew.start(config, str(model), judge_models, weights, notice, with_learner)
        else:
            from cluster.inline import InlineCrew
            from cluster.served_judge import served_here
            from cluster.workers import ActorWorker, LearnerWorker, RewarderWorker

            served = stack.enter_context(served_here(config, say))
            crew = InlineCrew(
                [ActorWorker(config, str(model), 0) for _ in range(config.actors.num)],
                [RewarderWorker(config, served) for _ in range(config.rewarders.num)],
                LearnerWorker(config, str(model)) if with_learner else None,
                weights,
            )
        try:
            yield crew
        finally:
            await crew.close()


def make_node(config: RunConfig, crew: Crew, journal: Journal, ledger: Ledger, stream: PromptStream) -> Node:
    """The loop's parts, at the beginning of a run."""
    s = config.learners
    live = stream.held_out(config.eval.live_questions) if config.eval.live_questions else []
    if not live and config.eval.live_questions:
        raise ConfigError("actors.tasks: there is no held-out question; give a larger data set or family")
    pool = Pool(capacity(s.max_lag, s.groups_per_step), window(s.max_lag, s.groups_per_step))
    return Node(
        crew=crew,
        pool=pool,
        ledger=ledger,
        stream=stream,
        journal=journal,
        steps=s.steps,
        groups_per_step=s.groups_per_step,
        checkpoint_every=s.checkpoint_every,
        keep_checkpoints=s.keep_checkpoints,
        give_up_after=config.cluster.give_up_after,
        live_prompts=live,
        live_every=config.eval.every,
        live_samples=config.eval.live_samples,
        resampling=Resampling(pool, config.actors.resample, ordered=s.max_lag == 0),
    )
