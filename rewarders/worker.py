"""The reward worker: every rewarder judges every group; their verdicts stand side by side and are never summed here."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from rewarders.alarm import Alarm, advice, is_for_another
from rewarders.backlog import Backlog, plane
from rewarders.channels import Channels
from rewarders.chat import ChatModel
from rewarders.nested import all_in, ask, processes
from rewarders.registry import build
from rewarders.sentinels import Probe, Watch
from rewarders.suites import ORDINARY
from rewarders.verdict_store import VerdictStore
from swarm.config import ChannelsSection, JudgeSection, Spec
from swarm.errors import RewarderError
from swarm.roles import Rewarder, Usage
from swarm.scores import rewards
from swarm.types import Group, Status, Verdict

Evidence = Mapping[str, Any]
"""Of one worker or several, as JSON: `channels` (`rewarders.channels`), and `watches` by rewarder
(`rewarders.sentinels`); of one worker also whether it has `heard` of others, and the tokens `spent` by judge."""

FAILURES = (Status.TIMEOUT, Status.ERROR)


class RewardWorker:
    """Scores groups with the rewarders of a recipe.

    `timeout_s` limits one rewarder on one group; rewarders with a process of their own apply it themselves, so that a
    starting child costs nobody a verdict. `timeout` and `error` verdicts are asked again `retries` times, with the
    whole group (a function may compare its rollouts) unless the rewarder's `keyed_by` is "rollout"; only the failed
    ones are replaced. `judges` are those that rewarders name; a `store` keeps the verdicts of rewarders that say with
    `keyed_by` what these depend on, also inside others. Both belong to the caller. With `sentinels` (a rate) rewarders
    that judge truth are watched, see `rewarders.sentinels`; `breaker` is the worst family's limit. With `channels`,
    verdicts are stamped with stratum and error rates, and the worker keeps what it learns of its rewarders. Each
    rewarder that asks a judge with one of these `sections` has a backlog before it, also inside others: what is
    displaced there is that part alone.
    """

    def __init__(
        self,
        use: Sequence[Spec],
        *,
        timeout_s: float,
        retries: int,
        judges: Mapping[str, ChatModel] | None = None,
        store: VerdictStore | None = None,
        sentinels: float = 0.0,
        breaker: float = 0.2,
        channels: ChannelsSection | None = None,
        sections: Sequence[JudgeSection] = (),
    ) -> None:
        self.channels = Channels(channels) if channels is not None else None
        self._rewarders: list[Rewarder] = build(use, timeout_s, judges)
        self._store = store
        self._counts: dict[str, Counter[str]] = {r.name: Counter() for r in self._rewarders}
        self._backlogs: list[Backlog] = []
        self._pave({section.name: section for section in sections})
        self._watches = [
            Watch(spec, rewarder, rate=sentinels, limit=breaker, channels=channels is not None)
            if sentinels and getattr(rewarder, "about_truth", True)
            else None
            for spec, rewarder in zip(use, self._rewarders, strict=True)
        ]
        self._alarms = {rewarder.name: Alarm() for rewarder in self._rewarders}
        self.has_heard = False
        """Whether it was told what was found before it, and by others."""
        self._probes: set[asyncio.Task[None]] = set()
        self._timeout_s = timeout_s
        self._retries = retries
        self._began = time.monotonic()
        self._began_cpu = time.process_time()
        self._busy_s = 0.0
        self._busy_since = 0.0
        self._open = 0

    async def score(self, group: Group) -> Group:
        """The group with one verdict per rewarder on each rollout, in the recipe's order.

        Raises RewarderError where fewer than two rollouts (one in a group of one) have a reward.
        """
        scored = await self.judge(group)
        self._check(scored)
        return scored

    async def judge(self, group: Group) -> Group:
        """As `score`, however few rollouts have a reward."""
        if self._open == 0:
            self._busy_since = time.monotonic()
        self._open += 1
        try:
            found = await asyncio.gather(*(self._watched(i, group) for i in range(len(self._rewarders))))
        finally:
            self._open -= 1
            if self._open == 0:
                self._busy_s += time.monotonic() - self._busy_since
        if group.ticket >= 0:
            self._heed([said for said, _ in found])
        judged = group.with_verdicts(list(zip(*(verdicts for _, verdicts in found), strict=True)))
        return self.channels.stamp(judged) if self.channels else judged

    @property
    def waiting(self) -> int:
        """Groups that wait for judges now."""
        return sum(backlog.waiting for backlog in self._backlogs)

    @property
    def longest_backlog(self) -> int:
        """Most groups that ever waited for one judge."""
        return max((backlog.largest for backlog in self._backlogs), default=0)

    def counts(self) -> Mapping[str, Mapping[str, int]]:
        """By rewarder and status, final verdicts only; `retried` counts verdicts that were asked again, `known` those
        that the store had."""
        return {name: dict(counter) for name, counter in self._counts.items()}

    def evidence(self) -> Evidence:
        """What this worker found of its rewarders' errors itself, since its place was first taken."""
        return {
            "heard": self.has_heard,
            "channels": self.channels.state() if self.channels else {},
            "watches": {name: watch.state() for name, watch in self._watched_by_name().items()},
        }

    def hear(self, others: Evidence, before: Evidence | None) -> None:
        """What all other workers found, pooled; and the evidence of the process in whose place this one is, if there
        was one: the first time that it hears, it goes on from there."""
        before = None if self.has_heard else before
        self.has_heard = True
        if self.channels:
            self.channels.hear(others["channels"])
            if before:
                self.channels.inherit(before["channels"])
        for name, watch in self._watched_by_name().items():
            if name in others["watches"]:
                watch.hear(others["watches"][name])
            if before and name in before["watches"]:
                watch.inherit(before["watches"][name])

    def notices(self) -> list[dict[str, Any]]:
        """What happened to the rewarders since the last call, as events; where something did to a watched one, with
        figures."""
        found = [notice for name, watch in self._watched_by_name().items() for notice in watch.notices(name)]
        return found + [notice for name, alarm in self._alarms.items() for notice in alarm.notices(name)]

    def usage(self) -> Usage:
        """Busy while any group is being scored. CPU is this process's since the worker was made, and its children's."""
        now = time.monotonic()
        busy = self._busy_s + (now - self._busy_since if self._open else 0.0)
        cpu = time.process_time() - self._began_cpu
        cpu += sum(child.cpu_s() for rewarder in self._rewarders for child in processes(rewarder))
        return Usage(busy_s=busy, idle_s=now - self._began - busy, cpu_s=cpu)

    def close(self) -> None:
        """Close all rewarders; no child process stays."""
        for probe in self._probes:
            probe.cancel()
        for backlog in self._backlogs:
            backlog.close()
        for rewarder in self._rewarders:
            rewarder.close()

    def _watched_by_name(self) -> dict[str, Watch]:
        return {r.name: w for r, w in zip(self._rewarders, self._watches, strict=True) if w}

    def _pave(self, sections: Mapping[str, JudgeSection]) -> None:
        """The ways to the rewarders: store innermost, then stand-in, then backlog."""
        for outer in self._rewarders:
            for each in all_in(outer):
                rewarder: Any = each
                if self._store is not None and hasattr(rewarder, "keyed_by"):
                    rewarder.way = partial(self._stored, self._store, rewarder, outer.name)
                section = sections.get(getattr(rewarder, "judge_name", ""))
                if section is not None:
                    way = getattr(rewarder, "way", rewarder.judge)
                    self._backlogs.append(plane(rewarder.name, way, section))
                    rewarder.way = self._backlogs[-1].judge

    def _heed(self, said: Sequence[Sequence[Verdict] | None]) -> None:
        """Count for the alarms what the rewarders said of a real group; None of one that was not asked. A rewarder that
        judges truth is needed where only others have values: one of format or length has them for every prompt."""
        truth = [getattr(rewarder, "about_truth", True) for rewarder in self._rewarders]
        for i, (rewarder, verdicts) in enumerate(zip(self._rewarders, said, strict=True)):
            others = [v for j, v in enumerate(said) if v is not None and j != i and (truth[j] or not truth[i])]
            if verdicts is not None and not is_for_another(verdicts, others):
                self._alarms[rewarder.name].saw(verdicts)

    async def _watched(self, which: int, group: Group) -> tuple[list[Verdict] | None, list[Verdict]]:
        """What the rewarder says of a real group, None where it was not asked, and the verdicts as they may leave; a
        probe that is due runs beside what comes next. Evaluations (tickets below 0) get what the rewarder says."""
        watch = self._watches[which]
        if watch is None or group.ticket < 0:
            plain = await self._ask(which, group)
            return plain, plain
        asked: list[Verdict] | None = None
        verdicts = watch.refusal(group)
        if verdicts is None:
            asked = await self._ask(which, group)
            verdicts = watch.settled(group, asked)
        if probe := watch.probe(group):
            task = asyncio.create_task(self._judge(which, watch, group, probe))
            self._probes.add(task)
            task.add_done_callback(self._probes.discard)
        return asked, verdicts

    async def _judge(self, which: int, watch: Watch, group: Group, probe: Probe | None) -> None:
        """A probe, and at once all that a suspicion asks for: while a key is paid it gets more frequent by the step."""
        while probe is not None:
            verdicts = await ask(self._rewarders[which], probe.group, self._timeout_s)
            watch.saw(probe, verdicts)
            if self.channels:  # attacks are not how the policy errs: rates come from ordinary answers alone
                truths = [item.right if item.family in ORDINARY else None for item in probe.items]
                self.channels.learn(probe.group, verdicts, truths)
            probe = watch.probe(group) if watch.suspects() else None

    async def _ask(self, which: int, group: Group) -> list[Verdict]:
        rewarder = self._rewarders[which]
        name, alone = rewarder.name, getattr(rewarder, "keyed_by", "") == "rollout"
        verdicts = await ask(rewarder, group, self._timeout_s)
        for _ in range(self._retries):
            again = [i for i, v in enumerate(verdicts) if v.status in FAILURES]
            if not again:
                break
            self._counts[name]["retried"] += len(again)
            rest = replace(group, rollouts=tuple(group.rollouts[i] for i in again)) if alone else group
            fresh = await ask(rewarder, rest, self._timeout_s)
            for place, i in enumerate(again):
                verdicts[i] = fresh[place if alone else i]
        self._counts[name].update(str(v.status) for v in verdicts)
        return verdicts

    async def _stored(self, store: VerdictStore, rewarder: Rewarder, label: str, group: Group) -> list[Verdict]:
        verdicts, num_known = await store.judge(rewarder, group)
        self._counts[label]["known"] += num_known
        return verdicts

    def _check(self, group: Group) -> None:
        verdicts = [r.verdicts for r in group.rollouts]
        found = rewards(verdicts, {rewarder.name: 1.0 for rewarder in self._rewarders})
        num_scored = sum(value is not None for value in found)
        if num_scored >= min(2, len(found)):
            return
        last = [v for each in verdicts for v in each if v.status is not Status.SCORED][-1]
        raise RewarderError(
            f"{num_scored} of {len(found)} rollouts of prompt {group.prompt.id} were scored; "
            f"rewarder {last.rewarder}: {last.status}: {last.cause}; {advice(last)}"
        )
