"""Reads a chat completion of OpenAI's protocol, strictly: text, the probabilities of its first word, tokens used."""

from __future__ import annotations

import math
from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from rewarders.chat import Reply

AROUND = " \t\r\n\"'`*_#.,:;!()[]\u2581\u0120\u010a"
"""What a tokenizer or a style may put around a word: the signs for a space and a line's end among them."""
LARGEST_SUM = 1.01
"""Of probabilities that servers round."""


class _Read(BaseModel):
    model_config = ConfigDict(strict=True, allow_inf_nan=False, hide_input_in_errors=True)


class _Top(_Read):
    token: str
    logprob: float


class _Position(_Top):
    top_logprobs: list[_Top] = []


class _Logprobs(_Read):
    content: list[_Position] | None = None


class _Message(_Read):
    content: str


class _Choice(_Read):
    message: _Message
    logprobs: _Logprobs | None = None


class _Usage(_Read):
    prompt_tokens: int = Field(ge=0)
    completion_tokens: int = Field(default=0, ge=0)


class _Completion(_Read):
    choices: list[_Choice] = Field(min_length=1)
    usage: _Usage | None = None


def read(data: bytes, choices: Sequence[str]) -> Reply:
    """The reply in an answer's body; token counts are 0 where the server gives none. Raises ValueError.

    The message names what is missing and where, and quotes nothing.
    """
    try:
        found = _Completion.model_validate_json(data)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        where = ".".join(map(str, first["loc"])) or "JSON"
        raise ValueError(f"not a chat completion: {where}: {first['msg']}") from None
    choice, usage = found.choices[0], found.usage or _Usage(prompt_tokens=0)
    probs = choice_probs(choice.logprobs, choices) if choices else {}
    return Reply(choice.message.content, probs, usage.prompt_tokens, usage.completion_tokens)


def choice_probs(logprobs: _Logprobs | None, choices: Sequence[str]) -> dict[str, float]:
    """Of each choice, the probability of the answer's first word, summed over spellings. Empty without log-probs.

    Leading positions whose token is blank are passed over. Raises ValueError for what are no log-probabilities.
    """
    positions = (logprobs.content if logprobs else None) or []
    first = next((p for p in positions if p.token.strip(AROUND)), None)
    if first is None or not first.top_logprobs:
        return {}
    if any(top.logprob > 1e-3 for top in first.top_logprobs):
        raise ValueError("log-probabilities above 0")
    probs = dict.fromkeys(choices, 0.0)
    for token, logprob in {(top.token, top.logprob) for top in first.top_logprobs}:
        word = token.strip(AROUND).casefold()
        for choice in choices:
            if word == choice.casefold():
                probs[choice] += math.exp(min(logprob, 0.0))
    if sum(probs.values()) > LARGEST_SUM:
        raise ValueError(f"probabilities of {', '.join(choices)} that add up to {sum(probs.values()):.3f}")
    return {choice: min(prob, 1.0) for choice, prob in probs.items()}
