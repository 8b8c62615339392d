"""Is this recipe runnable as written? All problems at once, before anything heavy is imported."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cluster.precision import settled
from cluster.registries import problems_of, specs_of
from rewarders.function import check_function
from swarm import config as recipes
from swarm.config import RunConfig
from swarm.errors import ConfigError


def check(recipe: Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Read a recipe, check every name, option and reference in it, and settle what it leaves to the machine.

    Raises ConfigError with all problems.
    """
    config = recipes.load(recipe, overrides)
    problems = [f"{recipe}: {problem}" for problem in problems_in(config)]
    if problems:
        raise ConfigError(problems)
    return settled(config)


def problems_in(config: RunConfig) -> list[str]:
    """What a well-formed recipe can still get wrong, one line each."""
    problems = [problem for key, spec, registry in specs_of(config) for problem in problems_of(key, spec, registry)]
    for i, spec in enumerate(config.rewarders.use):
        path = spec.options.get("path")
        if spec.name == "function" and isinstance(path, str) and (problem := check_function(path)):
            problems.append(f"rewarders.use.{i}.path = {path!r}: {problem}")
    learners = config.learners
    if learners.updates_per_step > learners.groups_per_step:
        problems.append(
            f"learners.updates_per_step = {learners.updates_per_step}: a batch has only "
            f"{learners.groups_per_step} groups to split (learners.groups_per_step)"
        )
    if learners.ranks > 1 and config.cluster.placement == "inline":
        problems.append(
            f'learners.ranks = {learners.ranks}: ranks are processes, and placement = "inline" has one; '
            'set cluster.placement to "ray", or learners.ranks to 1'
        )
    if learners.offload and not learners.zero_stage:
        problems.append("learners.offload = true: ZeRO does it; set learners.zero_stage to 1, 2 or 3")
    if config.cluster.placement == "inline" and config.cluster.address:
        problems.append(f'cluster.address = "{config.cluster.address}": only placement = "ray" has a cluster')
    return problems
