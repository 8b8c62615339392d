"""The rewarders by name. Importing this loads none of the libraries they use: those load in the child processes."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from rewarders.chat import ChatModel
from rewarders.exact import Exact
from rewarders.function import Function
from rewarders.math_verify import MathVerify
from rewarders.reasoning_gym import ReasoningGym
from swarm.config import Spec, nearest
from swarm.roles import Rewarder
from swarm.scores import labels

REWARDERS: dict[str, Any] = {
    "exact": Exact,
    "reasoning_gym": ReasoningGym,
    "math_verify": MathVerify,
    "function": Function,
}


def build(use: Sequence[Spec], timeout_s: float, judges: Mapping[str, ChatModel] | None = None) -> list[Rewarder]:
    """Make the rewarders of a recipe; `timeout_s` goes to those that limit themselves and were not given their own.

    Where a rewarder takes a `judge`, its option is the name of one of `judges`.

    Raises ValueError (unknown name, bad option value) or TypeError (unknown option), after closing what was made.
    """
    for spec in use:
        if spec.name not in REWARDERS:
            raise ValueError(f"no rewarder {spec.name!r}{nearest(spec.name, list(REWARDERS))}")
    made: list[Rewarder] = []
    try:
        for spec, name in zip(use, labels([spec.name for spec in use]), strict=True):
            kind = REWARDERS[spec.name]
            own = {"timeout_s": timeout_s} if "timeout_s" in inspect.signature(kind).parameters else {}
            judge = {"judge": (judges or {})[spec.options["judge"]]} if "judge" in spec.options else {}
            rewarder = kind(**(own | spec.options | judge))
            rewarder.name = name
            made.append(rewarder)
    except BaseException:
        for rewarder in made:
            rewarder.close()
        raise
    return made
