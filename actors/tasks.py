"""The prompt stream: sources mixed by weight, in a seeded order that can be resumed, split by question content.

A question is held out when a keyed hash of its text falls under `HELD_OUT_SHARE`. The split therefore depends on the
question alone: not on seed, order or source, and the same question never lies on both sides.

Every question is asked once per epoch of its source: repeats are skipped (small procedural families repeat often),
and when a long stretch brings nothing new the source begins its next epoch.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

from actors.source_reasoning_gym import ReasoningGym
from actors.source_tables import Datasets, Jsonl, Parquet
from swarm.config import WeightedSpec
from swarm.errors import ConfigError
from swarm.types import Prompt

HELD_OUT_SHARE = 0.1
"""Share of all distinct questions that is kept for evaluation."""

BARREN = 2_000
"""Items in a row without a new training question that end a procedural source's epoch."""

class Source(Protocol):
    """Where questions come from: item `index` of an epoch, None past the end of it."""

    name: str

    def item(self, epoch: int, index: int) -> Prompt | None:
        """The same prompt for the same arguments; `system` is filled in by the stream."""
        ...


SOURCES: dict[str, Callable[..., Any]] = {
    "reasoning_gym": ReasoningGym,
    "jsonl": Jsonl,
    "parquet": Parquet,
    "datasets": Datasets,
}


def is_held_out(text: str) -> bool:
    """Whether a question belongs to the held-out side; white space at its ends and its runs do not matter."""
    return int.from_bytes(_digest(text), "big") < HELD_OUT_SHARE * 2**64


class _Walk:
    """Training questions of one source, each once per epoch."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.epoch = 0
        self.index = 0
        self._seen: set[bytes] = set()

    def next(self) -> Prompt:
        """The next question that this epoch has not seen. Raises ConfigError where there is none at all."""
        barren = 0
        while True:
            prompt = self.source.item(self.epoch, self.index) if barren < BARREN else None
            if prompt is None:
                if not self._seen:
                    raise ConfigError(f"actors.tasks: {self.source.name} has no training question; give more data")
                self.epoch, self.index, barren = self.epoch + 1, 0, 0
                self._seen.clear()
                continue
            self.index += 1
            key = _digest(prompt.text)
            if key in self._seen or is_held_out(prompt.text):
                barren += 1
                continue
            self._seen.add(key)
            return prompt

    def state(self) -> dict[str, int]:
        return {"epoch": self.epoch, "index": self.index}

    def restore(self, state: Mapping[str, int]) -> None:
        """Go to a position; the questions seen before it in its epoch are read again."""
        self.epoch, self.index = state["epoch"], state["index"]
        earlier = (self.source.item(self.epoch, i) for i in range(self.index))
        self._seen = {_digest(p.text) for p in earlier if p is not None and not is_held_out(p.text)}


class TaskStream:
    """`swarm.roles.PromptStream` over the sources of a recipe."""

    def __init__(self, tasks: Sequence[WeightedSpec], *, seed: int, system: str = "") -> None:
        self._seed, self._system = seed, system
        self._weights = [task.weight for task in tasks]
        sources = []
        for i, task in enumerate(tasks):
            try:
                sources.append(SOURCES[task.name](seed=seed, **task.options))
            except ConfigError as error:
                raise ConfigError([f"actors.tasks.{i}: {problem}" for problem in error.problems]) from None
        self._walks = [_Walk(source) for source in sources]
        self._drawn = 0

    def next(self) -> Prompt:
        """The next training prompt. Which source gives draw n depends on seed and n alone."""
        number = random.Random(f"{self._seed}/{self._drawn}")
        walk = number.choices(self._walks, self._weights)[0]
        self._drawn += 1
        return self._finished(walk.next())

    def held_out(self, num: int) -> list[Prompt]:
        """The first `num` distinct held-out questions, sources in turn by weight."""
        streams = [_held_out_of(walk.source) for walk in self._walks]
        weights = list(self._weights)
        number = random.Random(f"{self._seed}/held out")
        found: dict[bytes, Prompt] = {}
        while streams and len(found) < num:
            which = number.choices(range(len(streams)), weights)[0]
            prompt = next(streams[which], None)
            if prompt is None:
                del streams[which], weights[which]
            else:
                found.setdefault(_digest(prompt.text), self._finished(prompt))
        return list(found.values())

    def state(self) -> Mapping[str, Any]:
        """Draws so far, and each source's position."""
        return {"drawn": self._drawn, "sources": [walk.state() for walk in self._walks]}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue after the draw that `state` was taken at. Raises ConfigError where it is of other sources."""
        if len(state["sources"]) != len(self._walks):
            raise ConfigError(
                f"the saved position has {len(state['sources'])} task sources, the recipe {len(self._walks)}; "
                "resume with the recipe that the run began with"
            )
        self._drawn = state["drawn"]
        for walk, position in zip(self._walks, state["sources"], strict=True):
            walk.restore(position)

    def _finished(self, prompt: Prompt) -> Prompt:
        return replace(prompt, system=self._system) if self._system and not prompt.system else prompt


def _held_out_of(source: Source) -> Iterator[Prompt]:
    """Distinct held-out questions of the first epoch; ends with the data, or after a long stretch without a new one."""
    seen: set[bytes] = set()
    index = barren = 0
    while barren < BARREN * 10 and (prompt := source.item(0, index)) is not None:
        index += 1
        key = _digest(prompt.text)
        if key in seen or not is_held_out(prompt.text):
            barren += 1
            continue
        seen.add(key)
        barren = 0
        yield prompt


def _digest(text: str) -> bytes:
    return hashlib.blake2b(" ".join(text.split()).encode(), digest_size=8, key=b"swarm held-out split").digest()
