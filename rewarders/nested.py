"""Rewarders inside rewarders: how they are asked, closed and counted, and how their verdicts become one.

    { name = "gate", when = { name = "reasoning_gym" }, then = { name = "cascade", rule = ..., appeal = ... } }

A composition is a rewarder like any other: a class whose keyword-only parameters of type `Rewarder`,
`Sequence[Rewarder]` or `Mapping[str, Rewarder]` take rewarders (in a recipe: names or tables, built by
`rewarders.registry`, to any depth). It owns them. What one of them could not judge has no value in the composition
either: `failure` passes it on.

A rewarder may have a `way`: how a reward worker wants it to be asked instead of by its `judge` (through a backlog, a
stand-in and a store), wherever it stands.
"""

from __future__ import annotations

import asyncio
import inspect
import types
import typing
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

from rewarders.chat import BudgetSpent
from rewarders.killable import Killable
from rewarders.sandbox import Sandbox
from rewarders.verdicts import for_all, printable, unscored
from rewarders.version import present_version
from swarm.config import Spec
from swarm.options import keywords_of
from swarm.roles import Rewarder
from swarm.types import Group, Segment, Status, Verdict

FROM_WORST = (Status.ERROR, Status.TIMEOUT, Status.ABSTAINED)
"""A failure hides an abstention: an abstention of a whole group would take the rewarder out of the reward."""


class Nested:
    """Base of compositions. `timeout_s` is for each inner rewarder that does not limit itself, one group at a time."""

    def __init__(self, name: str, inner: Sequence[Rewarder], timeout_s: float) -> None:
        self.name = name
        self.inner = tuple(inner)
        self.about_truth = all(getattr(rewarder, "about_truth", True) for rewarder in inner)
        self._timeout_s = timeout_s

    def close(self) -> None:
        """Close the inner rewarders."""
        for rewarder in self.inner:
            rewarder.close()

    async def _ask(self, rewarder: Rewarder, group: Group) -> list[Verdict]:
        return await ask(rewarder, group, self._timeout_s)

    async def _ask_some(self, rewarder: Rewarder, group: Group, which: Sequence[int]) -> dict[int, Verdict]:
        """The verdicts of these rollouts, by their index; the rewarder does not see the others."""
        if not which:
            return {}
        some = replace(group, rollouts=tuple(group.rollouts[i] for i in which))
        return dict(zip(which, await self._ask(rewarder, some), strict=True))


async def ask(rewarder: Rewarder, group: Group, timeout_s: float) -> list[Verdict]:
    """As many verdicts as rollouts, under the rewarder's name and version, whatever it does. The limit, in seconds, is
    for rewarders that have none of their own."""
    limit = None if limits_itself(rewarder) else timeout_s
    judge: Callable[[Group], Awaitable[Sequence[Verdict]]] = getattr(rewarder, "way", rewarder.judge)
    try:
        version = present_version(rewarder)
        async with asyncio.timeout(limit) as clock:
            verdicts = list(await judge(group))
        verdicts = [replace(v, rewarder=rewarder.name, version=v.version or version) for v in verdicts]
    except BudgetSpent as error:
        return for_all(group, unscored(rewarder.name, Status.ABSTAINED, str(error)))
    except TimeoutError as error:
        cause = f"no answer within {limit} s" if clock.expired() else f"TimeoutError: {error}"
        return for_all(group, unscored(rewarder.name, Status.TIMEOUT, cause))
    except Exception as error:  # noqa: BLE001 - a rewarder's failure is a verdict
        return for_all(group, unscored(rewarder.name, Status.ERROR, f"{type(error).__name__}: {error}"))
    if len(verdicts) == len(group.rollouts):
        return verdicts
    cause = f"answered {len(verdicts)} verdicts for {len(group.rollouts)} rollouts"
    return for_all(group, unscored(rewarder.name, Status.ERROR, cause))


def asks_judge(kind: Any) -> bool:
    """Whether a rewarder of this class takes a `judge`."""
    return "judge" in inspect.signature(kind).parameters


def limits_itself(rewarder: Rewarder) -> bool:
    """Whether it applies a time limit itself, so that a starting child process costs nobody a verdict. A
    judge's section limits each of its requests."""
    return "timeout_s" in inspect.signature(type(rewarder)).parameters or asks_judge(type(rewarder))


def all_in(rewarder: Rewarder) -> Iterator[Rewarder]:
    """A rewarder and all inside it."""
    yield rewarder
    for inner in getattr(rewarder, "inner", ()):
        yield from all_in(inner)


def processes(rewarder: Rewarder) -> Iterator[Killable | Sandbox]:
    """What a rewarder, and those inside it, run in processes of their own."""
    for each in all_in(rewarder):
        for name in ("child", "sandbox"):
            if hasattr(each, name):
                yield getattr(each, name)


def failure(name: str, made_of: Mapping[str, Verdict]) -> Verdict | None:
    """The worst of these verdicts without a value, as a verdict of the composition; None where all have one."""
    for status in FROM_WORST:
        for place, verdict in made_of.items():
            if verdict.status is status:
                return _of(name, status, None, made_of, f"{place}: {verdict.cause}")
    return None


def composed(
    name: str,
    value: float,
    made_of: Mapping[str, Verdict],
    parts: Mapping[str, float] | None = None,
    cause: str = "",
    segments: tuple[Segment, ...] = (),
) -> Verdict:
    """A value, and in its parts what it was made of: `then`, and as `then.tests` what that was made of. The cause also
    says what gave no value, where the composition can do without."""
    without = [f"{place}: {v.status}: {v.cause}" for place, v in made_of.items() if v.value is None]
    made = _of(name, Status.SCORED, float(value), made_of, "; ".join([cause, *without] if cause else without))
    return replace(made, parts={**made.parts, **(parts or {})}, segments=segments)


def _of(name: str, status: Status, value: float | None, made_of: Mapping[str, Verdict], cause: str) -> Verdict:
    parts: dict[str, float] = {}
    waited = [v.waited_s for v in made_of.values() if value is None or v.value is not None]
    for place, verdict in made_of.items():
        if verdict.value is not None:
            parts[place] = verdict.value
        parts |= {f"{place}.{key}": part for key, part in verdict.parts.items()}
    return Verdict(
        name,
        status,
        value,
        printable(cause),
        seconds=sum(verdict.seconds for verdict in made_of.values()),
        parts=parts,
        waited_s=sum(waited),
    )


def places_of(kind: Callable[..., Any]) -> dict[str, Literal["one", "list", "table"]]:
    """The parameters of a part that take rewarders, and in what shape."""
    found = {name: _shape(annotation) for name, (annotation, _) in keywords_of(kind).items()}
    return {name: shape for name, shape in found.items() if shape}


def _shape(annotation: Any) -> Literal["one", "list", "table"] | None:
    if annotation is Rewarder:
        return "one"
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (typing.Union, types.UnionType):
        return next((shape for each in arguments if (shape := _shape(each))), None)
    if arguments and arguments[-1] is Rewarder:
        return "table" if issubclass(origin, Mapping) else "list"
    return None


def each(shape: str, value: Any, make: Callable[[str, Any], Any]) -> Any:
    """An option of this shape with `make(place, spec)` in the place of each rewarder's spec; `place` goes behind the
    option's name in messages. Raises ValueError where the value has another shape."""
    if shape == "one":
        return make("", value)
    if shape == "list" and isinstance(value, (list, tuple)):
        return [make(f".{i}", spec) for i, spec in enumerate(value)]
    if shape == "table" and isinstance(value, Mapping) and "name" not in value:
        return {key: make(f".{key}", spec) for key, spec in value.items()}
    wanted = "a list of rewarders" if shape == "list" else "a table that gives each key a rewarder"
    raise ValueError(f"wanted {wanted}, found {value!r}")


def spec_of(value: Any) -> Spec:
    """A rewarder's table as a Spec. Raises ValueError where it is none."""
    if isinstance(value, str) or (isinstance(value, Mapping) and isinstance(value.get("name"), str)):
        return Spec.model_validate(value)
    raise ValueError(f"wanted a rewarder (a name, or a table with a name), found {value!r}")
