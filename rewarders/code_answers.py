"""What a program answers, as `child_sandbox.encoded` writes it, against what was expected.

An answer is hostile JSON. It is compared along the expected value, which is ours: nothing is built from it but single
numbers, texts and tuples, so that it can neither run anything nor make a set of colliding numbers take hours. Equality
is Python's between plain data (1 == 1.0 == True, a list is no tuple); no class of the program's takes part in it. Where
anything but equality is asked, a number that is not finite fails.
"""

from __future__ import annotations

import json
import math
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

KINDS: Mapping[type, str] = {list: "list", tuple: "tuple", set: "set", frozenset: "frozenset", dict: "dict"}


class Malformed(ValueError):
    """The answer is not what `child_sandbox.encoded` writes."""


class Check(Protocol):
    """What an answer has to be."""

    def holds(self, answer: Any) -> bool:
        """Whether it is. Raises Malformed."""
        ...


def read_answers(data: bytes, num: int) -> list[Any]:
    """The `num` answers of one run. Raises Malformed."""
    if not data:
        raise Malformed("it ended before it answered")
    try:
        found = json.loads(data, object_pairs_hook=_no_objects)
    except (ValueError, RecursionError) as error:
        raise Malformed("its answer is malformed") from error
    match found:
        case ["tuple", [*answers]] if len(answers) == num:
            return answers
    raise Malformed("its answer is malformed")


def _no_objects(_: Any) -> Any:
    raise ValueError("an object")


@dataclass(frozen=True, slots=True)
class Equal:
    """`answer == wanted`; with `negate` the contrary; `lists_alike` forgives a tuple for a list (JSON has none)."""

    wanted: Any
    negate: bool = False
    lists_alike: bool = False

    def holds(self, answer: Any) -> bool:
        """Whether it is."""
        if self.negate:
            return not same(answer, self.wanted) and is_finite(answer)
        return same(answer, self.wanted, self.lists_alike)


@dataclass(frozen=True, slots=True)
class Same:
    """`answer is wanted`, which is None, True or False; with `negate` the contrary."""

    wanted: bool | None
    negate: bool = False

    def holds(self, answer: Any) -> bool:
        """Whether it is."""
        return (answer is self.wanted) != self.negate


@dataclass(frozen=True, slots=True)
class Ordered:
    """`answer < wanted` and the like, between two finite real numbers or two texts."""

    relation: Callable[[Any, Any], bool]
    wanted: Any

    def holds(self, answer: Any) -> bool:
        """Whether it is."""
        found = scalar(answer)
        if isinstance(found, str) and isinstance(self.wanted, str):
            return bool(self.relation(found, self.wanted))
        return is_real(found) and is_real(self.wanted) and bool(self.relation(found, self.wanted))


@dataclass(frozen=True, slots=True)
class Among:
    """`answer in wanted`."""

    wanted: Any

    def holds(self, answer: Any) -> bool:
        """Whether it is."""
        if isinstance(self.wanted, str):
            return isinstance(answer, str) and answer in self.wanted
        return any(same(answer, item) for item in self.wanted)


@dataclass(frozen=True, slots=True)
class Holds:
    """`wanted in answer`."""

    wanted: Any

    def holds(self, answer: Any) -> bool:
        """Whether it is."""
        if isinstance(answer, str):
            return isinstance(self.wanted, str) and self.wanted in answer
        match answer:
            case ["list" | "tuple" | "set" | "frozenset", [*items]]:
                return any(same(item, self.wanted) for item in items)
            case ["dict", [*items]]:
                return any(same(key, self.wanted) for key, _ in map(_pair, items))
        return False


@dataclass(frozen=True, slots=True)
class Near:
    """`abs(answer - wanted) < within` (or `<=`), or `math.isclose` with its two tolerances."""

    wanted: float
    within: float | None = None
    closed: bool = False
    rel_tol: float = 1e-9
    abs_tol: float = 0.0

    def holds(self, answer: Any) -> bool:
        """Whether it is."""
        found = scalar(answer)
        if not is_real(found):
            return False
        try:
            if self.within is None:
                return math.isclose(found, self.wanted, rel_tol=self.rel_tol, abs_tol=self.abs_tol)
            apart = abs(found - self.wanted)
        except OverflowError:
            return False
        return bool(operator.le(apart, self.within) if self.closed else operator.lt(apart, self.within))


def same(answer: Any, wanted: Any, lists_alike: bool = False) -> bool:
    """Whether an answer equals an expected value. Raises Malformed."""
    kind = KINDS.get(type(wanted))
    if kind is None:
        found = scalar(answer)
        return found is not NOT_SCALAR and bool(found == wanted)
    match answer:
        case [str(said), [*items]] if said == kind or (lists_alike and {said, kind} <= {"list", "tuple"}):
            pass
        case ["set" | "frozenset", [*items]] if kind in ("set", "frozenset"):
            pass
        case _:
            return False
    if len(items) != len(wanted):
        return False
    if isinstance(wanted, (list, tuple)):
        return all(same(item, each, lists_alike) for item, each in zip(items, wanted, strict=True))
    if isinstance(wanted, dict):
        return _same_items(items, dict(wanted), lists_alike)
    rest = set(wanted)
    for item in items:
        key = hashable(item)
        if key not in rest:
            return False
        rest.discard(key)
    return True


def _same_items(items: list[Any], rest: dict[Any, Any], lists_alike: bool) -> bool:
    for raw_key, item in map(_pair, items):
        key = hashable(raw_key)
        if key not in rest or not same(item, rest.pop(key), lists_alike):
            return False
    return True


def _pair(item: Any) -> tuple[Any, Any]:
    if not isinstance(item, list) or len(item) != 2:
        raise Malformed("its answer is malformed")
    return item[0], item[1]


class _NotScalar:
    """Equal to nothing."""


NOT_SCALAR = _NotScalar()


def scalar(answer: Any) -> Any:
    """None, bool, number, text or bytes; NOT_SCALAR for anything else. Raises Malformed."""
    if not isinstance(answer, list):
        return answer
    try:
        match answer:
            case ["int", str(digits)]:
                return int(digits, 16)
            case ["float", "inf" | "-inf" | "nan" as text]:
                return float(text)
            case ["bytes", str(digits)]:
                return bytes.fromhex(digits)
            case ["complex", [real, imaginary]]:
                return complex(scalar(real), scalar(imaginary))
            case [str(kind), [*_]] if kind in KINDS.values():
                return NOT_SCALAR
    except (ValueError, TypeError, OverflowError) as error:
        raise Malformed("its answer is malformed") from error
    raise Malformed("its answer is malformed")


def hashable(answer: Any) -> Any:
    """A scalar or a tuple of these, to be looked up; NOT_SCALAR for anything else. Raises Malformed."""
    match answer:
        case ["tuple", [*items]]:
            return tuple(hashable(item) for item in items)
    return scalar(answer)


def is_real(value: Any) -> bool:
    """Whether it is a finite real number."""
    if isinstance(value, float):
        return math.isfinite(value)
    return isinstance(value, int)


def is_finite(answer: Any) -> bool:
    """Whether no number in an answer is infinite or none."""
    match answer:
        case ["float", _]:
            return False
        case [str(_), [*items]]:
            return all(is_finite(item) for item in items)
        case [str(_), str(_)]:
            return True
        case [*items]:
            return all(is_finite(item) for item in items)
    return not isinstance(answer, float) or math.isfinite(answer)


ORDERS: Mapping[str, Callable[[Any, Any], bool]] = {
    "Lt": operator.lt,
    "LtE": operator.le,
    "Gt": operator.gt,
    "GtE": operator.ge,
}
