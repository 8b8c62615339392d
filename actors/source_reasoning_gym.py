"""Questions from any reasoning-gym family, made as they are needed.

An item is identified by (family, seed, size, index, config); a rewarder makes the same entry again from these, so
nothing of the answer has to travel. Epochs use different seeds, so that a family with many questions brings new ones.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from typing import Any

from swarm.config import nearest
from swarm.errors import ConfigError
from swarm.types import Prompt

SIZE = 1_000_000
"""Items of one epoch's data set; they are made one by one, so a large number costs nothing."""


class ReasoningGym:
    """A procedural source. `family` is a reasoning-gym data set, `config` its settings; `template` wraps the question,
    with `{question}` where it goes."""

    def __init__(
        self, *, seed: int, family: str, config: Mapping[str, Any] = {}, template: str = "{question}"  # noqa: B006
    ) -> None:
        self.name = family
        self._seed, self._family, self._config = seed, family, dict(config)
        if "{question}" not in template:
            raise ConfigError(f"template = {template!r}: wanted a text with {{question}} in it")
        self._template = template
        self._epoch, self._data = -1, None
        self._open(0)

    def item(self, epoch: int, index: int) -> Prompt | None:
        """Item `index` of an epoch, None past the end."""
        if index >= SIZE:
            return None
        if epoch != self._epoch:
            self._open(epoch)
        assert self._data is not None
        entry = self._data[index]
        text = self._template.replace("{question}", entry["question"])
        answer = entry.get("answer")
        identity = hashlib.blake2b(f"{self._family}/{text}".encode(), digest_size=12).hexdigest()
        task = {
            "family": self._family,
            "seed": self._seed_of(epoch),
            "size": SIZE,
            "index": index,
            "config": self._config,
        }
        return Prompt(identity, text, None if answer is None else str(answer), self._family, task)

    def _seed_of(self, epoch: int) -> int:
        return (self._seed * 1_000 + epoch) * 2 * SIZE % 2**31

    def _open(self, epoch: int) -> None:
        import reasoning_gym
        from reasoning_gym.factory import DATASETS

        if self._family not in DATASETS:
            raise ConfigError(f"family = {self._family!r}: no such reasoning-gym family{nearest(self._family, list(DATASETS))}")
        known = {f.name for f in dataclasses.fields(DATASETS[self._family][1])} - {"seed", "size"}
        unknown = [key for key in self._config if key not in known]
        if unknown:
            raise ConfigError([f"config.{key}: {self._family} has no such setting{nearest(key, list(known))}" for key in unknown])
        try:
            self._data = reasoning_gym.create_dataset(self._family, seed=self._seed_of(epoch), size=SIZE, **self._config)
        except (AssertionError, ValueError, TypeError) as error:
            raise ConfigError(f"config = {self._config!r}: {self._family} refuses it: {error}") from None
        self._epoch = epoch
