"""Held-out questions, answered greedily by the actors and scored like everything else."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from swarm.errors import PromptRefused, StageFailure
from swarm.roles import Crew
from swarm.types import Handle, Prompt

TRIES = 3
"""Times that a question is asked until there is an answer."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """One question's answers: how many of `num` were correct, and the group where one wants to read it."""

    prompt: Prompt
    num: int
    num_correct: int
    rewards: tuple[float | None, ...]
    handle: Handle | None
    failure: str = ""
    """Why there is no answer; such a question counts as not correct and is reported."""


async def evaluate(
    crew: Crew,
    prompts: Sequence[Prompt],
    num: int = 1,
    greedy: bool = True,
    told: Callable[[list[Outcome]], None] | None = None,
) -> list[Outcome]:
    """Ask every prompt at once, `num` answers each (greedy ones are all equal, so 1 is enough).

    `told` gets the outcomes so far, in the order in which they came, after each one.
    """
    so_far: list[Outcome] = []

    async def ask(prompt: Prompt) -> Outcome:
        outcome = await _ask(crew, prompt, num, greedy)
        so_far.append(outcome)
        if told:
            told(so_far)
        return outcome

    return list(await asyncio.gather(*(ask(prompt) for prompt in prompts)))


def accuracy(outcomes: Sequence[Outcome]) -> float:
    """Mean share of correct answers, in [0, 1]; nan without questions."""
    return sum(o.num_correct / o.num for o in outcomes) / len(outcomes) if outcomes else float("nan")


async def _ask(crew: Crew, prompt: Prompt, num: int, greedy: bool) -> Outcome:
    """A question that gets no answer (its worker died, or no rewarder could judge it) is asked again, like those of
    training."""
    failure: StageFailure | None = None
    for attempt in range(TRIES):
        try:
            handle = await crew.score(await crew.generate(prompt, ticket=-1, attempt=attempt, greedy=greedy, num=num))
        except StageFailure as error:
            failure = error
            if isinstance(error, PromptRefused):
                break
        else:
            facts = handle.facts
            return Outcome(prompt, num, sum(right is True for right in facts.correct), facts.rewards, handle)
    return Outcome(prompt, num, 0, (None,) * num, None, str(failure))
