"""An alarm over each rewarder of a reward worker: too few of its verdicts have a value.

A failure never becomes a number, so a rewarder that times out on most answers costs rollouts, not rewards: training
goes on with those that are left, which are seldom a fair sample (long answers time out first), or by other rewarders
alone. What the breaker and the quarantine leave out is told elsewhere, and does not count here; nor do abstentions on
a whole group that another rewarder has values for, since a recipe of several task sources has rewarders for each
(`is_for_another`).
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rewarders.backlog import DISPLACED
from rewarders.chat import SPENT
from rewarders.tallies import interval
from swarm.types import Status, Verdict

LIMIT = 0.2
"""Share of verdicts without a value that is surely exceeded when the alarm goes off: as `certify` allows."""
LEAST, WINDOW = 50, 200
"""Verdicts that must have been given, and the newest that count."""
_ADVICE: Mapping[Status, str] = {
    Status.ABSTAINED: "give its prompts what it needs, or leave it out for this task source",
    Status.TIMEOUT: "raise rewarders.timeout_s, or make it faster",
    Status.ERROR: "the cause says what to mend",
}
_JUDGE_ADVICE: Mapping[str, str] = {
    SPENT: "raise the judge's budget_tokens, or ask it about fewer rollouts",
    DISPLACED: "raise the judge's concurrent, backlog or patience_s, or ask it about fewer rollouts",
}
"""By what the cause of an abstention says, where the judge that is asked is to blame, not the prompt."""


def advice(verdict: Verdict) -> str:
    """What to do about a verdict without a value."""
    found = (text for said, text in _JUDGE_ADVICE.items() if said in verdict.cause)
    return next(found, _ADVICE[verdict.status])


def is_for_another(verdicts: Sequence[Verdict], others: Iterable[Sequence[Verdict]]) -> bool:
    """Whether a rewarder abstained on the whole group, not for its judge's sake, and one of the others gave values: its
    prompt is then of a kind that the rewarder is not there for (`swarm.scores.rewards`)."""
    if any(v.status is not Status.ABSTAINED or any(said in v.cause for said in _JUDGE_ADVICE) for v in verdicts):
        return False
    return any(v.value is not None for column in others for v in column)


class Alarm:
    """Of one rewarder. It goes off where the exact 95 % interval of the share is above `LIMIT`, and again only after it
    was below: verdicts of a group are counted as if they were independent, so it is rather too early than too late."""

    def __init__(self) -> None:
        self._seen: deque[Verdict | None] = deque(maxlen=WINDOW)
        """Verdicts without a value, and None for each with one."""
        self._is_off = False
        self._events: list[dict[str, Any]] = []

    def saw(self, verdicts: Sequence[Verdict]) -> None:
        """What the rewarder finally says of a group."""
        self._seen.extend(None if v.value is not None else v for v in verdicts)
        without = [v for v in self._seen if v is not None]
        low, high = interval(len(without), len(self._seen))
        if self._is_off:
            self._is_off = high >= LIMIT
        elif low > LIMIT and len(self._seen) >= LEAST:
            self._is_off = True
            [(status, _)] = Counter(v.status for v in without).most_common(1)
            newest = next(v for v in reversed(without) if v.status is status)
            statuses = dict(Counter(str(v.status) for v in without))
            cause = f"{newest.cause}; {advice(newest)}"
            facts = {"without": len(without), "of": len(self._seen), "statuses": statuses, "cause": cause}
            self._events.append({"event": "unscored"} | facts)

    def notices(self, name: str) -> list[dict[str, Any]]:
        """Events since the last call."""
        found = [event | {"rewarder": name} for event in self._events]
        self._events.clear()
        return found
