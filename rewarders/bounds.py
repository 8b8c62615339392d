"""Between what values a rewarder's verdicts lie, as far as its table in a recipe tells; without loading anything."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from rewarders.nested import spec_of
from swarm.config import Spec

Bounds = tuple[float, float]
USUAL: Bounds = (0.0, 1.0)
ANY: Bounds = (-math.inf, math.inf)


def bounds(spec: Spec) -> Bounds:
    """The least and the largest value. [0, 1], as is the convention, where a rewarder says nothing else: a `function`,
    whose values nobody knows before it ran, and a table that is not well-formed (`cluster.check` names that)."""
    options = spec.options
    match spec.name:
        case "truth":
            return -1.0, 1.0
        case "lsc":
            return -math.inf, 0.0
        case "reward_model":
            return USUAL if options.get("probability") else ANY
        case "gate":
            return _hull([(0.0, 0.0), _inside(options.get("then"))])
        case "guard":
            return _hull([(0.0, 0.0), _inside(options.get("of"))])
        case "route":
            return _hull([_inside(each) for each in [*_values(options.get("to")), options.get("otherwise")] if each])
        case "cascade":
            decides = ("rule", "appeal") if options.get("replaces") else ("rule",)
            return _hull([_inside(options.get(key)) for key in decides])
        case "weighted":
            return _weighted(_values(options.get("of")), options.get("weights"))
        case "ensemble":
            return _ensemble(_hull([_inside(each) for each in _values(options.get("of"))]), options)
    return USUAL


def total(specs: Sequence[tuple[Spec, float]]) -> Bounds:
    """Of the sum of rewarders times their weights. One that has nothing to say of a prompt is left out, so 0 is
    possible for each."""
    return _sum([(bounds(spec), weight) for spec, weight in specs])


def above_zero(key: str, value: Any, instead: str) -> list[str]:
    """The problem with a rewarder in the place `key` where some answers get 0 without being shown to it, and that would
    be more than it may give; `instead` is the mend."""
    low, high = _inside(value)
    if low >= 0:
        return []
    name = spec_of(value).name
    return [
        f"{key}: {name} gives {low:g} to {high:g}, so answers kept from it (0) would be paid above its worst; {instead}"
    ]


def _weighted(of: list[Any], weights: Any) -> Bounds:
    if weights is None:
        return _inside(of[0]) if of else USUAL
    return _sum([(_inside(each), float(weight)) for each, weight in zip(of, _values(weights), strict=False)])


def _sum(pairs: Sequence[tuple[Bounds, float]]) -> Bounds:
    scaled = [_hull([(0.0, 0.0), _scaled(found, weight)]) for found, weight in pairs]
    return sum(low for low, _ in scaled), sum(high for _, high in scaled)


def _ensemble(members: Bounds, options: Mapping[str, Any]) -> Bounds:
    low, high = members
    if options.get("how") != "uncertain":
        return members
    return low - float(options.get("penalty", 0.5)) * (high - low) ** 2 / 4, high  # the largest variance there is


def _inside(value: Any) -> Bounds:
    try:
        return bounds(spec_of(value))
    except (ValueError, TypeError, AttributeError):
        return USUAL


def _values(found: Any) -> list[Any]:
    if isinstance(found, Mapping):
        return list(found.values())
    return list(found) if isinstance(found, (list, tuple)) else []


def _scaled(found: Bounds, weight: float) -> Bounds:
    ends = [0.0 if weight == 0 else weight * end for end in found]
    return min(ends), max(ends)


def _hull(found: Sequence[Bounds]) -> Bounds:
    if not found:
        return USUAL
    return min(low for low, _ in found), max(high for _, high in found)
