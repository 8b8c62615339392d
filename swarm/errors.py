"""Every error the system raises on purpose, and what becomes of it.

    SwarmError
    |-- ConfigError          abort, exit 2   nothing has started; all problems listed at once
    |-- DivergedError        abort, exit 3   a loss or gradient is not finite, or a limit was passed
    |-- StarvedError         abort, exit 4   too many groups failed in a row; carries the last cause
    |-- StageFailure         drop and count  one group could not be made; the loop asks its prompt again
    |   |-- ActorError                       generation failed
    |   |-- PromptRefused                    this prompt can never be generated (too long): not asked again
    |   |-- RewarderError                    too few rollouts of the group were scored
    |   `-- SchemaError                      a record batch is not of our schema or version
    |-- PeerUnavailable      retry           another node does not answer
    `-- DeadActor            restart         a process of ours is gone

Authors of engines, rewarders and losses raise ordinary Python errors; :func:`boundary` turns them into the class of the
boundary they crossed, and leaves errors of this tree alone. All of them survive pickling, since they cross Ray.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any


class SwarmError(Exception):
    """Root of the tree. `exit_code` is what the command ends with when the error reaches it."""

    exit_code = 1


class ConfigError(SwarmError, ValueError):
    """The recipe, a run folder or an input is wrong. Holds every problem found, one line each."""

    exit_code = 2

    def __init__(self, problems: str | Sequence[str]) -> None:
        self.problems = [problems] if isinstance(problems, str) else list(problems)
        super().__init__("\n".join(self.problems))

    def __reduce__(self) -> tuple[type, tuple[list[str]]]:
        return type(self), (self.problems,)


class DivergedError(SwarmError, ArithmeticError):
    """Training left the finite numbers or the recipe's limits; the message names the batch and the last good
    checkpoint."""

    exit_code = 3


class StarvedError(SwarmError, RuntimeError):
    """No group could be made for too long; the message carries the last cause."""

    exit_code = 4


class StageFailure(SwarmError, RuntimeError):
    """One group was not made. The only class that the loop catches."""

    notices: tuple[Mapping[str, Any], ...] = ()
    """Events of the worker that raised it, for the journal, as in `GroupFacts`."""


class ActorError(StageFailure):
    """Generation of a group failed."""


class PromptRefused(StageFailure):
    """A prompt that can never be generated, for instance one longer than the context."""


class RewarderError(StageFailure):
    """Too few rollouts of a group received a score to learn from it."""


class SchemaError(StageFailure):
    """A record batch has an unknown version, or columns that do not fit it."""


class PeerUnavailable(SwarmError, ConnectionError):
    """Another node does not answer for now."""


class DeadActor(SwarmError, RuntimeError):
    """A process of this node is gone; its owner starts another one."""


@contextmanager
def boundary(kind: type[StageFailure], what: str) -> Iterator[None]:
    """Charge whatever goes wrong inside to one stage: `with boundary(ActorError, "generate"): ...`.

    Errors of our own tree pass unchanged, so that an inner boundary keeps its attribution. Only `Exception` is
    translated: cancellation and interrupts pass.
    """
    try:
        yield
    except SwarmError:
        raise
    except Exception as error:
        raise kind(f"{what}: {type(error).__name__}: {error}") from error
