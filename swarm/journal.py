"""The run folder: everything that outlives a run, and the one place that writes into it while the loop goes on.

    runs/NAME/
      config.toml            the resolved recipe
      metrics.jsonl          one line per learner step
      digests.jsonl          one line per learner step: the digest of every published tensor
      events.jsonl           deaths, restarts, syncs, forfeits, evaluations, checkpoints, sentinels, breakers, noise,
                             rewarders without verdicts (`rewarders.alarm`)
      quarantine.jsonl       forms of response that a rewarder paid whatever the question, see `rewarders.mining`
      ledger.sqlite          see `swarm.ledger`
      rollouts/              step_000001.parquet ...: the groups of each batch, see `swarm.schema`
      checkpoints/           see `swarm.checkpoints`
      summary.md, summary.json, plots/*.png

A lock on the folder keeps a live run from being resumed by a second process.
"""

from __future__ import annotations

import fcntl
import itertools
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from swarm.errors import ConfigError
from swarm.types import Weights

Listener = Callable[[str, Mapping[str, Any]], None]


@dataclass(frozen=True, slots=True)
class RunFolder:
    """Names of the things in a run folder."""

    root: Path

    @property
    def config(self) -> Path:
        return self.root / "config.toml"

    @property
    def ledger(self) -> Path:
        return self.root / "ledger.sqlite"

    @property
    def checkpoints(self) -> Path:
        return self.root / "checkpoints"

    @property
    def rollouts(self) -> Path:
        return self.root / "rollouts"

    @property
    def plots(self) -> Path:
        return self.root / "plots"

    def batch(self, step: int) -> Path:
        """The recorded groups of one learner step."""
        return self.rollouts / f"step_{step:06d}.parquet"

    @classmethod
    def create(cls, parent: Path, name: str) -> RunFolder:
        """A new folder `parent/name-N` with the first free N."""
        try:
            parent.mkdir(parents=True, exist_ok=True)
            for number in itertools.count(1):
                root = parent / f"{name}-{number}"
                try:
                    root.mkdir()
                    break
                except FileExistsError:
                    continue
        except OSError as error:
            raise ConfigError(f"cluster.runs = {str(parent)!r}: cannot make a run folder there: {error}") from None
        return cls._furnish(root)

    @classmethod
    def create_at(cls, root: Path) -> RunFolder:
        """Exactly this folder, which must not exist or be empty. Raises ConfigError."""
        if root.exists() and (not root.is_dir() or any(root.iterdir())):
            raise ConfigError(f"--out {root}: exists and is not empty; name another folder, or `swarm resume {root}`")
        try:
            root.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"--out {root}: cannot be made: {error}") from None
        return cls._furnish(root)

    @classmethod
    def open(cls, root: Path) -> RunFolder:
        """An existing run folder. Raises ConfigError where it is none."""
        if not (root / "config.toml").is_file():
            raise ConfigError(f"{root}: not a run folder (no config.toml in it)")
        return cls(root)

    @classmethod
    def _furnish(cls, root: Path) -> RunFolder:
        folder = cls(root)
        for part in (folder.rollouts, folder.checkpoints, folder.plots):
            part.mkdir(exist_ok=True)
        return folder

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder for one live process. Raises ConfigError where another one has it."""
        with open(self.root / ".lock", "a+") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                lock.seek(0)
                raise ConfigError(
                    f"{self.root}: in use by a live run (process {lock.read().strip() or '?'}); wait for it, or stop it"
                ) from None
            lock.truncate(0)
            lock.write(str(os.getpid()))
            lock.flush()
            yield

    def read(self, name: str) -> list[dict[str, Any]]:
        """The lines of `metrics.jsonl` or another log; a last line that a crash cut is left out."""
        path = self.root / name
        lines = path.read_text().splitlines() if path.exists() else []
        records = []
        for number, line in enumerate(lines, 1):
            try:
                records.append(json.loads(line))
            except json.JSONDecodeError as error:
                if number == len(lines):
                    break
                raise ConfigError(f"{path}, line {number}: not JSON: {error}") from None
        return records


class Journal:
    """Appends to a run folder's logs and tells listeners (the terminal view) of each line."""

    def __init__(self, folder: RunFolder, listeners: list[Listener] | None = None) -> None:
        self.folder = folder
        self.listeners = listeners or []
        self.started = time.monotonic()
        self._files = {kind: _append(folder.root / f"{kind}.jsonl") for kind in ("metrics", "digests", "events")}

    def step(self, metrics: Mapping[str, Any]) -> None:
        """One learner step's metrics."""
        self._write("metrics", "step", metrics)

    def published(self, weights: Weights) -> None:
        """The digests of the weights of one learner step: a replay names the first tensor that differs."""
        version = weights.version
        line = {"lineage": version.lineage, "step": version.step, "digest": weights.digest, "tensors": weights.tensors}
        self._files["digests"].write(json.dumps(line) + "\n")

    def event(self, kind: str, **facts: Any) -> None:
        """Something that happened, by kind."""
        self._write("events", kind, {"event": kind, **facts})

    def notices(self, events: Iterable[Mapping[str, Any]]) -> None:
        """Events of a worker, which name themselves. What a rewarder does not pay any more also goes into a file."""
        for facts in events:
            self._write("events", str(facts["event"]), facts)
            if facts["event"] == "quarantine":
                with (self.folder.root / "quarantine.jsonl").open("a", encoding="utf-8") as file:
                    file.write(json.dumps(dict(facts)) + "\n")

    def close(self) -> None:
        for file in self._files.values():
            file.close()

    def _write(self, file: str, kind: str, facts: Mapping[str, Any]) -> None:
        record = {"at": time.time(), "run_s": round(time.monotonic() - self.started, 3), **facts}
        self._files[file].write(json.dumps(record) + "\n")
        for listener in self.listeners:
            listener(kind, record)


def _append(path: Path) -> TextIO:
    """Open for appending, without the last line where a crash cut it: the next record must begin a line."""
    file = path.open("a+", buffering=1, encoding="utf-8")
    file.seek(0)
    text = file.read()
    file.truncate(len(text[: text.rfind("\n") + 1].encode()))
    return file
