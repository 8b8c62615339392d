"""A breaker on a rewarder's worst family: it opens where one kind of wrong response is accepted, however good the mean.

    closed --lower bound of a family's false-accept rate above the limit--> open --`rest` groups--> half open
      ^                                                                      ^                         |
      |                                                                      +-- a probe is accepted --+
      +--------------- upper bound of each bad family below the limit, by probes since ----------------+

No correction by rates repairs a systematic false accept, and the mean does not show it: one of eight wrong answers
always accepted pins accuracy near 0.62 while J stays at 0.88. While it is open or half open the rewarder abstains from
real groups and answers probes alone.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from enum import StrEnum
from itertools import dropwhile, islice
from typing import Any

from rewarders.tallies import interval

NEWEST, SURELY = (10, 20), 0.9998
"""So many of a family's newest items are looked at by themselves too, by bounds of this level: a rewarder that was well
for long may have gone bad just now (a judge behind an endpoint is exchanged), which a hundred old items would hide. The
level is that high because they are looked at again with every item."""


class State(StrEnum):
    """Of a breaker."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half open"


class Breaker:
    """Of one rewarder. `limit`: the false-accept rate that no family may surely exceed; bounds are exact 95 % ones,
    so that three accepted of three open it at 0.2, one alone does not, and 17 rejected in a row close it. After many
    that were rejected eight of the newest ten open it."""

    def __init__(self, *, limit: float = 0.2, window: int = 100, rest: int = 20) -> None:
        """`window`: items of a family that count, the newest. `rest`: groups between opening and the first probe.

        Raises ValueError for a limit that is not in (0, 1)."""
        if not 0 < limit < 1:
            raise ValueError(f"limit = {limit:g}: wanted a rate between 0 and 1")
        self._limit, self._window, self._rest = limit, window, rest
        self._seen: dict[str, deque[bool]] = {}
        self._resting = 0
        self.state = State.CLOSED
        self.bad: set[str] = set()
        """The families for which it opened."""
        self.opened = 0
        """How often it has opened."""
        self.cause = ""
        """Why it is not closed."""

    def saw(self, family: str, accepted: bool) -> bool:
        """Count a wrong response that was judged; whether the breaker opened by it. While it rests nothing counts."""
        if self.state is State.OPEN:
            return False
        seen = self._seen.setdefault(family, deque(maxlen=self._window))
        seen.append(accepted)
        if self.state is State.HALF_OPEN:
            if accepted and family in self.bad:
                self._open()
            elif all(self._is_well(bad) for bad in self.bad):
                self.state, self.cause = State.CLOSED, ""
                self.bad.clear()
        if self.state is State.CLOSED and (found := self._too_many(seen)):
            accepts, low = found
            self.opened += 1
            self.bad.add(family)
            self.cause = (
                f"{accepts} wrong responses of the family {family} were accepted: above {self._limit:g}, "
                f"surely above {low:.2f}"
            )
            self._open()
            return True
        return False

    def _too_many(self, seen: Sequence[bool]) -> tuple[str, float] | None:
        """How many were accepted where that is surely above the limit, and the lower bound."""
        low = interval(sum(seen), len(seen))[0]
        if low > self._limit:
            return f"{sum(seen)} of {len(seen)}", low
        for num in (num for num in NEWEST if num < len(seen)):
            hits = sum(islice(reversed(seen), num))
            low = interval(hits, num, SURELY)[0]
            if low > self._limit:
                return f"{hits} of the newest {num}", low
        return None

    def suspects(self) -> list[str]:
        """Families to be probed soon: those that it opened for; those with an acceptance so early that their rate may
        be too high by what was seen, which is forgotten after some probes; and those that accept now, for the first
        time, one after another."""
        if self.state is not State.CLOSED:
            return sorted(self.bad)
        return [
            family
            for family, seen in self._seen.items()
            if any(seen) and (_has_turned(seen) or interval(sum(seen), len(seen))[1] > 2 * self._limit)
        ]

    def passed(self) -> None:
        """A real group came by."""
        if self.state is State.OPEN:
            self._resting -= 1
            if self._resting <= 0:
                self.state = State.HALF_OPEN

    def kept(self) -> dict[str, Any]:
        """JSON-able: all that another process needs to go on from here."""
        return {
            "state": str(self.state),
            "bad": sorted(self.bad),
            "opened": self.opened,
            "cause": self.cause,
            "resting": self._resting,
            "seen": {family: "".join(str(int(accepted)) for accepted in seen) for family, seen in self._seen.items()},
        }

    def go_on(self, kept: Mapping[str, Any]) -> None:
        """From what `kept` gave, in the place of what this one saw."""
        self.state, self.bad = State(kept["state"]), set(kept["bad"])
        self.opened, self.cause, self._resting = kept["opened"], kept["cause"], kept["resting"]
        self._seen = {family: deque((c == "1" for c in seen), self._window) for family, seen in kept["seen"].items()}

    def _open(self) -> None:
        self.state, self._resting = State.OPEN, self._rest
        for family in self.bad:
            self._seen[family].clear()  # what is to come decides whether it may close

    def _is_well(self, family: str) -> bool:
        seen = self._seen[family]
        return interval(sum(seen), len(seen))[1] <= self._limit


def _has_turned(seen: Sequence[bool]) -> bool:
    """Whether the newest were accepted, and none before them."""
    return bool(seen[-1]) and not any(dropwhile(bool, reversed(seen)))
