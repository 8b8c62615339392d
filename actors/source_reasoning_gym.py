"""Questions from any reasoning-gym family (https://github.com/open-thought/reasoning-gym), made as they are needed.

An item is identified by (family, seed, size, index, config); a rewarder makes the same entry again from these, so
nothing of the answer has to travel. Epochs use different seeds, so that a family with many questions brings new ones.
Five families iterate over sets of strings, so their entries also depend on PYTHONHASHSEED; see
`rewarders.reasoning_gym`.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from actors.questions import Item, check_template, fill, keyed, make_id
from swarm.config import nearest
from swarm.errors import ConfigError
from swarm.types import Prompt

SIZE = 1_000_000
"""Items of one epoch's data set; every family makes them one by one, so a large number costs nothing."""


class ReasoningGym:
    """A procedural source. `family` is a reasoning-gym data set, `config` its settings; `template` wraps the question,
    with `{question}` where it goes. Raises ConfigError naming the nearest family or setting."""

    num_rows = None

    def __init__(
        self,
        *,
        seed: int,
        family: str,
        config: Mapping[str, Any] = {},
        template: str = "{question}",
    ) -> None:
        check_template(template)
        self.name, self._seed, self._template = family, seed, template
        self._config = _checked(family, config)
        self._identity = f"{family}/{json.dumps(self._config, sort_keys=True)}"
        self._epoch: int | None = None
        self._data = self._open(None)
        self.item(None, 0)

    def item(self, epoch: int | None, index: int) -> Item | None:
        """Item `index` of an epoch (None: the held-out walk, the same whatever the seed); None past the end."""
        if index >= SIZE:
            return None
        if epoch != self._epoch:
            self._data, self._epoch = self._open(epoch), epoch
        try:
            entry = self._data[index]
            question = str(entry["question"])
        except Exception as error:
            raise ConfigError(
                f"config = {self._config!r}: {self.name} cannot make item {index}: {type(error).__name__}: {error}"
            ) from error
        task = {
            "family": self.name,
            "seed": self._seed_of(epoch),
            "size": SIZE,
            "index": index,
            "config": self._config,
        }
        answer = entry.get("answer")
        answer = None if answer is None else str(answer)
        text = fill(self._template, question)
        return Item(question, Prompt(make_id(self._identity, question), text, answer, self.name, task))

    def _seed_of(self, epoch: int | None) -> int:
        """Families seed item i with seed + i, so seeds lie far apart and leave room below 2**31."""
        place = f"{self._identity}/{'held out' if epoch is None else f'{self._seed}/{epoch}'}"
        return keyed("epoch", place) % (2**31 - SIZE)

    def _open(self, epoch: int | None) -> Any:
        import reasoning_gym

        try:
            return reasoning_gym.create_dataset(self.name, seed=self._seed_of(epoch), size=SIZE, **self._config)
        except Exception as error:
            raise ConfigError(f"config = {self._config!r}: {self.name} refuses it: {error}") from error


def _checked(family: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """The config, as JSON would give it back, so that a regenerated entry sees the same values."""
    from reasoning_gym.factory import DATASETS

    if family not in DATASETS:
        raise ConfigError(f"family = {family!r}: no such reasoning-gym family{nearest(family, list(DATASETS))}")
    known = [f.name for f in dataclasses.fields(DATASETS[family][1]) if f.name not in ("seed", "size")]
    problems = [
        f"config.{key}: {family} has no such setting{nearest(key, known)}" for key in config if key not in known
    ]
    if problems:
        raise ConfigError(problems)
    try:
        return dict(json.loads(json.dumps(dict(config))))
    except (TypeError, ValueError) as error:
        raise ConfigError(f"config = {dict(config)!r}: wanted plain values: {error}") from None
