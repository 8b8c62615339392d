"""Several rewarders as one: `{ name = "weighted", of = [{ ... }, { ... }], weights = [1.0, 0.5] }`."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from rewarders.nested import Nested, composed, failure
from swarm.config import Positive
from swarm.roles import Rewarder
from swarm.scores import labels, rewards
from swarm.types import Group, Verdict


class Weighted(Nested):
    """A vector: the parts hold every rewarder's value under its name. With `weights` the value is their weighted sum,
    by the rules of `rewarders.use`; without, nothing is merged and the value is that of the first.

    As there, a rewarder that abstains on the whole group (a judge that is behind does) is left out of the sum. Any
    other verdict without a value is passed on; without `weights` only the first one's, and a part is missing where its
    rewarder gave none.
    """

    def __init__(
        self, *, of: Sequence[Rewarder], weights: Sequence[float] | None = None, timeout_s: Positive = 10.0
    ) -> None:
        if found := self.problems({"of": of, "weights": weights}):
            raise ValueError("; ".join(found))
        super().__init__("weighted", of, timeout_s)
        self._labels = labels([rewarder.name for rewarder in of])
        self._weights = dict(zip(self._labels, weights, strict=True)) if weights is not None else None

    @staticmethod
    def problems(options: Mapping[str, Any]) -> list[str]:
        """What is wrong with these options."""
        of, weights = options["of"], options.get("weights")
        if not of:
            return ["of = []: wanted at least one rewarder"]
        if weights is not None and len(weights) != len(of):
            return [f"weights = {list(weights)}: wanted {len(of)}, one per rewarder in `of`"]
        return []

    async def judge(self, group: Group) -> list[Verdict]:
        """One verdict per rollout, in order."""
        columns = await asyncio.gather(*(self._ask(rewarder, group) for rewarder in self.inner))
        rows = [dict(zip(self._labels, row, strict=True)) for row in zip(*columns, strict=True)]
        if self._weights is None:
            return [self._first(row) for row in rows]
        named = [[_named(verdict, label) for label, verdict in row.items()] for row in rows]
        return [
            composed(self.name, value, row) if value is not None else self._none(row)
            for row, value in zip(rows, rewards(named, self._weights), strict=True)
        ]

    def _first(self, row: dict[str, Verdict]) -> Verdict:
        head = row[self._labels[0]]
        if head.value is None:
            return self._none({self._labels[0]: head})
        return composed(self.name, head.value, row, cause=head.cause, segments=head.segments)

    def _none(self, row: dict[str, Verdict]) -> Verdict:
        found = failure(self.name, row)
        assert found is not None
        return found


def _named(verdict: Verdict, label: str) -> Verdict:
    return replace(verdict, rewarder=label)
