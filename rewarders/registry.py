"""The rewarders by name. Importing this loads none of the libraries they use: those load in the child processes."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from rewarders.bleu import Bleu
from rewarders.cascade import Cascade
from rewarders.chat import ChatModel
from rewarders.choice import Choice
from rewarders.code import Code
from rewarders.ensemble import Ensemble
from rewarders.exact import Exact
from rewarders.function import Function
from rewarders.gate import Gate
from rewarders.guard import Guard
from rewarders.hybrid import Hybrid
from rewarders.json_schema import JsonSchema
from rewarders.length import Length
from rewarders.math_verify import MathVerify
from rewarders.nested import asks_judge, each, places_of, spec_of
from rewarders.noisy import Noisy
from rewarders.numeric import Numeric
from rewarders.pairwise import Pairwise
from rewarders.pattern import Pattern
from rewarders.principles import Principles
from rewarders.reasoning_gym import ReasoningGym
from rewarders.reward_model import RewardModel
from rewarders.route import Route
from rewarders.rubric import Rubric
from rewarders.shaping import Lsc, Par
from rewarders.truth import Truth
from rewarders.version import version
from rewarders.weighted import Weighted
from rewarders.yes_no import YesNo
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
    "yes_no": YesNo,
    "rubric": Rubric,
    "principles": Principles,
    "pairwise": Pairwise,
    "guard": Guard,
}


def judges_truth(spec: Spec) -> bool:
    """Whether a rewarder of a recipe, with all that is inside it, says if answers are right. Raises ValueError where it
    is not well-formed."""
    kind: Any = REWARDERS.get(spec.name)
    if kind is None:
        raise ValueError(f"no rewarder {spec.name!r}{nearest(spec.name, list(REWARDERS))}")
    if "about_truth" in spec.options:
        return bool(spec.options["about_truth"])
    inside: list[bool] = []
    for option, shape in places_of(kind).items():
        if option in spec.options:
            each(shape, spec.options[option], lambda _, value: inside.append(judges_truth(spec_of(value))))
    return bool(getattr(kind, "about_truth", True)) and all(inside)


def build(use: Sequence[Spec], timeout_s: float, judges: Mapping[str, ChatModel] | None = None) -> list[Rewarder]:
    """Make the rewarders of a recipe; `timeout_s` goes to those that limit themselves and were not given their own.

    Where a rewarder takes a `judge`, its option is the name of one of `judges`, and stays in `judge_name`. Each gets
    its recipe label as `name`, and its `version`. Raises ValueError (unknown name or judge, bad option value) or
    TypeError (unknown option), after closing what was made.
    """
    with _closed_on_failure() as made:
        for spec, name in zip(use, labels([spec.name for spec in use]), strict=True):
            rewarder = _make(spec, {"timeout_s": timeout_s}, judges or {})
            made.append(rewarder)
            rewarder.name = name
        return list(made)


def _make(spec: Spec, given: Mapping[str, Any], judges: Mapping[str, ChatModel]) -> Rewarder:
    """A rewarder with those inside it. Of `given` each takes what it has a parameter for; an option goes before it, for
    the rewarders inside too."""
    if spec.name not in REWARDERS:
        raise ValueError(f"no rewarder {spec.name!r}{nearest(spec.name, list(REWARDERS))}")
    kind: Any = REWARDERS[spec.name]
    given = {key: spec.options.get(key, value) for key, value in given.items()}
    options = {key: value for key, value in given.items() if key in inspect.signature(kind).parameters} | spec.options
    with _closed_on_failure() as made:

        def inner(_: str, value: Any) -> Rewarder:
            made.append(_make(spec_of(value), given, judges))
            return made[-1]

        for name, shape in places_of(kind).items():
            if name in options:
                options[name] = each(shape, options[name], inner)
        judge = _judge_of(spec, kind, judges)
        rewarder: Any = kind(**(options | judge))
        behind = [*(inside.version for inside in made), *(model.name for model in judge.values())]
        rewarder.version = version(spec.name, kind, spec.options, *behind)
        if judge:
            rewarder.judge_name = spec.options["judge"]
        return rewarder


@contextmanager
def _closed_on_failure() -> Iterator[list[Any]]:
    """What was made, closed again where making the rest fails."""
    made: list[Any] = []
    try:
        yield made
    except BaseException:
        for rewarder in made:
            rewarder.close()
        raise


def _judge_of(spec: Spec, kind: Any, judges: Mapping[str, ChatModel]) -> dict[str, ChatModel]:
    name = spec.options.get("judge")
    if name is None or not asks_judge(kind):
        return {}
    if name not in judges:
        raise ValueError(f"{spec.name}: no judge {name!r}{nearest(str(name), list(judges))}")
    return {"judge": judges[name]}
