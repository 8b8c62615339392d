"""Which prompt went where: a SQLite file (WAL) on the driver's local disk, the basis of exactly-once.

One row per attempt of a ticket: asked, then `pooled`, then `trained` at a step of a lineage, or `failed` with its
cause (the same ticket is asked again as a new attempt), or `dropped` (a prompt that is not asked again), or `skipped`
(a scored group that had nothing to teach: its ticket goes to another prompt). A ticket can be trained once in a
lineage: an index makes a second time impossible, not merely wrong. The prompt stream's position is written with every
change that it goes with, in one transaction, so what the stream was told is neither forgotten nor told twice.
"""

from __future__ import annotations

import json
import os
import sqlite3
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from swarm.errors import ConfigError
from swarm.types import Prompt

_TABLE = """
create table if not exists asks (
    seq integer primary key autoincrement,
    ticket integer not null,
    attempt integer not null,
    prompt_id text not null,
    prompt text not null,           -- JSON, so that it can be asked again as it was
    num integer not null,           -- rollouts that were asked for; 0: the recipe's group size
    state text not null check (state in ('asked', 'pooled', 'trained', 'failed', 'dropped', 'skipped')),
    lineage integer,
    step integer,
    cause text,
    length real,                    -- mean completion length of the group in tokens, once scored
    at real not null,               -- seconds since the epoch, of the last change
    unique (ticket, attempt)
);
create unique index if not exists trained_once on asks (lineage, ticket) where state = 'trained';
create index if not exists by_step on asks (step) where state = 'trained';
create table if not exists stream (
    id integer primary key check (id = 0),
    cursor text not null            -- JSON, the prompt stream's newest position
);
"""


@dataclass(frozen=True, slots=True)
class Ask:
    """A ticket that is to be asked (again)."""

    ticket: int
    attempt: int
    prompt: Prompt | None
    """None where the ticket's last prompt was dropped or skipped: it gets the stream's next one."""
    num: int = 0
    """Rollouts to ask for; 0: the recipe's group size."""


class Ledger:
    """Opens or makes the file. Every method is one transaction."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._db = sqlite3.connect(path, isolation_level=None)
            self._db.execute("pragma journal_mode = wal")
            self._db.execute("pragma synchronous = normal")
            self._db.executescript(_TABLE)
            self._db.execute("select num from asks limit 0")
        except sqlite3.DatabaseError as error:
            raise ConfigError(f"{path}: not a ledger: {error}") from None

    def asked(self, ticket: int, attempt: int, prompt: Prompt, cursor: Mapping[str, Any], num: int = 0) -> None:
        """A prompt is about to be generated, with `num` rollouts; `cursor` is the stream's position after it."""
        row = (ticket, attempt, prompt.id, json.dumps(asdict(prompt)), num, time.time())
        with self._transaction():
            self._db.execute("insert into asks values (null, ?, ?, ?, ?, ?, 'asked', null, null, null, null, ?)", row)
            self._place(cursor)

    def pooled(self, ticket: int, attempt: int, length: float) -> None:
        """Its group is scored and in the pool; `length` is its mean completion length in tokens."""
        self._move(ticket, attempt, "pooled", length=length)

    def failed(self, ticket: int, attempt: int, cause: str) -> None:
        """This attempt made no group; the ticket will be asked again."""
        self._move(ticket, attempt, "failed", cause)

    def dropped(self, ticket: int, attempt: int, cause: str) -> None:
        """This prompt is not asked again; the ticket goes to another prompt."""
        self._move(ticket, attempt, "dropped", cause)

    def skipped(self, ticket: int, attempt: int, length: float, cursor: Mapping[str, Any]) -> None:
        """Its group is scored and has nothing to teach; the ticket goes to another prompt. `length` as in `pooled`;
        `cursor` is the stream's position once it knows of this."""
        with self._transaction():
            self._move(ticket, attempt, "skipped", length=length)
            self._place(cursor)

    def trained(self, lineage: int, step: int, tickets: Iterable[int], cursor: Mapping[str, Any] | None = None) -> None:
        """The pooled groups of these tickets were in the batch of this step: all of them, or none and an error.
        `cursor` is the stream's position once it knows of them (None: as it was)."""
        with self._transaction():
            for ticket in tickets:
                done = self._db.execute(
                    "update asks set state = 'trained', lineage = ?, step = ?, at = ?"
                    " where ticket = ? and state = 'pooled'",
                    (lineage, step, time.time(), ticket),
                )
                if done.rowcount != 1:
                    raise ValueError(f"ticket {ticket} has {done.rowcount} pooled groups, not one")
            if cursor is not None:
                self._place(cursor)

    def unfinished(self, kept: Collection[int] = (), cause: str = "its process ended") -> list[Ask]:
        """Tickets that must be asked again, each with its next attempt's number, in ticket order.

        `kept` are tickets whose pooled groups survived. Other attempts that an earlier process left as asked or pooled
        are closed as failed with this cause: their groups are gone.
        """
        query = "select seq, ticket, state from asks where state in ('asked', 'pooled')"
        open_rows = self._db.execute(query).fetchall()
        gone = [(cause, seq) for seq, ticket, state in open_rows if state == "asked" or ticket not in kept]
        self._db.executemany("update asks set state = 'failed', cause = ? where seq = ?", gone)
        rows = self._db.execute(
            "select ticket, max(attempt), state, prompt, num from asks where ticket not in"
            " (select ticket from asks where state in ('trained', 'pooled')) group by ticket order by ticket"
        ).fetchall()
        return [
            Ask(ticket, attempt + 1, None)
            if state in ("dropped", "skipped")
            else Ask(ticket, attempt + 1, Prompt(**json.loads(prompt)), num)
            for ticket, attempt, state, prompt, num in rows
        ]

    def pooled_tickets(self) -> set[int]:
        """Tickets whose group was scored and not yet trained on."""
        return {ticket for (ticket,) in self._db.execute("select ticket from asks where state = 'pooled'")}

    def lineage(self) -> int:
        """The newest lineage that was trained; 0 at the start."""
        (lineage,) = self._db.execute("select coalesce(max(lineage), 0) from asks").fetchone()
        return int(lineage)

    def position(self) -> tuple[int, Mapping[str, Any] | None]:
        """The first ticket never asked, and the prompt stream's newest position (None at the start)."""
        (ticket,) = self._db.execute("select coalesce(max(ticket) + 1, 0) from asks").fetchone()
        newest = self._db.execute("select cursor from stream").fetchone()
        return ticket, json.loads(newest[0]) if newest else None

    def last_step(self, lineage: int) -> int:
        """The newest step that was trained in this lineage; 0 before the first."""
        (step,) = self._db.execute(
            "select coalesce(max(step), 0) from asks where state = 'trained' and lineage = ?", (lineage,)
        ).fetchone()
        return int(step)

    def chain(self) -> dict[int, int]:
        """Step to lineage of the surviving weights, in order: the newest lineage up to its last step, and below its
        first one those that it came from."""
        last = self.last_step(self.lineage())
        query = "select step, max(lineage) from asks where state = 'trained' and step <= ? group by step order by step"
        return dict(self._db.execute(query, (last,)))

    def counts(self) -> dict[str, int]:
        """`asked`: tickets; `trained`; `waiting`: asked and not trained; `failed`, `dropped`, `skipped`: attempts;
        `duplicated`: tickets trained more than once in a lineage; `lost`: tickets below the newest without a row."""
        one = self._db.execute
        states = dict(one("select state, count(*) from asks group by state").fetchall())
        asked, newest = one("select count(distinct ticket), coalesce(max(ticket) + 1, 0) from asks").fetchone()
        (trained,) = one("select count(distinct ticket) from asks where state = 'trained'").fetchone()
        (twice,) = one(
            "select count(*) from"
            " (select 1 from asks where state = 'trained' group by lineage, ticket having count(*) > 1)"
        ).fetchone()
        return {
            "asked": asked,
            "trained": trained,
            "waiting": asked - trained,
            "failed": states.get("failed", 0),
            "dropped": states.get("dropped", 0),
            "skipped": states.get("skipped", 0),
            "duplicated": twice,
            "lost": newest - asked,
        }

    def causes(self) -> dict[str, int]:
        """How often each cause made an attempt fail or a prompt be dropped."""
        query = "select cause, count(*) from asks where cause is not null group by cause order by 2 desc"
        return dict(self._db.execute(query).fetchall())

    def snapshot(self) -> bytes:
        """All of it at this moment, as the bytes of a SQLite file."""
        return self._db.serialize()

    def sync(self) -> None:
        """Until all that is committed survives a loss of power, so that no checkpoint is ahead of its ledger; may be
        called from any thread. Raises OSError where the disk is full or gone."""
        log = self._path.with_name(self._path.name + "-wal")
        for path in (log, self._path):
            with suppress(FileNotFoundError) if path is log else nullcontext():  # no log: all is in the file
                handle = os.open(path, os.O_RDONLY)
                try:
                    os.fsync(handle)
                finally:
                    os.close(handle)

    def close(self) -> None:
        self._db.close()

    def lengths(self) -> tuple[list[float], list[float]]:
        """Mean completion lengths of the groups that were trained on, and of all that were ever scored, those that were
        skipped among them."""
        rows = self._db.execute("select length, state from asks where length is not null").fetchall()
        return [length for length, state in rows if state == "trained"], [length for length, _ in rows]

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        """All of it, or nothing."""
        self._db.execute("begin immediate")
        try:
            yield
            self._db.execute("commit")
        except BaseException:
            self._db.execute("rollback")
            raise

    def _place(self, cursor: Mapping[str, Any]) -> None:
        self._db.execute("insert or replace into stream values (0, ?)", (json.dumps(dict(cursor)),))

    def _move(
        self, ticket: int, attempt: int, state: str, cause: str | None = None, length: float | None = None
    ) -> None:
        done = self._db.execute(
            "update asks set state = ?, cause = ?, length = coalesce(?, length), at = ?"
            " where ticket = ? and attempt = ? and state in ('asked', 'pooled')",
            (state, cause, length, time.time(), ticket, attempt),
        )
        if done.rowcount != 1:
            raise ValueError(f"ticket {ticket}, attempt {attempt}: not open in the ledger")
