"""The rollout actor: one prompt in, one group out.

It renders the chat template, asks its engine for all rollouts of the group at once, and assembles the group. Seeds
derive from the run's seed and the ticket, so that a prompt asked again after a death gives the same rollouts under the
same weights, whichever actor answers.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from pathlib import Path
from typing import Any

import numpy as np

from swarm.errors import ActorError, ConfigError, PromptRefused, boundary
from swarm.roles import Completion, Engine, Sampling, SyncReport, Usage
from swarm.types import Group, Prompt, Rollout, Weights


class RolloutActor:
    """Owns an engine and the model folder's tokenizer."""

    def __init__(
        self,
        engine: Engine,
        model: str | Path,
        *,
        learner: str,
        lineage: int,
        seed: int,
        group_size: int,
        temperature: float,
        max_new_tokens: int,
        max_prompt_tokens: int,
    ) -> None:
        """`learner` and `lineage` name the weights that the engine booted with; loads carry their own."""
        self._engine = engine
        self._tokenizer = load_tokenizer(model)
        self._learner, self._lineage, self._seed = learner, lineage, seed
        self._group_size, self._temperature = group_size, temperature
        self._max_new_tokens, self._max_prompt_tokens = max_new_tokens, max_prompt_tokens

    async def generate(
        self, prompt: Prompt, ticket: int, attempt: int, greedy: bool = False, num: int = 0
    ) -> Group:
        """A group of `num` rollouts (0: the recipe's group size). Raises PromptRefused or ActorError."""
        began = time.monotonic()
        with boundary(ActorError, f"generate for prompt {prompt.id}"):
            tokens = self.render(prompt)
            if len(tokens) > self._max_prompt_tokens:
                raise PromptRefused(
                    f"prompt {prompt.id} of {prompt.source} has {len(tokens)} tokens with its chat template, the limit is "
                    f"{self._max_prompt_tokens}: shorten it, or raise actors.max_prompt_tokens"
                )
            temperature = 0.0 if greedy else self._temperature
            sampling = Sampling(temperature, self._max_new_tokens)
            seeds = [derive_seed(self._seed, prompt.id, ticket, i) for i in range(num or self._group_size)]
            completions = await asyncio.gather(*(self._engine.complete(tokens, sampling, s) for s in seeds))
            return Group(
                id=f"{ticket}.{attempt}",
                ticket=ticket,
                attempt=attempt,
                prompt=prompt,
                prompt_tokens=tokens,
                rollouts=tuple(self._rollout(c) for c in completions),
                learner=self._learner,
                lineage=self._lineage,
                temperature=temperature or 1.0,  # greedy rollouts carry log-probabilities of temperature 1
                cache_kept=bool(getattr(self._engine, "keep_cache", False)),
                generate_s=time.monotonic() - began,
            )

    def render(self, prompt: Prompt) -> np.ndarray:
        """int32 [P]: the chat template with system and user message, or the plain text where a model has no template."""
        if self._tokenizer.chat_template is None:
            text = f"{prompt.system}\n{prompt.text}" if prompt.system else prompt.text
            ids = self._tokenizer(text)["input_ids"]
        else:
            messages = [{"role": "user", "content": prompt.text}]
            if prompt.system:
                messages.insert(0, {"role": "system", "content": prompt.system})
            ids = self._tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True)["input_ids"]
        return np.asarray(ids, np.int32)

    async def load(self, weights: Weights) -> SyncReport:
        """Bring the engine to these weights; later groups belong to their lineage."""
        report = await self._engine.load(weights)
        self._learner, self._lineage = weights.version.learner, weights.version.lineage
        return report

    def usage(self) -> Usage:
        """The engine's."""
        return self._engine.usage()

    def close(self) -> None:
        """Close the engine."""
        self._engine.close()

    def _rollout(self, completion: Completion) -> Rollout:
        return Rollout(
            tokens=completion.tokens,
            logprobs=completion.logprobs,
            spans=completion.spans,
            text=self._tokenizer.decode(completion.tokens.tolist(), skip_special_tokens=True),
            finish=completion.finish,
            loss_mask=np.ones(len(completion.tokens), bool),
        )


def derive_seed(seed: int, prompt_id: str, ticket: int, index: int) -> int:
    """A 63-bit seed for one rollout, equal in every process."""
    text = f"{seed}/{prompt_id}/{ticket}/{index}".encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big") >> 1


def load_tokenizer(model: str | Path) -> Any:
    """The tokenizer of a model folder. Raises ConfigError where it has none that loads."""
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(str(model), local_files_only=True)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{model}: no tokenizer that transformers can load ({error}); add the model's own") from None
