"""The error tree: exit codes, pickling, and what a boundary translates."""

from __future__ import annotations

import asyncio
import pickle
import re

import pytest

from swarm import errors
from swarm.errors import ActorError, ConfigError, RewarderError, SchemaError, StageFailure, SwarmError, boundary


def tree(root: type[SwarmError]) -> list[type[SwarmError]]:
    return [root, *(kind for child in root.__subclasses__() for kind in tree(child))]


OURS = [kind for kind in tree(SwarmError) if kind.__module__ == errors.__name__]


@pytest.mark.parametrize("kind", OURS)
def test_every_error_survives_pickling_with_its_message(kind: type[SwarmError]) -> None:
    copy = pickle.loads(pickle.dumps(kind("what went wrong")))
    assert type(copy) is kind
    assert str(copy) == "what went wrong"
    assert copy.exit_code == kind.exit_code


def test_a_config_error_survives_pickling_with_all_its_problems() -> None:
    error = pickle.loads(pickle.dumps(ConfigError(["first", "second"])))
    assert error.problems == ["first", "second"]
    assert str(error) == "first\nsecond"


def test_the_tree_in_the_docstring_is_the_tree() -> None:
    drawn = set(re.findall(r"\w+", str(errors.__doc__).partition("Authors")[0]))
    assert {kind.__name__ for kind in OURS} <= drawn


def test_exit_codes_are_those_of_the_design() -> None:
    codes = {kind.__name__: kind.exit_code for kind in OURS}
    special = {name: code for name, code in codes.items() if code != 1}
    assert special == {"ConfigError": 2, "DivergedError": 3, "StarvedError": 4}


def test_stage_failures_are_exactly_what_costs_one_group() -> None:
    names = {kind.__name__ for kind in tree(StageFailure)}
    assert names == {"StageFailure", "ActorError", "PromptRefused", "RewarderError", "SchemaError"}


def test_errors_are_also_the_python_errors_that_one_would_expect() -> None:
    assert issubclass(ConfigError, ValueError)
    assert issubclass(errors.DivergedError, ArithmeticError)
    assert issubclass(errors.PeerUnavailable, ConnectionError)
    assert issubclass(StageFailure, RuntimeError)


def test_a_boundary_translates_foreign_errors_and_keeps_the_cause() -> None:
    with pytest.raises(ActorError, match="generate: KeyError: 'x'") as caught, boundary(ActorError, "generate"):
        raise KeyError("x")
    assert isinstance(caught.value.__cause__, KeyError)


@pytest.mark.parametrize("kind", OURS)
def test_a_boundary_leaves_our_own_errors_alone(kind: type[SwarmError]) -> None:
    error = kind("mine")
    with pytest.raises(kind) as caught, boundary(RewarderError, "outer"):
        raise error
    assert caught.value is error


@pytest.mark.parametrize("kind", [asyncio.CancelledError, KeyboardInterrupt, SystemExit])
def test_a_boundary_lets_cancellation_and_interrupts_pass(kind: type[BaseException]) -> None:
    with pytest.raises(kind), boundary(SchemaError, "read"):
        raise kind
