"""The reward worker: every rewarder judges every group; their verdicts stand side by side and are never summed here."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

from rewarders.channels import Channels
from rewarders.registry import build
from rewarders.verdicts import for_all, unscored
from swarm.config import ChannelsSection, Spec
from swarm.errors import RewarderError
from swarm.roles import Rewarder, Usage
from swarm.scores import rewards
from swarm.types import Group, Status, Verdict

FAILURES = (Status.TIMEOUT, Status.ERROR)
ADVICE = {
    Status.ABSTAINED: "give its prompts what it needs, or leave it out for this task source",
    Status.TIMEOUT: "raise rewarders.timeout_s, or make it faster",
    Status.ERROR: "the cause says what to mend",
}


class RewardWorker:
    """Scores groups with the rewarders of a recipe.

    `timeout_s` limits one rewarder on one group; rewarders with a process of their own apply it themselves, so that a
    starting child costs nobody a verdict. `timeout` and `error` verdicts are asked again `retries` times, with the
    whole group (a function may compare its rollouts); only the failed ones are replaced. With `channels`, verdicts are
    stamped with stratum and error rates, and the worker keeps what it learns of its rewarders.
    """

    def __init__(
        self, use: Sequence[Spec], *, timeout_s: float, retries: int, channels: ChannelsSection | None = None
    ) -> None:
        self.channels = Channels(channels) if channels is not None else None
        self._rewarders: list[Rewarder] = build(use, timeout_s)
        self._own_limit = [_limits_itself(rewarder) for rewarder in self._rewarders]
        self._timeout_s = timeout_s
        self._retries = retries
        self._counts: dict[str, Counter[str]] = {r.name: Counter() for r in self._rewarders}
        self._began = time.monotonic()
        self._began_cpu = time.process_time()
        self._busy_s = 0.0
        self._busy_since = 0.0
        self._open = 0

    async def score(self, group: Group) -> Group:
        """The group with one verdict per rewarder on each rollout, in the recipe's order.

        Raises RewarderError where fewer than two rollouts (one in a group of one) have a reward.
        """
        if self._open == 0:
            self._busy_since = time.monotonic()
        self._open += 1
        try:
            columns = await asyncio.gather(*(self._ask(i, group) for i in range(len(self._rewarders))))
        finally:
            self._open -= 1
            if self._open == 0:
                self._busy_s += time.monotonic() - self._busy_since
        scored = group.with_verdicts(list(zip(*columns, strict=True)))
        if self.channels is not None:
            scored = self.channels.stamp(scored)
        self._check(scored)
        return scored

    def counts(self) -> Mapping[str, Mapping[str, int]]:
        """By rewarder and status, final verdicts only; `retried` counts verdicts that were asked again."""
        return {name: dict(counter) for name, counter in self._counts.items()}

    def usage(self) -> Usage:
        """Busy while any group is being scored. CPU is this process's since the worker was made, and its children's."""
        now = time.monotonic()
        busy = self._busy_s + (now - self._busy_since if self._open else 0.0)
        cpu = time.process_time() - self._began_cpu
        cpu += sum(r.child.cpu_s() for r in self._rewarders if hasattr(r, "child"))
        return Usage(busy_s=busy, idle_s=now - self._began - busy, cpu_s=cpu)

    def close(self) -> None:
        """Close all rewarders; no child process stays."""
        for rewarder in self._rewarders:
            rewarder.close()

    async def _ask(self, which: int, group: Group) -> list[Verdict]:
        name = self._rewarders[which].name
        verdicts = await self._ask_once(which, group)
        for _ in range(self._retries):
            again = [i for i, v in enumerate(verdicts) if v.status in FAILURES]
            if not again:
                break
            self._counts[name]["retried"] += len(again)
            fresh = await self._ask_once(which, group)
            for i in again:
                verdicts[i] = fresh[i]
        self._counts[name].update(str(v.status) for v in verdicts)
        return verdicts

    async def _ask_once(self, which: int, group: Group) -> list[Verdict]:
        """As many verdicts as rollouts, whatever the rewarder does."""
        rewarder = self._rewarders[which]
        limit = None if self._own_limit[which] else self._timeout_s
        try:
            async with asyncio.timeout(limit) as clock:
                verdicts = list(await rewarder.judge(group))
            verdicts = [replace(verdict, rewarder=rewarder.name) for verdict in verdicts]
        except TimeoutError as error:
            cause = f"no answer within {limit} s" if clock.expired() else f"TimeoutError: {error}"
            return for_all(group, unscored(rewarder.name, Status.TIMEOUT, cause))
        except Exception as error:  # noqa: BLE001 - a rewarder's failure is a verdict
            return for_all(group, unscored(rewarder.name, Status.ERROR, f"{type(error).__name__}: {error}"))
        if len(verdicts) == len(group.rollouts):
            return verdicts
        cause = f"answered {len(verdicts)} verdicts for {len(group.rollouts)} rollouts"
        return for_all(group, unscored(rewarder.name, Status.ERROR, cause))

    def _check(self, group: Group) -> None:
        verdicts = [r.verdicts for r in group.rollouts]
        found = rewards(verdicts, {rewarder.name: 1.0 for rewarder in self._rewarders})
        num_scored = sum(value is not None for value in found)
        if num_scored >= min(2, len(found)):
            return
        last = [v for each in verdicts for v in each if v.status is not Status.SCORED][-1]
        raise RewarderError(
            f"{num_scored} of {len(found)} rollouts of prompt {group.prompt.id} were scored; "
            f"rewarder {last.rewarder}: {last.status}: {last.cause}; {ADVICE[last.status]}"
        )


def _limits_itself(rewarder: Rewarder) -> bool:
    return "timeout_s" in inspect.signature(type(rewarder)).parameters
