"""The task stream: sources mixed by weight, in a seeded order that can be resumed, split by question content.

    sources -> items -> (training side? new in this epoch?) -> next()
                     -> (held-out side? new?)               -> held_out()

`actors.questions` says which side a question lies on. Every training question is asked once per epoch of its source:
repeats are skipped (small procedural families repeat often), and when a long stretch brings nothing new the source
begins its next epoch. `actors.selection` makes a prompt stream of it.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

from actors.questions import Item, digest, keyed, share_for
from actors.source_reasoning_gym import ReasoningGym
from actors.source_tables import Datasets, Jsonl, Parquet
from swarm.config import WeightedSpec
from swarm.errors import ConfigError
from swarm.scores import labels
from swarm.types import Prompt

BARREN = 2_000
"""Items in a row without a new question that end a walk through a procedural source: by then all but some 1/2000 of
the side's questions, as a share of all items, have been seen."""


class Source(Protocol):
    """Where questions come from: item `index` of an epoch, None past the end of it."""

    name: str
    """For messages, tables and `Prompt.source`."""
    num_rows: int | None
    """Distinct questions of a table; None where they are made as needed."""

    def item(self, epoch: int | None, index: int) -> Item | None:
        """The same item for the same arguments. Epoch None is an order of its own that the seed does not change: that
        of the held-out questions. `system` is filled in by the stream."""
        ...


SOURCES: dict[str, Callable[..., Any]] = {
    "reasoning_gym": ReasoningGym,
    "jsonl": Jsonl,
    "parquet": Parquet,
    "datasets": Datasets,
}


class _Walk:
    """Training questions of one source, each once per epoch."""

    def __init__(self, source: Source, limit: int) -> None:
        self.source, self._limit = source, limit
        self.epoch = self.index = 0
        self._seen: set[int] = set()

    def next(self) -> Prompt:
        """The next question that this epoch has not seen. Raises ConfigError where there is none at all."""
        barren = 0
        while True:
            ended = barren >= BARREN and self.source.num_rows is None  # a table is read to its end
            item = None if ended else self.source.item(self.epoch, self.index)
            if item is None:
                if not self._seen:
                    raise ConfigError(f"actors.tasks: {self.source.name}: no question to train on; give more data")
                self.epoch, self.index, barren = self.epoch + 1, 0, 0
                self._seen.clear()
                continue
            self.index += 1
            found = digest(item.question)
            if found < self._limit or found in self._seen:
                barren += 1
                continue
            self._seen.add(found)
            return item.prompt

    def state(self) -> dict[str, int]:
        return {"epoch": self.epoch, "index": self.index}

    def restore(self, state: Mapping[str, int]) -> None:
        """Go to a position; the questions before it in its epoch are read again, which keeps the state small."""
        self.epoch, self.index = int(state["epoch"]), int(state["index"])
        earlier = (self.source.item(self.epoch, i) for i in range(self.index))
        self._seen = {found for item in earlier if item and (found := digest(item.question)) >= self._limit}


class TaskStream:
    """All prompts of a recipe's sources, one after the other."""

    def __init__(self, tasks: Sequence[WeightedSpec], *, seed: int, system: str = "") -> None:
        """Opens every source. `system` is the system message of prompts that bring none. Raises ConfigError with the
        problems of all sources."""
        self._seed, self._system = seed, system
        self.weights = [task.weight for task in tasks]
        """Of the sources, in the recipe's order."""
        sources: list[Source] = []
        problems: list[str] = []
        for i, task in enumerate(tasks):
            try:
                sources.append(SOURCES[task.name](seed=keyed("source", f"{seed}/{i}"), **task.options))
            except ConfigError as error:
                problems += [f"actors.tasks.{i}: {problem}" for problem in error.problems]
        if problems:
            raise ConfigError(problems)
        self._limit = int(share_for([source.num_rows for source in sources]) * 2**64)
        self._walks = [_Walk(source, self._limit) for source in sources]
        self.names = labels([source.name for source in sources])
        """Of the sources, as `Prompt.source` has them: two of one family have different names."""
        self._drawn = 0
        self._held_out: list[Prompt] = []
        self._more_held_out = self._walk_held_out()

    def next(self, weights: Sequence[float] | None = None) -> Prompt:
        """The next training prompt. Which source gives draw n depends on the seed, n and the weights alone (by default
        the recipe's)."""
        which = pick(f"{self._seed}/{self._drawn}", weights or self.weights)
        prompt = self._walks[which].next()
        self._drawn += 1
        return self._finished(prompt, which)

    def held_out(self, num: int) -> list[Prompt]:
        """The first `num` distinct held-out questions, sources mixed by weight; the same whatever the seed."""
        self._held_out += itertools.islice(self._more_held_out, max(0, num - len(self._held_out)))
        return self._held_out[:num]

    def state(self) -> Mapping[str, Any]:
        """Draws so far, and each source's position."""
        return {"drawn": self._drawn, "names": list(self.names), "sources": [walk.state() for walk in self._walks]}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue after the draw that `state` was taken at. Raises ConfigError where it is of other sources."""
        if list(state["names"]) != self.names:
            raise ConfigError(
                f"the saved position is of the task sources {', '.join(state['names'])}, the recipe has "
                f"{', '.join(self.names)}; resume with the recipe that the run began with"
            )
        self._drawn = int(state["drawn"])
        for walk, position in zip(self._walks, state["sources"], strict=True):
            walk.restore(position)

    def _walk_held_out(self) -> Iterator[Prompt]:
        streams = [(i, distinct(walk.source, 0, self._limit)) for i, walk in enumerate(self._walks)]
        weights = list(self.weights)
        seen: set[int] = set()
        for draw in itertools.count():
            if not streams:
                return
            which = pick(f"held out/{draw}", weights)
            source, items = streams[which]
            item = next(items, None)
            if item is None:
                del streams[which], weights[which]
            elif digest(item.question) not in seen:
                seen.add(digest(item.question))
                yield self._finished(item.prompt, source)

    def _finished(self, prompt: Prompt, which: int) -> Prompt:
        return replace(prompt, source=self.names[which], system=prompt.system or self._system)


def distinct(source: Source, low: int = 0, high: int = 2**64) -> Iterator[Item]:
    """Distinct questions whose digest is in [low, high), in the held-out order, until a long stretch has no new one."""
    seen: set[int] = set()
    index = barren = 0
    while barren < BARREN and (item := source.item(None, index)) is not None:
        index += 1
        found = digest(item.question)
        if found in seen or not low <= found < high:
            barren += source.num_rows is None
            continue
        seen.add(found)
        barren = 0
        yield item


def count_distinct(task: WeightedSpec, at_least: int) -> int:
    """How many distinct questions a task has on both sides, counted up to `at_least`."""
    return sum(1 for _ in itertools.islice(distinct(SOURCES[task.name](seed=0, **task.options)), at_least))


def pick(place: str, weights: Sequence[float]) -> int:
    """An index by weight, from a hash of `place`."""
    point = keyed("mixture", place) / 2**64 * sum(weights)
    for i, total in enumerate(itertools.accumulate(weights)):
        if point < total:
            return i
    return len(weights) - 1
