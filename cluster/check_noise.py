"""What a recipe can get wrong about its rewarders' errors: corrections that do nothing, and channels of nobody."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from learners.advantages import CENTRES, NOT_LINEAR, RESCALED, Z_SCORED
from learners.losses import WITHOUT_RATIO
from learners.noise import NEEDS_NO_BASELINE
from learners.truncation import PENALTIES
from rewarders.channels import APPEAL, Channels
from swarm.config import RunConfig, nearest
from swarm.scores import labels


def noise_problems(config: RunConfig, recipe: Path, overrides: Sequence[str]) -> list[str]:
    """Problems of `learners.noise` and `rewarders.channels`, one line each; the recipe, as changed by `overrides`, is
    for the command that mends them."""
    return _corrections(config) + _channels(config, recipe, overrides)


def certify_command(recipe: Path, overrides: Sequence[str], out: str = "", rates: str = "") -> str:
    """What makes the certificate of a recipe, in `out` if that is said; or the one that `rewarders.channels` takes its
    `rates` from. The recipe's other checks must not ask for that one while it is made."""
    settings = [*overrides, 'rewarders.channels.certificate=""'] if rates else overrides
    options = [part for setting in settings for part in ("--set", setting)]
    return shlex.join(["swarm", "certify", str(recipe), *options, *(["--out", rates or out] if rates or out else [])])


def _corrections(config: RunConfig) -> list[str]:
    s = config.learners
    noise, advantage, problems = s.noise.name, s.advantage.name, []
    if s.on_failure == "ipw" and s.loss.name in WITHOUT_RATIO:
        problems.append(
            f"learners.on_failure = ipw: weighs advantages, which do not enter learners.loss = {s.loss.name}"
        )
    if noise == "none":
        return problems
    at = f"learners.noise = {noise}: "
    if config.rewarders.channels is None:
        problems.append(
            f"{at}no verdict would carry error rates; add a table [rewarders.channels] with rates, a certificate, "
            "gold, or a cascade with appeals"
        )
    if s.loss.name in WITHOUT_RATIO:
        problems.append(f"{at}learners.loss = {s.loss.name} reads rewards as given, not advantages; use another loss")
    elif advantage in Z_SCORED:
        problems.append(
            f"{at}learners.advantage = {advantage} divides by each group's own deviation. The correction is affine in "
            "the verdict, so that takes it off again exactly where a group shares one pair of rates, also where pairs "
            "differ between groups; use leave_one_out, mean_only, running_std or batch_std"
        )
    elif advantage in NOT_LINEAR:
        problems.append(
            f"{at}learners.advantage = {advantage} is not linear in the reward (it clips, or needs [0, 1]), and "
            "corrected verdicts are right on average only; use leave_one_out, mean_only or running_std"
        )
    elif advantage in RESCALED and _one_pair(config):
        problems.append(
            f"{at}learners.advantage = {advantage} divides by the deviation of the rewards, and one rewarder without "
            "strata has one pair of rates, which changes rewards and deviation by the same factor; use leave_one_out, "
            "or name what its errors depend on in rewarders.channels.stratify"
        )
    elif noise in NEEDS_NO_BASELINE and advantage in CENTRES:
        problems.append(
            f"{at}learners.advantage = {advantage} takes off the group's mean, and with it 1 - p1: what is left is the "
            "reward as given, or backward; use no_baseline, or noise = backward"
        )
    return problems


def _one_pair(config: RunConfig) -> bool:
    """Whether all verdicts of a time share one pair of rates, and nothing else enters the reward."""
    section = config.rewarders.channels
    alone = len(config.rewarders.use) == 1 and config.learners.truncation.name not in PENALTIES
    return section is not None and alone and not section.stratify


def _channels(config: RunConfig, recipe: Path, overrides: Sequence[str]) -> list[str]:
    section = config.rewarders.channels
    if section is None:
        return []
    known = labels([spec.name for spec in config.rewarders.use])
    named = {f"rates.{i}.rewarder": given.rewarder for i, given in enumerate(section.rates)}
    named |= {"gold": section.gold} if section.gold else {}
    problems = [
        f'rewarders.channels.{key} = "{name}": no such rewarder in rewarders.use{nearest(name, known)}'
        for key, name in named.items()
        if name.removesuffix(f"/{APPEAL}") not in known
    ]
    make = certify_command(recipe, overrides, rates=section.certificate)
    try:
        about = Channels(section).about
    except ValueError as error:
        return [*problems, f"rewarders.channels: {error}; make one with `{make}`"]
    if section.certificate and not about & set(known):
        problems.append(
            f'rewarders.channels.certificate = "{section.certificate}": counts errors of '
            f"{', '.join(sorted(about)) or 'nobody'}, of no rewarder of this recipe ({', '.join(known)}); make one of "
            f"them with `{make}`"
        )
    return problems
