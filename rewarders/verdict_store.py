"""Nothing is judged twice: verdicts by the content they were given for, in a SQLite file that reward workers share.

    key = digest(version of the rewarder, prompt with its task data, response)         -> verdict
          (for a rewarder that compares: group id and all responses, in order)         -> verdicts

    take(keys): what is known, and which of the rest are ours to judge --> judge --> put(keys) --> known to everybody

A key is claimed before it is judged, so that workers who meet the same response at the same moment judge it once: the
others wait for it. A claim ends with its process, or after LEASE_S. Failures (`timeout`, `error`) are not kept, nor
verdicts on single steps, which are about tokens and not about text.

The file is in WAL mode: a worker that is killed loses nothing that `put` returned for (a power failure may cost the
last seconds, not the file). It belongs on a local disk. It holds at most LARGEST verdicts; the oldest go first.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import sqlite3
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from rewarders.version import present_version
from swarm.types import Group, Rollout, Status, Verdict

LARGEST = 1_000_000
"""Verdicts; some hundred bytes each."""
LEASE_S = 600.0
POLL_S = 0.02
BUSY_S = 30.0
"""How long one worker waits for the others' writes, which take milliseconds."""

TABLES = """
CREATE TABLE IF NOT EXISTS verdicts (id INTEGER PRIMARY KEY, key BLOB NOT NULL UNIQUE, verdicts TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS claims (key BLOB PRIMARY KEY, process INTEGER NOT NULL, until REAL NOT NULL) WITHOUT ROWID;
"""

T = TypeVar("T")


class VerdictStore:
    """One worker's connection to the file at `path`, which is made where there is none.

    Raises ValueError, when made, where the path cannot be used or is another kind of file.
    """

    def __init__(self, path: str | Path, *, largest: int = LARGEST) -> None:
        self._path, self._largest = Path(path), largest
        self.troubles: deque[str] = deque(maxlen=10)
        """What the file refused lately."""
        self._closed = False
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="verdict-store")  # SQLite may wait; the loop may not
        try:
            self._db: sqlite3.Connection = self._thread.submit(self._open).result()
        except (OSError, sqlite3.Error) as error:
            self._thread.shutdown()
            raise ValueError(f"rewarders.store = {str(path)!r}: cannot be used: {error}") from None

    async def judge(self, rewarder: Any, group: Group) -> tuple[list[Verdict], int]:
        """One verdict per rollout, and how many were known. Equal responses of a group are judged once.

        The rewarder has `keyed_by`: "rollout" or "group". Raises what its `judge` raises, after giving up its claims.
        """
        version, whole = present_version(rewarder), rewarder.keyed_by == "group"
        rollouts = group.rollouts
        keys = [group_key(version, group)] if whole else [rollout_key(version, group, r) for r in rollouts]
        wanted = dict.fromkeys(keys)
        known: dict[bytes, list[Verdict]] = {}
        fresh: dict[bytes, list[Verdict]] = {}
        while missing := [key for key in wanted if key not in known and key not in fresh]:
            found, mine = await self._taken(missing)
            known |= {key: [replace(v, version=version) for v in verdicts] for key, verdicts in found.items()}
            if mine:
                try:
                    fresh |= await _judged(rewarder, group, keys, mine)
                    if present_version(rewarder) == version:  # else nobody knows which data were judged by
                        await self._keep({key: fresh[key] for key in mine})
                finally:
                    self._free(mine)
            elif not found:
                await asyncio.sleep(POLL_S)
        answers = known | fresh
        verdicts = answers[keys[0]] if whole else [answers[key][0] for key in keys]
        return list(verdicts), sum(key in known for key in keys) * (len(rollouts) if whole else 1)

    def __len__(self) -> int:
        return int(
            self._thread.submit(lambda: self._db.execute("SELECT count(*) FROM verdicts").fetchone()[0]).result()
        )

    def close(self) -> None:
        """Close the file; may be called twice."""
        if not self._closed:
            self._closed = True
            self._thread.submit(self._db.close)
            self._thread.shutdown()

    async def _taken(self, keys: list[bytes]) -> tuple[dict[bytes, list[Verdict]], list[bytes]]:
        future = self._thread.submit(self._take, keys)
        try:
            return await asyncio.wrap_future(future)
        except asyncio.CancelledError:
            future.add_done_callback(self._give_up)  # nobody is left to judge what it claims
            raise
        except sqlite3.Error as error:  # a full disk costs the savings, not the verdicts
            self.troubles.append(str(error))
            return {}, keys

    def _give_up(self, future: Future[tuple[dict[bytes, list[Verdict]], list[bytes]]]) -> None:
        if not future.cancelled() and not future.exception():
            self._free(future.result()[1])

    def _free(self, keys: Sequence[bytes]) -> None:
        """End our claims, some time soon."""
        if not self._closed:
            self._thread.submit(self._release, keys)

    async def _keep(self, items: Mapping[bytes, Sequence[Verdict]]) -> None:
        try:
            await self._do(self._put, items)
        except sqlite3.Error as error:
            self.troubles.append(str(error))

    # -- on the store's own thread -----------------------------------------------------------------------------------

    def _open(self) -> sqlite3.Connection:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        db = sqlite3.connect(self._path, timeout=BUSY_S, isolation_level=None, check_same_thread=False)
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = NORMAL")
        db.executescript(TABLES)
        db.execute("DELETE FROM claims WHERE until < ?", (time.time(),))
        return db

    def _take(self, keys: Sequence[bytes]) -> tuple[dict[bytes, list[Verdict]], list[bytes]]:
        """What is known of the keys, and those of the rest that nobody else is judging: claimed."""
        found: dict[bytes, list[Verdict]] = {}
        mine = []
        with self._writing() as db:
            for key in keys:
                row = db.execute("SELECT verdicts FROM verdicts WHERE key = ?", (key,)).fetchone()
                if row:
                    found[key] = [_verdict(plain) for plain in json.loads(row[0])]
                    continue
                claim = db.execute("SELECT process, until FROM claims WHERE key = ?", (key,)).fetchone()
                if claim is None or claim[1] < time.time() or not _lives(claim[0]):
                    until = time.time() + LEASE_S
                    db.execute("INSERT OR REPLACE INTO claims VALUES (?, ?, ?)", (key, os.getpid(), until))
                    mine.append(key)
        return found, mine

    def _count(self) -> int:
        return self._db.execute("SELECT count(*) FROM verdicts").fetchone()[0]

    def _put(self, items: Mapping[bytes, Sequence[Verdict]]) -> None:
        rows = [(key, json.dumps([_plain(v) for v in found])) for key, found in items.items() if _lasting(found)]
        with self._writing() as db:
            db.executemany("INSERT OR IGNORE INTO verdicts (key, verdicts) VALUES (?, ?)", rows)
            db.execute("DELETE FROM verdicts WHERE id <= (SELECT max(id) FROM verdicts) - ?", (self._largest,))

    def _release(self, keys: Sequence[bytes]) -> None:
        with self._writing() as db:
            db.executemany("DELETE FROM claims WHERE key = ? AND process = ?", [(key, os.getpid()) for key in keys])

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield self._db
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")

    async def _do(self, work: Callable[..., T], *args: Any) -> T:
        return await asyncio.wrap_future(self._thread.submit(work, *args))


def rollout_key(version: str, group: Group, rollout: Rollout) -> bytes:
    """Of a verdict that depends on one response alone."""
    return _digest(version, *_prompt(group), rollout.text, rollout.finish.value)


def group_key(version: str, group: Group) -> bytes:
    """Of the verdicts of a rewarder that compares; its draws may depend on the group's id."""
    texts = [text for rollout in group.rollouts for text in (rollout.text, rollout.finish.value)]
    return _digest(version, *_prompt(group), group.id, *texts)


def _prompt(group: Group) -> list[str]:
    prompt = group.prompt
    task = json.dumps(dict(prompt.task), sort_keys=True, default=str)
    return [prompt.text, prompt.system, json.dumps(prompt.answer), task]


def _digest(*fields: str) -> bytes:
    digest = hashlib.sha256()
    for text in fields:
        data = text.encode("utf-8", "surrogatepass")
        digest.update(len(data).to_bytes(8, "big") + data)  # so that no two lists of fields look alike
    return digest.digest()


async def _judged(
    rewarder: Any, group: Group, keys: Sequence[bytes], mine: Sequence[bytes]
) -> dict[bytes, list[Verdict]]:
    """The verdicts of the keys that are ours, asked of the rewarder at once."""
    if len(keys) == 1 and rewarder.keyed_by == "group":
        return {keys[0]: _counted(await rewarder.judge(group), len(group.rollouts))}
    which = [keys.index(key) for key in mine]
    part = replace(group, rollouts=tuple(group.rollouts[i] for i in which))
    verdicts = _counted(await rewarder.judge(part), len(which))
    return {key: [verdict] for key, verdict in zip(mine, verdicts, strict=True)}


def _counted(verdicts: Sequence[Verdict], num: int) -> list[Verdict]:
    if len(verdicts) != num:
        raise ValueError(f"answered {len(verdicts)} verdicts for {num} rollouts")
    return list(verdicts)


def _lasting(verdicts: Sequence[Verdict]) -> bool:
    """Whether asking again would say the same."""
    return all(v.status in (Status.SCORED, Status.ABSTAINED) and not v.segments for v in verdicts)


def _plain(v: Verdict) -> dict[str, Any]:
    return {
        "rewarder": v.rewarder,
        "status": v.status.value,
        "value": v.value,
        "cause": v.cause,
        "parts": dict(v.parts),
        "stratum": v.stratum,
    }


def _verdict(plain: Mapping[str, Any]) -> Verdict:
    """As it was given, but for the time that it took."""
    return Verdict(**{**plain, "status": Status(plain["status"])})


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
