"""Resampling of zero-variance groups under a budget: a scored group whose rewards are all equal is set aside, and
another prompt takes its ticket.

Source: dynamic sampling, DAPO, arXiv 2503.14476, section 3.2 (used by DLER, arXiv 2510.15110). Differs: there is no
batch that is filled up in rounds, but a ticket that asks once more; and there is a budget, since a policy that solves
nothing (or everything) would be asked for ever. With G rollouts of pass rate p a group is flat with probability
p^G + (1 - p)^G.

Budget. Each ticket earns `per_group` further groups when it is first asked, each group that is set aside costs one, and
what is not used is saved up, so a run that is resumed has what the interrupted one had. So never more than `per_group`
groups are set aside per ticket; where the budget is spent, a flat group goes to the learner, as without resampling.
It goes there too after `most` attempts of one ticket, however much was saved up: groups leave the pool in ticket order,
so all others would wait for that one. Attempts that failed, or whose prompt was dropped, count among them.

Order. Which prompt takes which ticket depends on the order in which flat groups are set aside. A run that must repeat
exactly (`max_lag = 0`) therefore sets them aside in rounds: when no more tickets are admitted and every one in the
making waits here, all of them go on in the order of their tickets.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from swarm.pool import Pool
from swarm.scores import is_flat
from swarm.types import GroupFacts

ROUNDING = 1e-9
"""Ten times 0.1 is a little less than 1."""
MOST = 8
"""Attempts of one ticket, failed ones too, by what a ticket earns (or by 1, if that is more), after which its flat
group is kept: no more groups than that are set aside for it. Where groups are flat as often as a budget m just suffices
for, m of m + 1, and none fails, at most one ticket in 256 gets there: (m / (m + 1))^(8 max(m, 1))."""


class Resampling:
    """The budget, the order, and figures of all scored groups before any of them is set aside."""

    def __init__(self, pool: Pool, per_group: float = 0.0, ordered: bool = False) -> None:
        """For the tickets of this pool. `per_group` >= 0 groups may be set aside per ticket; `ordered`: in rounds."""
        self._pool, self._per_group, self._ordered = pool, per_group, ordered
        self._most = MOST * max(1.0, per_group)
        self._credit = 0.0
        self._making: set[int] = set()
        self._at_gate: dict[int, asyncio.Future[None]] = {}
        self._rewards: list[float] = []
        self._correct: list[bool] = []
        self._skipped = 0

    def resume(self, tickets: int, skipped: int) -> None:
        """Continue a run in which so many tickets were asked and so many groups set aside."""
        self._credit = self._per_group * tickets - skipped

    @contextmanager
    def making(self, ticket: int, first: bool) -> Iterator[None]:
        """While a ticket has no group that is kept; `first` where it was never asked before."""
        if first:
            self._credit += self._per_group
        self._making.add(ticket)
        try:
            yield
        finally:
            self._making.discard(ticket)
            self.go_on()

    async def sets_aside(self, facts: GroupFacts, attempt: int) -> bool:
        """Whether this scored group, of the ticket's attempt from 0, is to be set aside; that is then paid for. The
        ticket is one in the making."""
        self._rewards += [reward for reward in facts.rewards if reward is not None]
        self._correct += [right for right in facts.correct if right is not None]
        if not self._per_group or not is_flat(facts.rewards):
            return False
        if self._ordered:
            gate = self._at_gate[facts.ticket] = asyncio.get_running_loop().create_future()
            asyncio.get_running_loop().call_soon(self.go_on)  # a future that is done is not waited for
            try:
                await gate
            finally:
                self._at_gate.pop(facts.ticket, None)
        if self._credit < 1 - ROUNDING or attempt >= self._most:
            return False
        self._credit -= 1
        self._skipped += 1
        return True

    def go_on(self) -> None:
        """End a round where it is complete. To be called when a ticket leaves, or the pool is closed."""
        pool = self._pool
        complete = pool.closed or not pool.has_room or len(self._making) >= pool.capacity
        if complete and self._making == set(self._at_gate):
            for _, gate in sorted(self._at_gate.items()):  # they wake in the order in which their futures are set
                if not gate.done():
                    gate.set_result(None)

    def read(self) -> dict[str, float]:
        """Figures since the last call: share of correct rollouts and mean reward of all scored groups, before any was
        set aside (left out where none was scored), and how many were set aside."""
        out = {"actors/resampled": float(self._skipped)}
        if self._correct:
            out["actors/pass_rate_unfiltered"] = sum(self._correct) / len(self._correct)
        if self._rewards:
            out["actors/reward_unfiltered"] = sum(self._rewards) / len(self._rewards)
        self._rewards, self._correct, self._skipped = [], [], 0
        return out
