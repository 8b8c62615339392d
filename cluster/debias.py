"""What an accuracy would be without its rewarder's errors, as far as these are known.

    one rewarder, rates known before the run or measured in it     -> Rogan-Gladen, stratum by stratum
    a rewarder and one that has gold for some of the questions     -> prediction-powered; gold where it has all

An evaluation by other rewarders than training (`eval.use`) is as it is: nothing is known of their errors.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import sqrt
from typing import Any

from cluster.statistics import Estimate, prediction_powered, proportion, rogan_gladen
from rewarders.channels import Channel, Channels, Evidence, State, channel_of
from swarm.config import ChannelsSection
from swarm.scores import CORRECT, labels

UNKNOWN = channel_of(Evidence())
Answers = Sequence[Mapping[str, Any]]
"""Of an evaluation that have verdicts: `verdicts`, value by rewarder, and `stratum`."""


def corrected_accuracy(config: Mapping[str, Any], evaluation: Mapping[str, Any], measured: State) -> Estimate | None:
    """Of an evaluation, by the channels of its resolved recipe and by what was `measured` in the run (evidence by
    rewarder and stratum). The label says how it was made. None where too little is known, or several rewarders are
    summed up, since a sum has no channel. Questions without a verdict are left out."""
    rewarders = config.get("rewarders", {})
    use = rewarders.get("use", [])
    if "channels" not in rewarders or config.get("eval", {}).get("use") not in (None, [], use):
        return None
    section = ChannelsSection.model_validate(rewarders["channels"])
    names = labels([spec["name"] for spec in use])
    answers = [answer for answer in evaluation.get("answers", []) if answer.get("verdicts")]
    if len(names) == 2 and section.gold in names:
        return _by_gold(answers, section, next(name for name in names if name != section.gold))
    if len(names) != 1 or not answers:
        return None
    try:
        before, channels = Channels(section), Channels(section)
        channels.hear(measured)
        found = _by_rates(answers, names[0], _decided(use[0]), channels)
        known = [
            *(["known before the run"] if before.channel(names[0]) != UNKNOWN else []),
            *(["measured in the run"] if measured.get(names[0]) else []),
        ]
    except ValueError:  # a certificate that has gone, or rates that leave nothing
        return None
    return found and replace(found, label=f"{found.label}, rates {' and '.join(known)}")


def _by_rates(answers: Answers, name: str, decided: float, channels: Channels) -> Estimate | None:
    """Each stratum by its own rates: with one pair for all, a policy that moves between strata would seem to get better
    or worse. Where strata share a rate their errors add up, else their squares do."""
    strata: dict[Channel, list[float]] = {}
    for answer in answers:
        value, stratum = answer["verdicts"].get(name), answer.get("stratum", "")
        if value is None or not 0.0 <= value <= 1.0 or channels.rates(name, stratum, decided) is None:
            return None
        strata.setdefault(channels.of_values(name, stratum, decided), []).append(value)
    value, down, up = 0.0, [], []
    for channel, values in strata.items():
        accept, reject = channel.false_accept, channel.false_reject
        part = rogan_gladen(
            sum(values),
            len(values),
            wrong=accept.observations,
            accepted_wrong=accept.errors,
            right=reject.observations,
            rejected_right=reject.errors,
        )
        share = len(values) / len(answers)
        j = 1.0 - accept.errors / accept.observations - reject.errors / reject.observations
        value += share * (sum(values) / len(values) - accept.errors / accept.observations) / j
        down.append(share * max(part.value - part.low, 0.0))
        up.append(share * max(part.high - part.value, 0.0))
    apart = all(len({getattr(c, side) for c in strata}) == len(strata) for side in ("false_accept", "false_reject"))
    low, high = ((sqrt(sum(x * x for x in side)) if apart else sum(side)) for side in (down, up))
    value = min(max(value, 0.0), 1.0)
    return Estimate(value, max(value - low, 0.0), min(value + high, 1.0), "Rogan-Gladen")


def _by_gold(answers: Answers, section: ChannelsSection, name: str) -> Estimate | None:
    """Questions that gold answers are taken for a random sample of all."""
    said = [(a["verdicts"].get(section.gold), a["verdicts"].get(name)) for a in answers]
    truth = [float(gold >= CORRECT) for gold, _ in said if gold is not None]
    if said and len(truth) == len(said):
        return Estimate(sum(truth) / len(truth), *proportion(int(sum(truth)), len(truth)), "gold")
    judged = [value for gold, value in said if gold is not None and value is not None]
    others = [value for gold, value in said if gold is None and value is not None]
    if len(judged) < section.least or len(judged) != len(truth) or not others:
        return None
    found = prediction_powered(truth, judged, others)
    return replace(found, label=f"{found.label}, gold on {len(truth)} of {len(said)} questions, as if drawn at random")


def _decided(spec: Mapping[str, Any]) -> float:
    """The share of a rule's negatives for which the value is the answer of the judge that is appealed to."""
    options = {**spec, **spec.get("options", {})}
    return float(options.get("share", 0.1)) if spec["name"] == "cascade" and options.get("replaces") else 0.0
