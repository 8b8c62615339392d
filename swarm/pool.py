"""The bounded, ordered window of groups between actors and learner.

A ticket is charged when work is admitted and given back when the weights that its group produced are with the actors.
Groups leave in ticket order; inside a small window a finished group may pass an unfinished one. The window is counted
in ticket numbers from the oldest ticket that was not taken, so that a slow group is passed by W - 1 others in all.

Worst lag. With capacity C, window W and B groups per step: when a ticket is admitted, at most C - 1 others are
outstanding, and at most W - 1 later ones may overtake it, so at most C + W - 2 groups are trained before it. Tickets
are released only when every actor holds the new weights, so the group's oldest token was sampled by the version of its
admission or a newer one. Hence

    lag <= (C + W - 2) // B,   and   capacity(max_lag, B, W) = (max_lag + 1) * B - (W - 1)   keeps it <= max_lag.

Taking whatever finishes first instead would train on short answers: see DESIGN section 4.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable, Mapping

from swarm.types import Handle


def window(max_lag: int, groups_per_step: int) -> int:
    """How many tickets may be looked at for the next group: a third of a batch, and strict order up to a lag of 1.

    Passing costs capacity (see `capacity`), and two whole batches are needed for generation and training to overlap:
    one in training, one in the making. A lag of 1 allows just these two."""
    return 1 if max_lag <= 1 else max(1, groups_per_step // 3)


def capacity(max_lag: int, groups_per_step: int) -> int:
    """Tickets that may be outstanding so that no token is older than `max_lag` when trained on."""
    return (max_lag + 1) * groups_per_step - (window(max_lag, groups_per_step) - 1)


class Pool:
    """Tickets and finished groups. A plain asyncio class; all calls come from one event loop."""

    def __init__(self, capacity: int, window: int = 1) -> None:
        if capacity < 1 or window < 1:
            raise ValueError(f"capacity {capacity} and window {window} must be at least 1")
        self.capacity = capacity
        self.window = window
        self.next_ticket = 0
        self._again: deque[int] = deque()  # tickets of an earlier process, asked first
        self._outstanding: set[int] = set()
        self._waiting: list[int] = []  # outstanding and not taken, in ticket order (tickets only ever grow)
        self._ready: dict[int, Handle] = {}
        self._changed = asyncio.Condition()
        self.closed = False

    @property
    def ready(self) -> list[Handle]:
        """Finished groups that nobody took yet, in ticket order."""
        return [self._ready[t] for t in self._waiting if t in self._ready]

    @property
    def outstanding(self) -> int:
        return len(self._outstanding)

    @property
    def has_room(self) -> bool:
        """Whether another ticket would be admitted."""
        return bool(self._again) or len(self._outstanding) < self.capacity

    def reinstate(self, again: Iterable[int], ready: Mapping[int, Handle], next_ticket: int) -> None:
        """Continue an earlier process. All of its tickets are charged at once, which keeps their order: `again` are
        handed out by `admit` before new ones are made, `ready` have their group already."""
        self._again = deque(sorted(again))
        self._ready = dict(ready)
        self._outstanding = {*self._again, *self._ready}
        self._waiting = sorted(self._outstanding)
        self.next_ticket = next_ticket

    async def close(self) -> None:
        """Admit nothing more and let the learner stop waiting; groups in the making may still be put."""
        async with self._changed:
            self.closed = True
            self._changed.notify_all()

    async def admit(self) -> int | None:
        """Wait until there is room, then charge and return the next ticket; None once closed."""
        async with self._changed:
            await self._changed.wait_for(lambda: self.closed or self.has_room)
            if self.closed:
                return None
            if self._again:
                return self._again.popleft()
            ticket = self.next_ticket
            self.next_ticket += 1
            self._outstanding.add(ticket)
            self._waiting.append(ticket)
            return ticket

    async def put(self, ticket: int, handle: Handle) -> None:
        """A ticket's group is finished."""
        async with self._changed:
            if ticket not in self._outstanding or ticket in self._ready:
                raise ValueError(f"ticket {ticket} is not waiting for a group")
            self._ready[ticket] = handle
            self._changed.notify_all()

    async def take(self, num: int) -> dict[int, Handle]:
        """Wait for the next `num` groups in order; they leave together, so that giving up waiting loses none.

        Taken tickets stay charged until they are released. Empty once the pool is closed.
        """
        async with self._changed:
            await self._changed.wait_for(lambda: self.closed or len(self._next(num)) == num)
            if self.closed:
                return {}
            tickets = self._next(num)
            self._waiting = [t for t in self._waiting if t not in tickets]
            return {ticket: self._ready.pop(ticket) for ticket in tickets}

    async def release(self, tickets: Iterable[int]) -> None:
        """Give tickets back, once the weights they led to are with the actors."""
        async with self._changed:
            for ticket in tickets:
                self._outstanding.remove(ticket)
            self._changed.notify_all()

    def _next(self, num: int) -> list[int]:
        """The tickets that would leave now, up to `num`: repeatedly the first finished one inside the window."""
        waiting = list(self._waiting)
        picked: list[int] = []
        while len(picked) < num and waiting:
            end = waiting[0] + self.window
            ticket = next((t for t in waiting[: self.window] if t < end and t in self._ready), None)
            if ticket is None:
                break
            waiting.remove(ticket)
            picked.append(ticket)
        return picked
