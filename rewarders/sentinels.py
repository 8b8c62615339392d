"""The watch of a reward worker: sentinels in the traffic, a breaker on the worst family, and the search for new keys.

    real group --> rewarder --> verdicts --> quarantined forms out --> learner        (breaker open: abstains, unasked)
        |  its shape                |  form, paid or not
        v                           v
      probe ----> rewarder ----> tallies by family --> breaker, quarantine            (no verdict of a probe leaves)

A probe is a group like the one that came by: its fields, its number of rollouts, token ids of its rollouts; the prompt
is an earlier one, and the texts are sentinels. A rewarder cannot tell it from a real one, unless it decodes token ids
itself. Beside the steady rate there are probes until every family was tried once, of families that the breaker
suspects, while it is half open, and, one right after another, to try the forms that `mining` suspects.

Reward workers share what they found (`state`, `pooled`, `hear`): a form that one put in quarantine no other pays. A
process that takes a worker's place goes on with its counts and its breaker, which is each worker's own (`inherit`).
What a miner has seen of forms that it did not try yet is not kept.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rewarders.breaker import Breaker, State
from rewarders.mining import MINED, Form, Miner, Quarantined, form_of
from rewarders.suites import ORDINARY, Sentinel, as_group, is_askable, sentinels, suites_for, tolerance_for, wording_for
from rewarders.tallies import ACCEPT, Tallies, as_figures
from rewarders.verdicts import for_all, unscored
from swarm.config import Spec
from swarm.roles import Rewarder
from swarm.types import Group, Prompt, Status, Verdict

TRIES, TRIES_A_GROUP = 20, 0.1
"""Probes that may try mined forms: at once, and after them for each real group. Each costs as much as a group."""
KEPT_PROMPTS = 64
"""Prompts that came by, kept for probes."""
REPORT_EVERY = 10
"""Probes between two reports of the figures."""


Known = Mapping[str, Any]
"""What was found of a rewarder, as JSON: `families` (`Tallies.plain`), the forms in `quarantine`; of a single worker
also its `breaker`."""


@dataclass(frozen=True, slots=True)
class Probe:
    """Sentinels, and the group that they are judged as."""

    items: tuple[Sentinel, ...]
    group: Group
    form: Form | None = None
    """The mined form that some of them try."""


class Watch:
    """Of one rewarder in one worker. `rate`: probes per real group; `limit`: false-accept rate that no family may
    surely exceed; `channels`: whether error rates are wanted, which come from ordinary wrong answers alone."""

    def __init__(
        self,
        spec: Spec,
        rewarder: Rewarder,
        *,
        rate: float,
        limit: float = 0.2,
        channels: bool = False,
        seed: int = 0,
    ) -> None:
        self.tallies = Tallies()
        """Of this worker's own probes."""
        self._heard = Tallies()
        self.breaker = Breaker(limit=limit)
        self._tolerance = tolerance_for(spec)
        self.events: list[dict[str, Any]] = []
        """What happened, in order: `event` is `breaker` or `quarantine`."""
        self._name, self._rate, self._channels = rewarder.name, rate, channels
        self._accept = float(getattr(rewarder, "accept", ACCEPT))
        self._suites, self._wording = suites_for(spec), wording_for(spec)
        self.miner = Miner(limit=limit, tolerance=self._tolerance, wording=self._wording)
        self._tries = float(TRIES)
        self._rng = random.Random(f"{rewarder.name}/{seed}")
        self._prompts: dict[str, Prompt] = {}
        self._tried: dict[str, int] = {}
        self._fresh = True
        self._under_way = False
        self._unreported = 0
        self._patterns: dict[str, dict[Form, str]] = {}
        self._variants: tuple[Form, list[Sentinel]] | None = None
        self._outcome = [0, 0]

    def refusal(self, group: Group) -> list[Verdict] | None:
        """The verdicts on a real group where the breaker keeps it from the rewarder."""
        self.breaker.passed()
        if self.breaker.state is State.CLOSED:
            return None
        cause = f"the breaker is {self.breaker.state}: {self.breaker.cause}"
        return for_all(group, unscored(self._name, Status.ABSTAINED, cause))

    def settled(self, group: Group, verdicts: Sequence[Verdict]) -> list[Verdict]:
        """The verdicts on a real group as they may leave; what was paid is remembered."""
        self._tries = min(self._tries + TRIES_A_GROUP, TRIES)
        texts = [rollout.text for rollout in group.rollouts]
        for text, verdict in zip(texts, verdicts, strict=True):
            if verdict.value is not None:
                self.miner.saw(group.prompt, text, verdict.value, self._accept)
        return self.miner.settled(group.prompt, texts, verdicts)

    def probe(self, group: Group) -> Probe | None:
        """A probe that is due now, in the shape of a real group. `saw` must follow before there is another."""
        self._keep(group.prompt)
        if self._under_way or not self._is_due():
            return None
        num = len(group.rollouts)
        form, items = self._mined(num)
        prompt = items[0].prompt if items else self._rng.choice(list(self._prompts.values()))
        items = [*items, *self._chosen(prompt, num - len(items))]
        if not items:
            return None
        while len(items) < num:  # few families: the same ones again, as policies repeat themselves too
            items.append(self._rng.choice(items))
        self._rng.shuffle(items)
        self._under_way = True
        return Probe(tuple(items), as_group(items, like=group), form)

    def suspects(self) -> bool:
        """Whether a mined form is being tried, or is to be tried next, and may be."""
        while self._tries >= 1 and self._variants is None and (form := self.miner.suspect()):
            variants = self.miner.variants(form, self._rng)
            self._variants = (form, variants) if variants else None
        return self._tries >= 1 and self._variants is not None

    def saw(self, probe: Probe, verdicts: Sequence[Verdict]) -> None:
        """What the rewarder says of a probe."""
        self._under_way = False
        self._unreported += 1
        texts = [item.text for item in probe.items]
        once: set[tuple[str, str]] = set()  # fillers repeat items: they are no further evidence
        settled = self.miner.settled(probe.group.prompt, texts, verdicts)
        for item, said, left in zip(probe.items, verdicts, settled, strict=True):
            if (item.family, item.text) not in once:
                # An opening is tried with endings of which some are in quarantine by now.
                self._saw(item, (said if item.family.startswith(MINED) else left).value)
            once.add((item.family, item.text))
        if probe.form is not None:
            accepted, num = self._outcome
            untried = len(self._variants[1]) if self._variants else 0
            if not untried or self.miner.spared(probe.form, accepted, num, untried):
                self._variants, self._outcome = None, [0, 0]
                self._tell_quarantine(self.miner.tried(probe.form, accepted, num))

    def notices(self, name: str) -> list[dict[str, Any]]:
        """Events since the last call, and every `REPORT_EVERY` probes, or with an event, the figures so far."""
        found = [event | {"rewarder": name} for event in self.events]
        self.events.clear()
        if found or self._unreported >= REPORT_EVERY:
            self._unreported = 0
            found.append({"event": "sentinels", "rewarder": name} | self.report())
        return found

    def state(self) -> Known:
        """What this worker found itself, and all forms in quarantine that it knows of."""
        return {
            "families": self.tallies.plain(),
            "quarantine": [asdict(found) for found in self.miner.quarantined.values()],
            "breaker": self.breaker.kept(),
        }

    def hear(self, known: Known) -> None:
        """What all others found, in the place of what was heard before: nothing is counted twice."""
        self._heard = Tallies.of(known["families"])
        self._take(known)

    def inherit(self, known: Known) -> None:
        """Go on from the `state` of the process that was here before."""
        self.tallies = Tallies.of(known["families"]).plus(self.tallies)
        self.breaker.go_on(known["breaker"])
        self._take(known)

    def _take(self, known: Known) -> None:
        for found in known["quarantine"]:
            self.miner.quarantine((found["template"], found["holds_answer"]), found["cause"], found["example"])

    def report(self) -> dict[str, Any]:
        """JSON-able: counts for channels, figures by family, the breaker and what is in quarantine; of all workers as
        far as heard, the breaker excepted."""
        breaker, tallies = self.breaker, self.tallies.plus(self._heard)
        return {
            "channels": tallies.channels(),
            "families": [as_figures(name, tally) for name, tally in tallies.families().items()],
            "breaker": {"state": str(breaker.state), "opened": breaker.opened, "cause": breaker.cause},
            "quarantine": [asdict(found) for found in self.miner.quarantined.values()],
        }

    def _is_due(self) -> bool:
        if not self._prompts or self.breaker.state is State.OPEN:
            return False
        busy = self.suspects() or self._fresh or self.breaker.suspects()
        return bool(busy) or self._rng.random() < self._rate

    def _keep(self, prompt: Prompt) -> None:
        if is_askable(prompt):
            self._prompts[prompt.id] = prompt
            if len(self._prompts) > KEPT_PROMPTS:
                self._prompts.pop(next(iter(self._prompts)))

    def _mined(self, num: int) -> tuple[Form | None, list[Sentinel]]:
        """Variants of a suspected form, of one prompt."""
        if not self.suspects() or self._variants is None:
            return None, []
        self._tries -= 1
        form, waiting = self._variants
        now = [item for item in waiting if item.prompt.id == waiting[0].prompt.id][:num]
        for item in now:
            waiting.remove(item)
        return form, now

    def _chosen(self, prompt: Prompt, num: int) -> list[Sentinel]:
        """Suspects first, then the families tried least; a quarter of them right, and for channels a quarter ordinary
        and wrong, which else would be one in ten."""
        others = [other for other in self._prompts.values() if other.id != prompt.id]
        found = sentinels(prompt, others, self._suites, self._wording, self._rng, self._tolerance)
        self._rng.shuffle(found)
        suspects = set(self.breaker.suspects())
        found.sort(key=lambda item: (item.family not in suspects, self._tried.get(item.family, 0)))
        right = [item for item in found if item.right][: max(1, num // 4)]
        wrong = [item for item in found if not item.right]
        if self._channels:
            ordinary = [item for item in wrong if item.family in ORDINARY][: max(1, num // 4)]
            wrong = [*ordinary, *(item for item in wrong if item not in ordinary)]
        chosen = [*right, *wrong][:num] if num > 1 else found[:num]
        for item in chosen:
            self._tried[item.family] = self._tried.get(item.family, 0) + 1
        self._fresh = bool(found) and any(item.family not in self._tried for item in found)
        return chosen

    def _saw(self, item: Sentinel, value: float | None) -> None:
        self.tallies.add(item, value, self._accept)
        if item.right or value is None:
            return
        accepted = value > self._accept
        if item.family.startswith(MINED):
            self._outcome[0] += accepted
            self._outcome[1] += 1
            return
        if accepted and item.pattern:
            self._patterns.setdefault(item.family, {})[form_of(item.text, item.prompt)] = item.text
        was = self.breaker.state
        if self.breaker.saw(item.family, accepted):
            self.events.append({"event": "breaker", "cause": self.breaker.cause})
        elif was is State.HALF_OPEN and self.breaker.state is State.CLOSED:
            self.events.append({"event": "breaker_closed"})
        if item.family in self.breaker.bad:
            for form, text in self._patterns.pop(item.family, {}).items():
                self._tell_quarantine(self.miner.quarantine(form, self.breaker.cause, text))

    def _tell_quarantine(self, found: Quarantined | None) -> None:
        if found:
            self.events.append({"event": "quarantine"} | asdict(found))


def pooled(states: Sequence[Mapping[str, Known]]) -> dict[str, Known]:
    """By rewarder, what several workers found: sums of counts, and every form in quarantine once."""
    total: dict[str, Known] = {}
    for name, known in (pair for state in states for pair in state.items()):
        before = total.get(name, {"families": {}, "quarantine": []})
        forms = {(q["template"], q["holds_answer"]): q for part in (before, known) for q in part["quarantine"]}
        tallies = Tallies.of(before["families"]).plus(Tallies.of(known["families"]))
        total[name] = {"families": tallies.plain(), "quarantine": list(forms.values())}
    return total
