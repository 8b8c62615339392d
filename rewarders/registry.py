"""The rewarders by name. Importing this loads none of the libraries they use: those load in the child processes."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from rewarders.chat import ChatModel
from rewarders.exact import Exact
from rewarders.function import Function
from rewarders.math_verify import MathVerify
from rewarders.pairwise import Pairwise
from rewarders.principles import Principles
from rewarders.reasoning_gym import ReasoningGym
from rewarders.rubric import Rubric
from rewarders.version import version
from rewarders.yes_no import YesNo
from swarm.config import Spec, nearest
from swarm.roles import Rewarder
from swarm.scores import labels

REWARDERS: dict[str, Any] = {
    "exact": Exact,
    "reasoning_gym": ReasoningGym,
    "math_verify": MathVerify,
    "function": Function,
    "yes_no": YesNo,
    "rubric": Rubric,
    "principles": Principles,
    "pairwise": Pairwise,
}


def build(use: Sequence[Spec], timeout_s: float, judges: Mapping[str, ChatModel] | None = None) -> list[Rewarder]:
    """Make the rewarders of a recipe; `timeout_s` goes to those that limit themselves and were not given their own.

    Where a rewarder takes a `judge`, its option is the name of one of `judges`. Each gets its recipe label as `name`,
    and its `version`. Raises ValueError (unknown name or judge, bad option value) or TypeError (unknown option), after
    closing what was made.
    """
    judges = judges or {}
    for spec in use:
        if spec.name not in REWARDERS:
            raise ValueError(f"no rewarder {spec.name!r}{nearest(spec.name, list(REWARDERS))}")
    made: list[Rewarder] = []
    try:
        for spec, name in zip(use, labels([spec.name for spec in use]), strict=True):
            kind = REWARDERS[spec.name]
            own = {"timeout_s": timeout_s} if "timeout_s" in inspect.signature(kind).parameters else {}
            judge = _judge_of(spec, kind, judges)
            rewarder = kind(**(own | spec.options | judge))
            rewarder.name = name
            rewarder.version = version(spec.name, kind, spec.options, *(model.name for model in judge.values()))
            made.append(rewarder)
    except BaseException:
        for rewarder in made:
            rewarder.close()
        raise
    return made


def asks_judge(kind: Any) -> bool:
    """Whether a rewarder takes a `judge`."""
    return "judge" in inspect.signature(kind).parameters


def _judge_of(spec: Spec, kind: Any, judges: Mapping[str, ChatModel]) -> dict[str, ChatModel]:
    name = spec.options.get("judge")
    if name is None or not asks_judge(kind):
        return {}
    if name not in judges:
        raise ValueError(f"{spec.name}: no judge {name!r}{nearest(str(name), list(judges))}")
    return {"judge": judges[name]}
