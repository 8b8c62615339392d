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
        self._takes_system = takes_system(self._tokenizer)
        self._lineage: tuple[str, int] | None = (learner, lineage)  # None while weights of another one are loaded
        self._seed = seed
        self._group_size, self._temperature = group_size, temperature
        self._max_new_tokens, self._max_prompt_tokens = max_new_tokens, max_prompt_tokens

    async def generate(self, prompt: Prompt, ticket: int, attempt: int, greedy: bool = False, num: int = 0) -> Group:
        """A group of `num` rollouts (0: the recipe's group size), sampled side by side.

        Raises PromptRefused where the prompt has more than `max_prompt_tokens` with its chat template, and ActorError
        for whatever else goes wrong, also where weights of another lineage arrive in between: steps of two lineages
        can't be compared within a group.
        """
        began = time.monotonic()
        lineage = self._lineage
        with boundary(ActorError, f"generate for prompt {prompt.id}"):
            tokens = self.render(prompt)
            if len(tokens) > self._max_prompt_tokens:
                raise PromptRefused(
                    f"prompt {prompt.id} of {prompt.source} has {len(tokens)} tokens with its chat template, the limit "
                    f"is {self._max_prompt_tokens}: shorten it, or raise actors.max_prompt_tokens"
                )
            temperature = 0.0 if greedy else self._temperature
            sampling = Sampling(temperature, self._max_new_tokens)
            seeds = [derive_seed(self._seed, prompt.id, ticket, i) for i in range(num or self._group_size)]
            asked = [asyncio.ensure_future(self._engine.complete(tokens, sampling, s)) for s in seeds]
            try:
                completions = await asyncio.gather(*asked)
            finally:
                for request in asked:  # when one has failed, nobody wants the others
                    request.cancel()
            if lineage is None or lineage != self._lineage:
                raise ActorError(f"group {ticket}.{attempt}: weights of another lineage came while it was made")
            return Group(
                id=f"{ticket}.{attempt}",
                ticket=ticket,
                attempt=attempt,
                prompt=prompt,
                prompt_tokens=tokens,
                rollouts=tuple(self._rollout(c) for c in completions),
                learner=lineage[0],
                lineage=lineage[1],
                temperature=temperature or 1.0,  # greedy rollouts carry log-probabilities of temperature 1
                cache_kept=bool(getattr(self._engine, "keep_cache", False)),
                generate_s=time.monotonic() - began,
            )

    def render(self, prompt: Prompt) -> np.ndarray:
        """int32 [P]: system and user message in the chat template, or plain text where a model has none.

        Where a template has no place for a system message, it goes before the user's.
        """
        separate = bool(prompt.system) and self._takes_system
        text = prompt.text if separate or not prompt.system else f"{prompt.system}\n\n{prompt.text}"
        if self._tokenizer.chat_template is None:
            ids = self._tokenizer(text)["input_ids"]
        else:
            messages = [{"role": "system", "content": prompt.system}] if separate else []
            messages.append({"role": "user", "content": text})
            rendered = self._tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True)
            ids = rendered["input_ids"]
        return np.asarray(ids, np.int32)

    async def load(self, weights: Weights) -> SyncReport:
        """Bring the engine to these weights; later groups belong to their learner and lineage."""
        before, after = self._lineage, (weights.version.learner, weights.version.lineage)
        self._lineage = before if before == after else None
        try:
            report = await self._engine.load(weights)
        except BaseException:
            self._lineage = before
            raise
        self._lineage = after
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


def eos_ids(model: str | Path) -> tuple[int, ...]:
    """Ids that end a completion: the tokenizer's and those of the generation config; chat models often have both."""
    from transformers import GenerationConfig

    found = {load_tokenizer(model).eos_token_id}
    try:
        of_config = GenerationConfig.from_pretrained(str(model), local_files_only=True).eos_token_id
    except (OSError, ValueError):
        of_config = None
    found |= set(of_config) if isinstance(of_config, list) else {of_config}
    return tuple(sorted(i for i in found if i is not None))


def load_tokenizer(model: str | Path) -> Any:
    """The tokenizer of a model folder. Raises ConfigError where it has none that loads."""
    from transformers import AutoTokenizer

    wanted = "add the tokenizer that the model was trained with (tokenizer.json)"
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(model), local_files_only=True)
    except Exception as error:  # noqa: BLE001
        # Missing, damaged and unknown tokenizers raise errors without a common root.
        cause = (str(error).splitlines() or [""])[0]
        raise ConfigError(f"{model}: no tokenizer that loads ({type(error).__name__}: {cause}); {wanted}") from None
    if not len(tokenizer) or not tokenizer("a 1")["input_ids"]:
        raise ConfigError(f"{model}: no tokenizer; {wanted}")
    return tokenizer


def takes_system(tokenizer: Any) -> bool:
    """Whether the chat template keeps a system message; some raise an error, some drop it."""
    if tokenizer.chat_template is None:
        return False
    messages = [{"role": "system", "content": "SYSTEM"}, {"role": "user", "content": "USER"}]
    try:
        return "SYSTEM" in tokenizer.apply_chat_template(messages, tokenize=False)
    except Exception:  # noqa: BLE001 - a template may raise anything
        return False
