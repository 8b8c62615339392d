"""What judging rewarders ask: a language model behind a chat interface, wherever it runs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

SPENT = "of budget_tokens ="
"""What the message of a `BudgetSpent` says, between what was spent and the budget."""


class BudgetSpent(ConnectionError):
    """A judge's `budget_tokens` are used up. The reward worker turns it into abstentions on the whole group."""


class TooLong(ValueError):
    """The messages do not fit into the judge's context. Asking again would say the same, so it is an abstention."""


@dataclass(frozen=True, slots=True)
class Reply:
    """What the model wrote."""

    text: str
    choices: Mapping[str, float] = field(default_factory=dict)
    """Of each wanted choice: the probability in [0, 1] that the answer begins with it, summed over spellings. Empty
    where the server gives no log-probabilities."""
    prompt_tokens: int = 0
    completion_tokens: int = 0


@runtime_checkable
class ChatModel(Protocol):
    """Messages in, text out. Greedy: equal messages should give equal replies."""

    name: str
    """What verdicts and the store call it: judge, model and its version."""

    async def ask(
        self, messages: Sequence[Mapping[str, str]], *, max_tokens: int, choices: Sequence[str] = ()
    ) -> Reply:
        """One reply to `[{"role": ..., "content": ...}, ...]`.

        Raises TimeoutError, ConnectionError (no use asking now; BudgetSpent is one), or ValueError (it answered, but
        not as agreed; TooLong is one).
        """
        ...

    def close(self) -> None:
        """Release what it holds; may be called twice."""
        ...


class Metered:
    """A chat model, and what it was asked since somebody last looked."""

    def __init__(self, model: ChatModel) -> None:
        self.name = model.name
        self.calls = self.prompt_tokens = self.completion_tokens = 0
        self._model = model

    async def ask(
        self, messages: Sequence[Mapping[str, str]], *, max_tokens: int, choices: Sequence[str] = ()
    ) -> Reply:
        """As the model's. A call that fails is counted, its tokens are not known."""
        self.calls += 1
        reply = await self._model.ask(messages, max_tokens=max_tokens, choices=choices)
        self.prompt_tokens += reply.prompt_tokens
        self.completion_tokens += reply.completion_tokens
        return reply

    def close(self) -> None:
        """Close the model."""
        self._model.close()


def read_meters(meters: Iterable[Metered]) -> dict[str, int]:
    """What all of them were asked since the last call, as metrics; empty where there are none."""
    found: Counter[str] = Counter()
    for meter in meters:
        for what in ("calls", "prompt_tokens", "completion_tokens"):
            found[f"reward/judge_{what}"] += getattr(meter, what)
            setattr(meter, what, 0)
    return dict(found)
