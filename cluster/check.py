"""Is this recipe runnable as written? All problems at once, before anything heavy is imported."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cluster.check_noise import noise_problems
from cluster.precision import settled
from cluster.registries import all_rewarders, problems_of, specs_of
from learners.advantages import ROUNDING, TEACHES_FLAT
from learners.losses import WITHOUT_RATIO
from learners.truncation import PENALTIES
from rewarders.bounds import total
from rewarders.endpoint import endpoint_problem
from rewarders.function import check_function
from rewarders.registry import REWARDERS
from swarm import config as recipes
from swarm.config import LearnersSection, RunConfig, Spec, nearest
from swarm.errors import ConfigError

NO_CORRECTION = Spec(name="none")


def check(recipe: Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Read a recipe, check every name, option and reference in it, and settle what it leaves to the machine.

    Raises ConfigError with all problems.
    """
    config = recipes.load(recipe, overrides)
    problems = [f"{recipe}: {problem}" for problem in problems_in(config, recipe, overrides)]
    if problems:
        raise ConfigError(problems)
    return settled(config)


def problems_in(config: RunConfig, recipe: Path, overrides: Sequence[str]) -> list[str]:
    """What a well-formed recipe, as changed by `overrides`, can still get wrong, one line each."""
    problems = [problem for key, spec, registry in specs_of(config) for problem in problems_of(key, spec, registry)]
    for key, spec in all_rewarders(config):
        path = spec.options.get("path")
        if spec.name == "function" and isinstance(path, str) and (problem := check_function(path)):
            problems.append(f"{key}.path = {path!r}: {problem}")
    problems += judge_problems(config)
    problems += rule_problems(config)
    problems += noise_problems(config, recipe, overrides)
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


def judge_problems(config: RunConfig) -> list[str]:
    """Judges that cannot be asked, and rewarders that ask one who is not there."""
    names = [judge.name for judge in config.rewarders.judges]
    problems = []
    for i, judge in enumerate(config.rewarders.judges):
        key = f"rewarders.judges.{i}"
        if judge.name in names[:i]:
            problems.append(f'{key}.name = "{judge.name}": there is another judge of that name')
        if judge.endpoint and (problem := endpoint_problem(judge.endpoint)):
            problems.append(f"{key}.endpoint = {problem}")
        if judge.key_env and not judge.endpoint:
            problems.append(f'{key}.key_env = "{judge.key_env}": without an endpoint there is nothing to send a key to')
    for key, spec in all_rewarders(config):
        asked = spec.options.get("judge")
        if isinstance(asked, str) and spec.name in REWARDERS and asked not in names:
            none = "; there is no [[rewarders.judges]]" if not names else nearest(asked, names)
            problems.append(f'{key}.judge = "{asked}": no such judge{none}')
    return problems


def rule_problems(config: RunConfig) -> list[str]:
    """Parts of an update rule that do nothing beside one another, or can only fail."""
    s, select = config.learners, config.actors.select.name
    loss, advantage, correction = s.loss.name, s.advantage.name, s.correction
    default = LearnersSection.model_fields["correction"].default
    low, high = total([(spec, spec.weight) for spec in config.rewarders.use])
    learned_from_flat = advantage in TEACHES_FLAT or loss in WITHOUT_RATIO or s.truncation.name in PENALTIES
    said = [
        (
            advantage == "pure" and not s.advantage.options.get("outcome", 0.0),
            (
                "learners.advantage = pure: no rewarder of this recipe judges steps, so nothing would be learned; "
                "give it an outcome above 0, or another advantage"
            ),
        ),
        (
            advantage == "bnpo" and (s.truncation.name in PENALTIES or low < 0.0 or high > 1.0 + ROUNDING),
            (
                f"learners.advantage = bnpo: needs rewards in [0, 1], but those of rewarders.use, weighted, are in "
                f"[{low:g}, {high:g}], learners.truncation = {s.truncation.name}; lower the weights, leave truth, "
                "lsc or a penalty out, or take another advantage"
            ),
        ),
        (
            loss in WITHOUT_RATIO and (advantage != "group_norm" or correction not in (default, NO_CORRECTION)),
            (
                f"learners.loss = {loss}: neither advantages nor the sampler enter it; leave out learners.advantage "
                "and learners.correction"
            ),
        ),
        (
            s.proximal == "behaviour" and correction not in (default, NO_CORRECTION),
            f'learners.correction = {correction.name}: with proximal = "behaviour" all weights are 1; leave one out',
        ),
        (
            s.kl_estimator != "k3" and not s.kl_coef,
            f"learners.kl_estimator = {s.kl_estimator}: there is no penalty; set learners.kl_coef above 0",
        ),
        (
            select == "curriculum" and len(config.actors.tasks) == 1,
            "actors.select = curriculum: there is one task source; give several, from easy to hard",
        ),
        (
            bool(config.actors.resample) and learned_from_flat,
            (
                f"actors.resample = {config.actors.resample:g}: groups with equal rewards would be set aside, but "
                f"learners.loss = {loss}, advantage = {advantage}, truncation = {s.truncation.name} learns from them"
            ),
        ),
    ]
    return [problem for holds, problem in said if holds]
