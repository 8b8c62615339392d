"""The rewarders by name. Importing this loads none of the libraries they use: those load in the child processes."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from rewarders.bleu import Bleu
from rewarders.cascade import Cascade
from rewarders.choice import Choice
from rewarders.code import Code
from rewarders.ensemble import Ensemble
from rewarders.exact import Exact
from rewarders.function import Function
from rewarders.gate import Gate
from rewarders.hybrid import Hybrid
from rewarders.json_schema import JsonSchema
from rewarders.length import Length
from rewarders.math_verify import MathVerify
from rewarders.nested import each, places_of, spec_of
from rewarders.noisy import Noisy
from rewarders.numeric import Numeric
from rewarders.pattern import Pattern
from rewarders.reasoning_gym import ReasoningGym
from rewarders.reward_model import RewardModel
from rewarders.route import Route
from rewarders.shaping import Lsc, Par
from rewarders.truth import Truth
from rewarders.weighted import Weighted
from swarm.config import Spec, nearest
from swarm.roles import Rewarder
from swarm.scores import labels

REWARDERS: dict[str, Any] = {
    "exact": Exact,
    "numeric": Numeric,
    "choice": Choice,
    "pattern": Pattern,
    "json_schema": JsonSchema,
    "bleu": Bleu,
    "length": Length,
    "truth": Truth,
    "reasoning_gym": ReasoningGym,
    "math_verify": MathVerify,
    "function": Function,
    "gate": Gate,
    "weighted": Weighted,
    "route": Route,
    "cascade": Cascade,
    "hybrid": Hybrid,
    "noisy": Noisy,
    "reward_model": RewardModel,
    "ensemble": Ensemble,
    "par": Par,
    "lsc": Lsc,
    "code": Code,
}


def build(use: Sequence[Spec], timeout_s: float) -> list[Rewarder]:
    """Make the rewarders of a recipe; `timeout_s` goes to those that limit themselves and were not given their own.

    Raises ValueError (unknown name, bad option value) or TypeError (unknown option), after closing what was made.
    """
    with _closed_on_failure() as made:
        for spec, name in zip(use, labels([spec.name for spec in use]), strict=True):
            rewarder = _make(spec, {"timeout_s": timeout_s})
            made.append(rewarder)
            rewarder.name = name
        return list(made)


def _make(spec: Spec, given: Mapping[str, Any]) -> Rewarder:
    """A rewarder with those inside it. Of `given` each takes what it has a parameter for; an option goes before it, for
    the rewarders inside too."""
    if spec.name not in REWARDERS:
        raise ValueError(f"no rewarder {spec.name!r}{nearest(spec.name, list(REWARDERS))}")
    kind = REWARDERS[spec.name]
    given = {key: spec.options.get(key, value) for key, value in given.items()}
    options = {key: value for key, value in given.items() if key in inspect.signature(kind).parameters} | spec.options
    with _closed_on_failure() as made:

        def inner(_: str, value: Any) -> Rewarder:
            made.append(_make(spec_of(value), given))
            return made[-1]

        for name, shape in places_of(kind).items():
            if name in options:
                options[name] = each(shape, options[name], inner)
        rewarder: Rewarder = kind(**options)
        return rewarder


@contextmanager
def _closed_on_failure() -> Iterator[list[Rewarder]]:
    """What was made, closed again where making the rest fails."""
    made: list[Rewarder] = []
    try:
        yield made
    except BaseException:
        for rewarder in made:
            rewarder.close()
        raise
