"""Channels: how often each rewarder errs on each kind of question and answer, and what verdicts are stamped with.

    gold, sentinels, appeals -> Evidence (decayed sums) --+
    rates by hand, certificate -> Evidence ---------------+-> Channel (two Beta posteriors) -> Rates on each verdict

A reward worker stamps what it knew when it judged; then it learns from the group. So a learner's correction is a
function of the recorded batch alone (`learners.noise`).

Names that a cascade (a rule, and a judge that is shown a share of the rule's negatives) leaves in `Verdict.parts`:

    rule             the rule's value
    appeal           the judge's answer, where this rollout was shown to it and it answered
    appeal_prob      the probability, above 0, with which a rollout that the rule rejects is shown; in every verdict
    appeal_decides   1 where the verdict's value is the judge's answer wherever there is one, else 0 or absent

The evidence about a cascade is about its rule; where the appeal decides, rates are converted to those of its value. The
judge's own errors are the channel `LABEL/appeal`; where that is not known it counts as never wrong.

Values in [0, 1] count as their share: rates are then E[value | wrong] and E[1 - value | right], which is what an affine
correction needs of soft values too. Values outside are no evidence.
"""

from __future__ import annotations

import json
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

from scipy.special import betaincinv

from rewarders.certificate import digest_of
from swarm.config import ChannelsSection
from swarm.scores import CORRECT
from swarm.types import Group, Rates, Rollout, Verdict

RULE, APPEAL, APPEAL_PROB, APPEAL_DECIDES = "rule", "appeal", "appeal_prob", "appeal_decides"
"""Keys of `Verdict.parts`, see above."""

FORGOTTEN = 1e-9
"""Appeals of which no more than this has not faded are none: their squares would be 0 before they are."""

State = dict[str, dict[str, dict[str, float]]]
"""Evidence by rewarder and stratum, as JSON."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """Sums, which add up over workers and fade as a whole."""

    wrong: float = 0.0
    """Answers known to be wrong."""
    accepted_wrong: float = 0.0
    right: float = 0.0
    rejected_right: float = 0.0
    positives: float = 0.0
    """Verdicts of a rule that is appealed from: accepted,"""
    negatives: float = 0.0
    """and rejected."""
    appealed: float = 0.0
    """Sum of 1 / q over rejected ones that the judge answered on: Horvitz-Thompson's estimate of `negatives`."""
    appealed_squares: float = 0.0
    """Sum of 1 / q^2, for the effective number."""
    overturned: float = 0.0
    """Sum of answer / q."""

    def __add__(self, other: Evidence) -> Evidence:
        return Evidence(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))

    def faded(self, factor: float) -> Evidence:
        """All sums times a factor."""
        return Evidence(*(factor * getattr(self, f.name) for f in fields(self)))


@dataclass(frozen=True, slots=True)
class Beta:
    """The posterior of a rate, with Jeffreys' prior: (0.5, 0.5) is no evidence."""

    a: float
    b: float

    @property
    def mean(self) -> float:
        return self.a / (self.a + self.b)

    @property
    def variance(self) -> float:
        return self.mean * (1.0 - self.mean) / (self.a + self.b + 1.0)

    @property
    def observations(self) -> float:
        """How many it is as sure as, the prior left out."""
        return self.a + self.b - 1.0

    @property
    def errors(self) -> float:
        """Of so many observations."""
        return self.a - 0.5

    @classmethod
    def of(cls, errors: float, observations: float) -> Beta:
        return cls(0.5 + errors, 0.5 + observations - errors)

    def quantile(self, p: float) -> float:
        return float(betaincinv(self.a, self.b, p))

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """Equal-tailed."""
        return self.quantile((1.0 - level) / 2.0), self.quantile((1.0 + level) / 2.0)


@dataclass(frozen=True, slots=True)
class Channel:
    """The noise of one rewarder in one stratum."""

    false_accept: Beta
    false_reject: Beta

    @property
    def rates(self) -> Rates:
        return Rates(self.false_accept.mean, self.false_reject.mean)

    @property
    def j(self) -> float:
        """1 - p0 - p1: what is left of the signal. At 0 nothing can be learned, below it the wrong thing."""
        return 1.0 - self.false_accept.mean - self.false_reject.mean

    def j_low(self, level: float = 0.95) -> float:
        """Lower bound of J: one-sided, by Bonferroni over the two rates, so at least of that level."""
        p = 1.0 - (1.0 - level) / 2.0
        return 1.0 - self.false_accept.quantile(p) - self.false_reject.quantile(p)


def channel_of(evidence: Evidence, judge: Channel | None = None) -> Channel:
    """Posteriors from evidence. `judge` is the channel of the one who is appealed to; None: never wrong.

    Appeals say something of false rejects. With s the share of the rule's negatives, o the judge's (weighted) share of
    overturned ones, t and f its true and false accept rates, and p0 the rule's own false accept rate, of the negatives
    rho = (o - f) / (t - f) are right (Rogan and Gladen 1978), and

        p1 = rho s / (rho s + (1 - s) - p0 / (1 - p0) (1 - rho) s).

    It counts as many observations as a binomial with its variance (first order, in o, s, t, f and p0) has.
    Source: the appeals of arXiv 2510.00915, section 5, which has t = 1, f = 0, p0 = 0. Differs also in dividing by the
    sum of 1 / q instead of the number of negatives: lower variance, and a judge that abstains at random does no harm.
    """
    accept = Beta.of(evidence.accepted_wrong, evidence.wrong)
    reject = Beta.of(evidence.rejected_right, evidence.right)
    if evidence.appealed > FORGOTTEN:
        p1, num = _appealed(evidence, accept if accept.observations > 0 else None, judge)
        reject = Beta.of(reject.errors + num * p1, reject.observations + num)
    return Channel(accept, reject)


def _appealed(e: Evidence, accept: Beta | None, judge: Channel | None) -> tuple[float, float]:
    """The rate of false rejects by appeals, and the observations that it counts for."""
    seen = e.appealed**2 / e.appealed_squares
    share, o = e.negatives / (e.negatives + e.positives), e.overturned / e.appealed
    point = [o, share, 1.0, 0.0, 0.0]
    variances = [o * (1.0 - o) / seen, share * (1.0 - share) / (e.negatives + e.positives), 0.0, 0.0, 0.0]
    if judge is not None:
        point[2:4] = [1.0 - judge.false_reject.mean, judge.false_accept.mean]
        variances[2:4] = [judge.false_reject.variance, judge.false_accept.variance]
    if accept is not None:
        point[4], variances[4] = accept.mean, accept.variance
    if point[2] <= point[3]:
        return 0.5, 0.0  # a judge that accepts wrong answers as often as right ones says nothing
    p1 = _false_reject(*point)
    variance = 0.0
    for i, v in enumerate(variances):
        step = 1e-4
        up, down = ([x + d * (k == i) for k, x in enumerate(point)] for d in (step, -step))
        variance += v * ((_false_reject(*up) - _false_reject(*down)) / (2.0 * step)) ** 2
    error = min(variance**0.5, 0.5)
    inside = min(max(p1, error), 1.0 - error)  # near 0 and 1 the binomial's variance vanishes, and the error does not
    num = inside * (1.0 - inside) / variance - 1.0 if variance > 0.0 else seen
    return p1, min(max(num, 0.0), e.positives + e.negatives)


def _false_reject(o: float, share: float, t: float, f: float, p0: float) -> float:
    rho = min(max((o - f) / (t - f), 0.0), 1.0)
    rejected = rho * share
    accepted = max(1.0 - share - p0 / (1.0 - p0) * (1.0 - rho) * share, 0.0)
    return rejected / (rejected + accepted) if rejected + accepted > 0.0 else 0.0


class Channels:
    """The channels of a reward worker's rewarders: what was given, what it saw itself, what it heard of the others."""

    def __init__(self, section: ChannelsSection) -> None:
        """Raises ValueError for a certificate that cannot be read."""
        self._section = section
        self._stays = 0.5 ** (1.0 / section.half_life) if section.half_life else 1.0
        self._given: dict[tuple[str, str], Evidence] = {}
        for key, evidence in [*_of_certificate(section.certificate), *_by_hand(section)]:
            self._given[key] = self._given.get(key, Evidence()) + evidence
        self._own: dict[tuple[str, str], Evidence] = {}
        self._heard: dict[tuple[str, str], Evidence] = {}

    @property
    def about(self) -> set[str]:
        """The rewarders of which something is known."""
        return {name for part in (self._given, self._own, self._heard) for name, _ in part}

    def stamp(self, group: Group) -> Group:
        """The group with stratum and rates on every verdict; then what it tells of its rewarders is taken in, unless it
        is of an evaluation (a ticket below 0)."""
        strata = [stratum_of(self._section.stratify, group, rollout) for rollout in group.rollouts]
        known: dict[tuple[str, str, float], Rates | None] = {}
        stamped = []
        for rollout, stratum in zip(group.rollouts, strata, strict=True):
            verdicts = []
            for v in rollout.verdicts:
                key = (v.rewarder, stratum, decided_share(v))
                if key not in known:
                    known[key] = self.rates(*key)
                verdicts.append(replace(v, stratum=stratum, rates=known[key]))
            stamped.append(tuple(verdicts))
        out = group.with_verdicts(stamped)
        if group.ticket < 0:
            return out
        if self._stays < 1.0:
            self._own = {key: evidence.faded(self._stays) for key, evidence in self._own.items()}
        for rollout in out.rollouts:
            self._learn(rollout)
        return out

    def learn(self, group: Group, verdicts: Sequence[Verdict], right: Sequence[bool | None]) -> None:
        """Take in one rewarder's verdicts on a group of sentinels; None where one is no evidence."""
        for rollout, verdict, truth in zip(group.rollouts, verdicts, right, strict=True):
            if truth is not None:
                stratum = stratum_of(self._section.stratify, group, rollout)
                self.observe(replace(verdict, stratum=stratum), truth)

    def observe(self, verdict: Verdict, right: bool) -> None:
        """Take in a verdict, with its stratum, on an answer whose truth is known: a sentinel, or gold."""
        value = verdict.parts.get(RULE, verdict.value)
        if value is None or not 0.0 <= value <= 1.0:
            return
        seen = Evidence(right=1.0, rejected_right=1.0 - value) if right else Evidence(wrong=1.0, accepted_wrong=value)
        self._add(verdict, seen)

    def channel(self, rewarder: str, stratum: str = "") -> Channel:
        """Of a stratum, or of all together ("" where there are several); of the rule, for a cascade.

        A side of which a stratum has too few observations is that of all strata together.
        """
        judge_key = f"{rewarder}/{APPEAL}"
        judge = self.channel(judge_key, stratum) if judge_key in self.about else None
        whole = channel_of(self._total(rewarder), judge)
        if not stratum:
            return whole
        at = (rewarder, stratum)
        evidence = self._own.get(at, Evidence()) + self._heard.get(at, Evidence())
        evidence += self._given.get(at) or self._given.get((rewarder, ""), Evidence())
        own, least = channel_of(evidence, judge), self._section.least
        return Channel(
            own.false_accept if own.false_accept.observations >= least else whole.false_accept,
            own.false_reject if own.false_reject.observations >= least else whole.false_reject,
        )

    def rates(self, rewarder: str, stratum: str = "", decided: float = 0.0) -> Rates | None:
        """What a verdict is stamped with; None where too little is known. `decided` is the share of the rule's
        negatives for which the value is the judge's answer."""
        channel = self.channel(rewarder, stratum)
        if min(channel.false_accept.observations, channel.false_reject.observations) < self._section.least:
            return None
        return self._decided(channel.rates, rewarder, stratum, decided)

    def of_values(self, rewarder: str, stratum: str, decided: float) -> Channel:
        """Of the values, as `rates`: of as many observations as the rule has."""
        rule = self.channel(rewarder, stratum)
        if not decided:
            return rule
        rates = self._decided(rule.rates, rewarder, stratum, decided)
        wrong, right = rule.false_accept.observations, rule.false_reject.observations
        return Channel(Beta.of(rates.false_accept * wrong, wrong), Beta.of(rates.false_reject * right, right))

    def _decided(self, rule: Rates, rewarder: str, stratum: str, decided: float) -> Rates:
        judge_key = f"{rewarder}/{APPEAL}"
        judge = self.channel(judge_key, stratum).rates if judge_key in self.about else Rates(0.0, 0.0)
        return Rates(
            rule.false_accept + (1.0 - rule.false_accept) * decided * judge.false_accept,
            rule.false_reject * (1.0 - decided * (1.0 - judge.false_reject)),
        )

    def state(self) -> State:
        """What this worker saw itself. It goes into a checkpoint, and `pooled` with the others' to them."""
        return _plain(self._own)

    def inherit(self, state: Mapping[str, Mapping[str, Mapping[str, float]]]) -> None:
        """Go on from the `state` of the process that was here before."""
        self._own = dict(evidence_of(pooled([state, self.state()])))

    def hear(self, state: Mapping[str, Mapping[str, Mapping[str, float]]]) -> None:
        """What all other workers saw, in the place of what was heard before: nothing is counted twice."""
        self._heard = dict(evidence_of(state))

    def _learn(self, rollout: Rollout) -> None:
        gold = next((v.value for v in rollout.verdicts if v.rewarder == self._section.gold), None)
        for v in rollout.verdicts:
            if gold is not None and v.rewarder != self._section.gold:
                self.observe(v, gold >= CORRECT)
            rule, q = v.parts.get(RULE), v.parts.get(APPEAL_PROB, 0.0)
            if rule is None or q <= 0.0:
                continue
            if rule >= CORRECT:
                self._add(v, Evidence(positives=1.0))
                continue
            answer = v.parts.get(APPEAL)
            seen = Evidence(negatives=1.0)
            if answer is not None:
                seen += Evidence(appealed=1.0 / q, appealed_squares=1.0 / q**2, overturned=answer / q)
            self._add(v, seen)

    def _add(self, verdict: Verdict, seen: Evidence) -> None:
        key = (verdict.rewarder, verdict.stratum)
        self._own[key] = self._own.get(key, Evidence()) + seen

    def _total(self, rewarder: str) -> Evidence:
        found = [
            e for part in (self._given, self._own, self._heard) for (name, _), e in part.items() if name == rewarder
        ]
        return sum(found, Evidence())


def decided_share(verdict: Verdict) -> float:
    """Of the negatives of the rule behind a verdict, the share of which the value is the judge's answer."""
    return verdict.parts.get(APPEAL_PROB, 0.0) if verdict.parts.get(APPEAL_DECIDES) else 0.0


def pooled(states: Sequence[Mapping[str, Mapping[str, Mapping[str, float]]]]) -> State:
    """The sum of what several workers saw."""
    total: dict[tuple[str, str], Evidence] = {}
    for key, evidence in (pair for state in states for pair in evidence_of(state)):
        total[key] = total.get(key, Evidence()) + evidence
    return _plain(total)


def evidence_of(state: Mapping[str, Mapping[str, Mapping[str, float]]]) -> list[tuple[tuple[str, str], Evidence]]:
    """Counts by rewarder and stratum. Raises ValueError for what is not counts."""
    try:
        found = [((name, at), Evidence(**counts)) for name, strata in state.items() for at, counts in strata.items()]
    except (TypeError, AttributeError) as error:
        raise ValueError(f"not counts by rewarder and stratum: {error}") from None
    for (name, at), e in found:
        slack = 1.0 + 1e-9  # of sums that faded
        if not (0 <= e.accepted_wrong <= slack * e.wrong and 0 <= e.rejected_right <= slack * e.right):
            raise ValueError(f"{name}, stratum {at!r}: {e} counts more errors than answers")
    return found


def stratum_of(kinds: Sequence[str], group: Group, rollout: Rollout) -> str:
    """`family=gcd, length<=64` and the like, in the order of `kinds`; empty without any.

    `family`: reasoning-gym's, else the task source. `length`: completion tokens up to the next power of two, from 16.
    `format`: `boxed`, `code` (a fence), `json` (it parses as an object or list), `number`, else `prose`. `language`: a
    rough class by script, `ascii` where all letters are, else that of most letters (`cyrillic`, `cjk`, ...).
    """
    made = {
        "family": lambda: f"family={group.prompt.task.get('family') or group.prompt.source}",
        "length": lambda: f"length<={max(16, 1 << (max(len(rollout.tokens), 1) - 1).bit_length())}",
        "format": lambda: f"format={_format(rollout.text)}",
        "language": lambda: f"language={_script(rollout.text)}",
    }
    return ", ".join(made[kind]() for kind in kinds)


def _format(text: str) -> str:
    text = text.strip()
    if "\\boxed{" in text:
        return "boxed"
    if "```" in text:
        return "code"
    if text[:1] in ("{", "["):
        try:
            json.loads(text)
            return "json"
        except (ValueError, RecursionError):
            return "prose"
    return "number" if text.lstrip("+-").replace(",", "").replace(".", "", 1).isdecimal() else "prose"


def _script(text: str) -> str:
    letters = [c for c in text[:2000] if c.isalpha()]
    if all(c.isascii() for c in letters):
        return "ascii"
    names = Counter(unicodedata.name(c, "other").split()[0].lower() for c in letters)
    return names.most_common(1)[0][0]


def _by_hand(section: ChannelsSection) -> list[tuple[tuple[str, str], Evidence]]:
    found = []
    for r in section.rates:
        evidence = Evidence()
        if r.false_accept is not None:
            evidence += Evidence(wrong=r.trust, accepted_wrong=r.trust * r.false_accept)
        if r.false_reject is not None:
            evidence += Evidence(right=r.trust, rejected_right=r.trust * r.false_reject)
        found.append(((r.rewarder, r.stratum), evidence))
    return found


def _of_certificate(path: str) -> list[tuple[tuple[str, str], Evidence]]:
    if not path:
        return []
    try:
        found = json.loads(Path(path).read_text(encoding="utf-8"))
        evidence = evidence_of(found["channels"])
        whole = found.get("digest") in (None, digest_of(found))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"certificate {path}: cannot be read: {type(error).__name__}: {error}") from None
    if not whole:
        raise ValueError(f"certificate {path}: was changed after it was made")
    return evidence


def _plain(evidence: Mapping[tuple[str, str], Evidence]) -> State:
    out: State = {}
    for (name, at), e in evidence.items():
        out.setdefault(name, {})[at] = asdict(e)
    return out
