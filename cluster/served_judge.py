"""A judge model that this node serves: an engine of the actors behind the chat interface of the rewarders.

    messages --chat template--> tokens --greedy--> text
                                       --first tokens of all spellings of all choices, in one pass-->
                                       --score the spellings of several tokens--> P(the answer begins with it)

Inline it lives in the one process, on Ray in an actor of its own (`cluster.ray_judge`).
"""

from __future__ import annotations

import asyncio
import hashlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np

from actors.actor import load_tokenizer, takes_system
from actors.engines import ENGINES
from cluster.estimate import context_of
from cluster.models import resolve
from rewarders.chat import ChatModel, Reply, TooLong
from swarm.config import JudgeSection, RunConfig
from swarm.errors import ActorError, DeadActor, PromptRefused
from swarm.roles import Sampling
from swarm.types import PolicyVersion

LONGEST_CONTEXT = 8192
"""Tokens of question and answer together, where the model has more: the key-value cache must hold one such request."""
LEAST = 1e-4
"""A spelling of several tokens is not scored where its first one is less probable: it could not add more than that."""


class ServedJudge:
    """`rewarders.chat.ChatModel` over an engine. Greedy, so equal messages give equal replies (on a GPU sums may come
    in another order beside other requests)."""

    def __init__(self, section: JudgeSection, folder: Path, dtype: str) -> None:
        self.name = served_name(section, folder)
        self._timeout_s = section.timeout_s
        self._slots = asyncio.Semaphore(section.concurrent)
        self._tokenizer = load_tokenizer(folder)
        self._takes_system = takes_system(self._tokenizer)
        self._engine = ENGINES[section.engine.name](
            str(folder),
            dtype=dtype,
            max_context=min(context_of(folder) or LONGEST_CONTEXT, LONGEST_CONTEXT),
            seed=0,
            version=PolicyVersion(section.name, 0, 0),
            **section.engine.options,
        )

    async def ask(
        self, messages: Sequence[Mapping[str, str]], *, max_tokens: int, choices: Sequence[str] = ()
    ) -> Reply:
        """See `ChatModel`. Raises TooLong where the messages do not fit into the context.

        A choice has its probability at temperature 1: the sum over its spellings (as given, lower, upper, capitalised,
        each also after a space) of the product of their tokens' probabilities. That is exact for these spellings as
        the tokenizer writes them (see `LEAST`); other ways to put together the same letters are left out, so it is
        rather too low.
        """
        prompt = self._render(messages)
        spelled = {choice: self._spellings(choice) for choice in choices}
        try:
            # The limit is for the work, not for waiting: `concurrent` bounds how much shares the engine.
            async with self._slots, asyncio.timeout(self._timeout_s), asyncio.TaskGroup() as tasks:
                said = tasks.create_task(self._engine.complete(prompt, Sampling(0.0, max_tokens), seed=0))
                scored = tasks.create_task(self._probabilities(prompt, spelled))
        except BaseExceptionGroup as group:
            raise _translated(group.exceptions[0], self.name) from group
        tokens = said.result().tokens
        return Reply(
            text=self._tokenizer.decode(tokens.tolist(), skip_special_tokens=True),
            choices=scored.result(),
            prompt_tokens=len(prompt),
            completion_tokens=len(tokens),
        )

    async def _probabilities(self, prompt: np.ndarray, spelled: Mapping[str, Sequence[np.ndarray]]) -> dict[str, float]:
        """Of the answer to begin with each choice."""
        every = [(choice, ids) for choice, spellings in spelled.items() for ids in spellings]
        firsts = await self._engine.first_logprobs(prompt, np.array([ids[0] for _, ids in every], np.int32))

        async def whole(ids: np.ndarray, first: float) -> float:
            if len(ids) == 1:
                return math.exp(first)
            if first <= math.log(LEAST):
                return 0.0
            return math.exp(float((await self._engine.logprobs(prompt, ids)).sum()))

        found = await asyncio.gather(*(whole(ids, float(p)) for (_, ids), p in zip(every, firsts, strict=True)))
        parts = [(choice, p) for (choice, _), p in zip(every, found, strict=True)]
        return {choice: min(1.0, math.fsum(p for c, p in parts if c == choice)) for choice in spelled}

    def close(self) -> None:
        """Close the engine."""
        self._engine.close()

    def _render(self, messages: Sequence[Mapping[str, str]]) -> np.ndarray:
        """int32 [P]; a system message goes before the user's where the template has no place for it, and all are plain
        paragraphs where there is no template."""
        if self._tokenizer.chat_template is None:
            ids = self._tokenizer("\n\n".join(m["content"] for m in messages) + "\n\n")["input_ids"]
            return np.asarray(ids, np.int32)
        turns = [dict(m) for m in messages]
        if turns[0]["role"] == "system" and len(turns) > 1 and not self._takes_system:
            turns[1]["content"] = f"{turns[0]['content']}\n\n{turns[1]['content']}"
            del turns[0]
        rendered = self._tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_dict=True)
        return np.asarray(rendered["input_ids"], np.int32)

    def _spellings(self, choice: str) -> list[np.ndarray]:
        """Token ids, int32 [C], of each spelling. None begins with another: their probabilities can be added."""
        cases = (choice, choice.lower(), choice.upper(), choice.capitalize())
        texts = [space + text for text in cases for space in ("", " ")]
        found = {tuple(self._tokenizer(text, add_special_tokens=False)["input_ids"]) for text in texts}
        apart = [ids for ids in found if ids and not any(ids[:n] in found for n in range(1, len(ids)))]
        return [np.asarray(ids, np.int32) for ids in sorted(apart)]


@contextmanager
def served_here(config: RunConfig, say: Callable[[str], None]) -> Iterator[dict[str, ChatModel]]:
    """The judges of a recipe without an endpoint, in this process; all closed at the end, however far it came."""
    with ExitStack() as closing:
        served: dict[str, ChatModel] = {}
        for section in config.rewarders.served:
            say(f"starting judge {section.name} in this process")
            judge = ServedJudge(section, resolve(section.model, say), config.model.dtype)
            closing.callback(judge.close)
            served[section.name] = judge
        yield served


def served_name(section: JudgeSection, folder: Path) -> str:
    """Judge, model, and a digest of the files in its folder: other weights have another name."""
    digest = hashlib.blake2b(digest_size=8)
    for path in sorted(p for p in folder.iterdir() if p.suffix in (".safetensors", ".json")):
        with path.open("rb") as file:
            digest.update(path.name.encode() + hashlib.file_digest(file, "blake2b").digest())
    return f"{section.name}:{section.model}@{digest.hexdigest()}"


def _translated(error: BaseException, name: str) -> BaseException:
    if isinstance(error, PromptRefused):
        return TooLong(f"judge {name}: {error}; ask for less, or serve a model with a longer context")
    if isinstance(error, ActorError | DeadActor):
        return ConnectionError(f"judge {name}: {error}")
    return error
