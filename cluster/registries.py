"""All parts that a recipe can name, by kind, and the check of a Spec's options against a part's signature.

The registries themselves live with their parts; importing them loads nothing heavy, so a recipe is checked at once.
"""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any

from pydantic import ConfigDict, TypeAdapter, ValidationError

from actors.engines import ENGINES
from actors.selection import SELECTIONS
from actors.tasks import SOURCES
from learners.advantages import ADVANTAGES
from learners.corrections import CORRECTIONS
from learners.losses import LOSSES
from learners.truncation import TRUNCATIONS
from rewarders.chat import ChatModel
from rewarders.registry import REWARDERS
from swarm.config import RunConfig, Spec, nearest

Registry = Mapping[str, Callable[..., Any]]


GIVEN: Mapping[int, frozenset[str]] = {
    id(ENGINES): frozenset({"dtype", "max_context", "seed", "version"}),
    id(SOURCES): frozenset({"seed"}),
    id(SELECTIONS): frozenset({"seed", "groups_per_step", "group_size"}),
}
"""Keyword parameters that the program passes to the parts of a registry; they are not options."""


def specs_of(config: RunConfig) -> list[tuple[str, Spec, Registry]]:
    """Every Spec of a recipe: its key, itself, and the registry that it must be in."""
    found: list[tuple[str, Spec, Registry]] = [("actors.engine", config.actors.engine, ENGINES)]
    found += [("actors.select", config.actors.select, SELECTIONS)]
    found += [(f"actors.tasks.{i}", spec, SOURCES) for i, spec in enumerate(config.actors.tasks)]
    found += [(f"rewarders.use.{i}", spec, REWARDERS) for i, spec in enumerate(config.rewarders.use)]
    found += [(f"rewarders.judges.{i}.engine", j.engine, ENGINES) for i, j in enumerate(config.rewarders.judges)]
    s = config.learners
    found += [("learners.loss", s.loss, LOSSES), ("learners.advantage", s.advantage, ADVANTAGES)]
    found += [("learners.correction", s.correction, CORRECTIONS), ("learners.truncation", s.truncation, TRUNCATIONS)]
    return found


def problems_of(key: str, spec: Spec, registry: Registry) -> list[str]:
    """What is wrong with one Spec: unknown name, unknown option, missing option, wrong type."""
    part = registry.get(spec.name)
    if part is None:
        return [f'{key}.name = "{spec.name}": no such part{nearest(spec.name, list(registry))}']
    options = options_of(part, GIVEN.get(id(registry), frozenset()))
    problems = []
    for name, value in spec.options.items():
        if name not in options:
            problems.append(f"{key}.{name}: unknown option of {spec.name}{nearest(name, list(options))}")
            continue
        try:
            TypeAdapter(options[name][0], config=ConfigDict(strict=True)).validate_python(value)
        except ValidationError as error:
            problems.append(f"{key}.{name} = {value!r}: {error.errors()[0]['msg']}")
    for name, (_, required) in options.items():
        if required and name not in spec.options:
            problems.append(f"{key}.{name}: missing; {spec.name} needs it")
    return problems


def options_of(part: Callable[..., Any], given: frozenset[str]) -> dict[str, tuple[Any, bool]]:
    """Keyword-only parameters of a part: name -> (type, whether it must be given)."""
    function = part.__init__ if inspect.isclass(part) else part
    return {
        p.name: (_resolved(p, function), p.default is inspect.Parameter.empty)
        for p in inspect.signature(function).parameters.values()
        if p.kind is inspect.Parameter.KEYWORD_ONLY and p.name not in given
    }


def _resolved(parameter: inspect.Parameter, function: Callable[..., Any]) -> Any:
    """The annotation as a type; Any where it names something that is only there for type checkers. A judge is an object
    to the part, and its name to the recipe."""
    holder = SimpleNamespace(__annotations__={parameter.name: parameter.annotation})
    try:
        found = typing.get_type_hints(holder, globalns=function.__globals__, include_extras=True)[parameter.name]
    except NameError:
        return Any
    return str if found is ChatModel else found
