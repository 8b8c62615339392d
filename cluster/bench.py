"""Benches: what a figure in BENCHMARKS.md comes from.

    cells(quick) --run(cell), one by one--> NAME.cells.jsonl --figures(results)--> NAME.json --> BENCHMARKS.md

A bench is laid down before it runs: its arms, seeds, budget and analysis are code. Each cell is written as it ends,
and a bench that was stopped goes on after the last one. To add a bench: subclass `Bench` in `cluster/bench_NAME.py`
and add it to `BENCHES` in `cluster/benches.py`.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar, TextIO

from cluster.bench_child import Child
from cluster.bench_machine import commit, machine, versions
from cluster.statistics import median_interval
from swarm.errors import ConfigError

ROOT = Path(__file__).parent.parent
"""The checkout, where this package lies in one."""
RESULTS = Path("tests/bench/results")

Cell = Mapping[str, Any]
"""One measurement: JSON-able values that say what is measured, and with which seed. Equal cells are the same one."""


@dataclass(frozen=True, slots=True)
class Result:
    """A cell and what `run` found: JSON-able."""

    cell: Cell
    values: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Figure:
    """A number with its interval, and whether it is what the goal says."""

    name: str
    value: float | None
    """None where it cannot be measured here; `note` then says why."""
    low: float | None
    high: float | None
    goal: str = ""
    holds: bool | None = None
    """None without a goal or a value."""
    note: str = ""

    @classmethod
    def of(cls, name: str, samples: Sequence[float], goal: str = "", note: str = "") -> Figure:
        """The median of `samples` with its interval. `goal` is `<= 0.7` or `>= 2.5`, judged by the median."""
        value, low, high = median_interval(samples)
        return cls(name, value, low, high, goal, _holds(value, goal), note)

    @classmethod
    def missing(cls, name: str, goal: str, why: str) -> Figure:
        """One that this machine cannot measure."""
        return cls(name, None, None, None, goal, None, why)


def _holds(value: float, goal: str) -> bool | None:
    if not goal:
        return None
    relation, _, bound = goal.partition(" ")
    if relation not in ("<=", ">="):
        raise ValueError(f"goal {goal!r}: wanted `<= NUMBER` or `>= NUMBER`")
    return value <= float(bound) if relation == "<=" else value >= float(bound)


class Bench(ABC):
    """One bench. Its class must be cheap to import: what is heavy is imported inside `run`."""

    name: ClassVar[str]
    """`family/what`"""
    goal: ClassVar[str]
    """What it should show, in words."""
    wall: ClassVar[tuple[str, str]]
    """Expected wall time on two cores: whole, and `quick`."""
    apart: ClassVar[bool] = False
    """Whether each cell runs in a process of its own."""
    threads: ClassVar[int] = 2
    """Of that process, or of those that `run` starts itself."""

    @abstractmethod
    def cells(self, quick: bool) -> Sequence[Cell]:
        """What to measure, in this order: arms that are compared stand next to each other."""

    @abstractmethod
    def run(self, cell: Cell) -> Mapping[str, Any]:
        """Measure one cell."""

    @abstractmethod
    def figures(self, results: Sequence[Result]) -> list[Figure]:
        """The analysis, in the order of the report."""

    def plot(self, results: Sequence[Result], folder: Path) -> list[Path]:
        """PNG files, where a picture says more."""
        return []


def carry_out(bench: Bench, *, quick: bool, out: Path | None, fresh: bool, say: Callable[[str], None]) -> Path:
    """Run what is left of a bench, then write and say its figures; returns the result's file.

    Raises ConfigError where cells of another machine are there, or another process runs the same bench.
    """
    work = out or Path("runs/bench")
    target = _target(out, quick) / f"{bench.name}.json"
    cells = list(bench.cells(quick))
    say(f"{bench.name}: {bench.goal}")
    say(f"{len(cells)} cells, about {bench.wall[quick]} on two cores")
    path = work / f"{bench.name}{'.quick' if quick else ''}.cells.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    with _locked(path) as file:
        done = {} if fresh else _read(file, path)
        if fresh:
            file.truncate(0)
        for number, cell in enumerate(cells, 1):
            shown = ", ".join(f"{k} {v}" for k, v in cell.items())
            if _key(cell) in done:
                say(f"{number}/{len(cells)}  {shown}: there already")
                continue
            say(f"{number}/{len(cells)}  {shown} ...")
            done[_key(cell)] = record = _measure(bench, cell)
            file.write(json.dumps(record) + "\n")
            file.flush()
            os.fsync(file.fileno())
            say(f"{number}/{len(cells)}  {shown}: {record['seconds']:.0f} s, load {record['load']:.1f}")
        records = [done[_key(cell)] for cell in cells]
        results = [Result(r["cell"], r["values"]) for r in records]
        found = bench.figures(results)
        target.parent.mkdir(parents=True, exist_ok=True)
        plots = [p.name for p in bench.plot(results, target.parent)]
        target.write_text(json.dumps(_summary(bench, quick, found, records, plots), indent=1) + "\n")
        path.unlink()
    for figure in found:
        say(line(asdict(figure)))
    say(f"written to {target}")
    return target


def line(figure: Mapping[str, Any]) -> str:
    """A figure for people."""
    goal = f"  goal {figure['goal']}" if figure["goal"] else ""
    if figure["value"] is None:
        return f"{figure['name']}: not measured ({figure['note']}){goal}"
    holds = {None: "", True: ": holds", False: ": MISSED"}[figure["holds"]]
    note = f"  ({figure['note']})" if figure["note"] else ""
    return f"{figure['name']}: {figure['value']:.4g} ({figure['low']:.4g} to {figure['high']:.4g}){goal}{holds}{note}"


def _target(out: Path | None, quick: bool) -> Path:
    """Where results go: only whole runs in a checkout belong into the committed ones."""
    if out is not None:
        return out
    return ROOT / RESULTS if not quick and (ROOT / RESULTS).parent.is_dir() else Path("runs/bench")


def _measure(bench: Bench, cell: Cell) -> dict[str, Any]:
    load, began = os.getloadavg()[0], time.monotonic()
    if bench.apart:
        with Child("cluster.bench_child", bench.name, threads=bench.threads) as child:
            values: Mapping[str, Any] = child.ask(cell)
    else:
        values = bench.run(cell)
    seconds = round(time.monotonic() - began, 2)
    now = datetime.now(UTC).isoformat(timespec="seconds")
    about = {"at": now, "seconds": seconds, "load": round(load, 2), "commit": commit(ROOT)}
    return {"cell": dict(cell), "values": dict(values), **about, "machine": machine()}


def _summary(
    bench: Bench, quick: bool, found: Sequence[Figure], records: Sequence[Mapping[str, Any]], plots: Sequence[str]
) -> dict[str, Any]:
    loads = [r["load"] for r in records]
    return {
        "name": bench.name,
        "goal": bench.goal,
        "quick": quick,
        "date": max(r["at"] for r in records),
        "commits": sorted({r["commit"] for r in records}),
        "versions": versions(),
        "machine": records[0]["machine"],
        "threads": bench.threads,
        "load": {"least": min(loads), "largest": max(loads)},
        "seconds": round(sum(r["seconds"] for r in records), 1),
        "figures": [asdict(f) for f in found],
        "plots": list(plots),
        "cells": [{k: r[k] for k in ("cell", "values", "at", "seconds", "load", "commit")} for r in records],
    }


def _key(cell: Cell) -> str:
    return json.dumps(dict(cell), sort_keys=True)


@contextmanager
def _locked(path: Path) -> Any:
    file: TextIO
    with open(path, "a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise ConfigError(f"{path}: another process runs this bench; wait for it, or give --out") from None
        yield file


def _read(file: TextIO, path: Path) -> dict[str, dict[str, Any]]:
    """Finished cells; a line that a kill cut short is dropped."""
    file.seek(0)
    lines = file.read().splitlines(keepends=True)
    if lines and not lines[-1].endswith("\n"):
        file.truncate(len("".join(lines[:-1]).encode()))
        lines.pop()
    records = [json.loads(text) for text in lines]
    if other := next((r["machine"] for r in records if r["machine"] != machine()), None):
        raise ConfigError(f"{path}: has cells of another machine ({other['cpu']}); start anew with --fresh")
    return {_key(r["cell"]): r for r in records}
