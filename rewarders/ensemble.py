"""Several scorers of one thing as one:

{ name = "ensemble", of = [{ name = "reward_model", path = "a" }, { name = "reward_model", path = "b" }], how = "min" }
"""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import numpy as np
from pydantic import Field

from rewarders.curves import How, error_correlations, merged, surely_above
from rewarders.nested import Nested, composed, failure
from swarm.config import NotNegative, Positive
from swarm.roles import Rewarder
from swarm.scores import labels
from swarm.types import Group, Verdict

WINDOW = 512
"""Newest answers with a known truth, over which errors are compared."""
LEAST = 32
"""Of them, before anything is said."""


class Ensemble(Nested):
    """The mean, median, minimum (`min`), or mean minus `penalty` times the variance (`uncertain`) of the values of its
    members, which must be on one scale. Where one gives no value there is none.

    Members of one family (the same model or `family`, see `family_of`) err together, and no merging helps against what
    all share: `independent = true` claims that there are no two, and is refused where that is plain from the recipe.
    With `truth`, a rewarder that is sure where it answers, the members' errors are compared as well: once the
    correlation of two is surely above `alarm` the cause of each verdict says so, and they count as one family.
    Parts: the members' values under their names, `variance`, `families`, `truth`, and `correlation` (the largest).
    Source: arXiv 2310.02743, 2312.09244.
    """

    def __init__(
        self,
        *,
        of: Sequence[Rewarder],
        how: How = "mean",
        penalty: NotNegative = 0.5,
        independent: bool = False,
        truth: Rewarder | None = None,
        alarm: Annotated[float, Field(gt=0, lt=1)] = 0.3,
        timeout_s: Positive = 10.0,
    ) -> None:
        if not of:
            raise ValueError("of = []: wanted at least one rewarder")
        if how not in ("mean", "median", "min", "uncertain"):
            raise ValueError(f"how = {how!r}: wanted mean, median, min or uncertain")
        self._families = [family_of(member) or f"member {i}" for i, member in enumerate(of)]
        if independent and (twins := _twins(self._families)):
            raise ValueError(f"independent = true: {_same(*twins, self._families[twins[1]])}")
        super().__init__("ensemble", [*of, *([truth] if truth else [])], timeout_s)
        self._members, self._truth = list(of), truth
        self._labels = labels([member.name for member in of])
        self._how: How = how
        self._penalty, self._alarm = penalty, alarm
        self._seen: deque[tuple[list[float], float]] = deque(maxlen=WINDOW)

    @staticmethod
    def problems(options: Mapping[str, Any]) -> list[str]:
        """What is wrong with these options of a recipe."""
        if not options["of"]:
            return ["of = []: wanted at least one rewarder"]
        families = [_family_in(table) or f"member {i}" for i, table in enumerate(options["of"])]
        twins = _twins(families)
        return [f"of.{twins[1]}: {_same(*twins, families[twins[1]])}"] if options.get("independent") and twins else []

    async def judge(self, group: Group) -> list[Verdict]:
        """One verdict per rollout, in order."""
        columns = await asyncio.gather(*(self._ask(rewarder, group) for rewarder in self.inner))
        rows = list(zip(*columns, strict=True))
        num, found = len(self._members), []
        for row in rows:
            values = [verdict.value for verdict in row[:num] if verdict.value is not None]
            if self._truth and len(values) == num and row[-1].value is not None:
                self._seen.append((values, row[-1].value))
        together = self._together()
        for row in rows:
            truth = row[-1] if self._truth else None
            found.append(self._verdict(dict(zip(self._labels, row, strict=False)), truth, together))
        return found

    def _verdict(
        self, row: dict[str, Verdict], truth: Verdict | None, together: tuple[float, list[tuple[int, int]]] | None
    ) -> Verdict:
        if bad := failure(self.name, row):
            return bad
        values = np.array([[verdict.value] for verdict in row.values()], np.float64)
        parts = {"variance": float(values.var()), "families": float(len(set(self._families)))}
        cause = ""
        if truth is not None and truth.value is not None:
            parts["truth"] = truth.value
        if together:
            parts["correlation"], pairs = together
            if pairs:
                a, b = (self._labels[i] for i in pairs[0])
                cause = f"not independent: errors of {a} and {b} correlate by {together[0]:.2f} over {len(self._seen)}"
                parts["families"] = float(len(self._joined(pairs)))
        return composed(self.name, float(merged(values, self._how, self._penalty)[0]), row, parts, cause)

    def _together(self) -> tuple[float, list[tuple[int, int]]] | None:
        """The largest correlation of two members' errors, and all pairs whose is surely too large, the worst first."""
        if len(self._seen) < LEAST or len(self._members) < 2:
            return None
        scores, truth = zip(*self._seen, strict=True)
        found = error_correlations(np.array(scores).T, truth)
        ranked = sorted(
            ((float(found[i, j]), (i, j)) for i, j in itertools.combinations(range(len(found)), 2)), reverse=True
        )
        pairs = [pair for value, pair in ranked if surely_above(value, len(self._seen)) > self._alarm]
        return ranked[0][0], pairs

    def _joined(self, pairs: Sequence[tuple[int, int]]) -> set[str]:
        """The families that are left where both of each pair are one."""
        families = list(self._families)
        for i, j in pairs:
            families = [families[i] if family == families[j] else family for family in families]
        return set(families)


def family_of(rewarder: Rewarder) -> str:
    """What a rewarder's errors come from, where it says so: its model, or that of what it wraps; else empty."""
    own = str(getattr(rewarder, "family", ""))
    return own or "+".join(sorted({found for inner in getattr(rewarder, "inner", ()) if (found := family_of(inner))}))


def _family_in(table: Any) -> str:
    """The same from a recipe's table, before anything is made."""
    if not isinstance(table, Mapping):
        return ""
    own = next((str(table[key]) for key in ("family", "path", "judge") if isinstance(table.get(key), str)), "")
    inner = [each for value in table.values() for each in (value if isinstance(value, list) else [value])]
    return own or "+".join(sorted({found for each in inner if (found := _family_in(each))}))


def _twins(families: Sequence[str]) -> tuple[int, int] | None:
    """The first two members of one family."""
    for i, family in enumerate(families):
        if family in families[:i]:
            return families.index(family), i
    return None


def _same(first: int, second: int, family: str) -> str:
    return (
        f"members {first} and {second} are one family ({family}), and err together; leave out independent = true, or "
        "give one of them another model"
    )
