"""All parts that a recipe can name, by kind, and the check of a Spec's options against a part's signature.

The registries themselves live with their parts; importing them loads nothing heavy, so a recipe is checked at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
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
from rewarders.nested import each, places_of, spec_of
from rewarders.registry import REWARDERS
from swarm.config import RunConfig, Spec, nearest
from swarm.options import keywords_of

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
    found += [(f"eval.use.{i}", spec, REWARDERS) for i, spec in enumerate(config.eval.use)]
    s = config.learners
    found += [("learners.loss", s.loss, LOSSES), ("learners.advantage", s.advantage, ADVANTAGES)]
    found += [("learners.correction", s.correction, CORRECTIONS), ("learners.truncation", s.truncation, TRUNCATIONS)]
    return found


def problems_of(key: str, spec: Spec, registry: Registry) -> list[str]:
    """What is wrong with one Spec and those inside it: unknown name, unknown option, missing option, wrong type."""
    part = registry.get(spec.name)
    if part is None:
        return [f'{key}.name = "{spec.name}": no such part{nearest(spec.name, list(registry))}']
    options = options_of(part, GIVEN.get(id(registry), frozenset()))
    nested = places_of(part)
    problems = []
    for name, value in spec.options.items():
        if name not in options:
            problems.append(f"{key}.{name}: unknown option of {spec.name}{nearest(name, list(options))}")
        elif name in nested:
            continue
        else:
            problems += _type_problems(f"{key}.{name}", value, options[name][0])
    for name, (_, required) in options.items():
        if required and name not in spec.options:
            problems.append(f"{key}.{name}: missing; {spec.name} needs it")
    inner, wrong = nested_in(key, spec, registry)
    problems += wrong + [problem for place, within in inner for problem in problems_of(place, within, registry)]
    if not problems and hasattr(part, "problems"):
        problems = [f"{key}.{problem}" for problem in part.problems(spec.options)]
    return problems


def _type_problems(key: str, value: Any, kind: Any) -> list[str]:
    try:
        TypeAdapter(kind, config=ConfigDict(strict=True)).validate_python(value)
    except ValidationError as error:
        return [f"{key} = {value!r}: {error.errors()[0]['msg']}"]
    return []


def nested_in(key: str, spec: Spec, registry: Registry) -> tuple[list[tuple[str, Spec]], list[str]]:
    """The rewarders directly inside a Spec, each with its key, and what is there instead of one."""
    found: list[tuple[str, Spec]] = []
    problems: list[str] = []

    def collect(option: str, place: str, value: Any) -> None:
        try:
            found.append((option + place, spec_of(value)))
        except ValueError as error:
            problems.append(f"{option}{place}: {error}")

    for name, shape in places_of(registry[spec.name]).items():
        if name not in spec.options:
            continue
        try:
            each(shape, spec.options[name], partial(collect, f"{key}.{name}"))
        except ValueError as error:
            problems.append(f"{key}.{name}: {error}")
    return found, problems


def all_rewarders(config: RunConfig) -> Iterator[tuple[str, Spec]]:
    """Every rewarder of a recipe with its key, those inside others too."""
    left = [(key, spec) for key, spec, registry in specs_of(config) if registry is REWARDERS]
    while left:
        key, spec = left.pop(0)
        yield key, spec
        if spec.name in REWARDERS:
            left += nested_in(key, spec, REWARDERS)[0]


def options_of(part: Callable[..., Any], given: frozenset[str]) -> dict[str, tuple[Any, bool]]:
    """Keyword-only parameters of a part: name -> (type, whether it must be given)."""
    found = {name: option for name, option in keywords_of(part).items() if name not in given}
    # A judge is an object to the part, and its name to the recipe.
    return {name: (str if kind is ChatModel else kind, needed) for name, (kind, needed) in found.items()}
