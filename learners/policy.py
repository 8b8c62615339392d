"""The policy as a module: token ids in, log-probabilities of the tokens that carry loss out.

N = tokens with loss, V = vocabulary. The head of a small model over a large vocabulary costs as much as many layers
and its logits more memory than all of them, so prompt and padding positions must not reach it, and its logits are
never there as a whole (`learners.head`). Where a model does something to its logits that `learners.head` does not
know, found by comparison when the policy is made, the logits [N, V] are the model's own.
"""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from learners import head, lean, shared_prefix
from learners.layout import Layout
from swarm.errors import ConfigError

_TOLERANCE = 1e-3
"""Largest difference of log-probabilities, in nats, that counts as the same head (float32)."""


class Policy(nn.Module):
    """A causal language model with its autocast, in float32 weights."""

    shares: bool
    """Whether it takes packed micro-batches, in which a group's prompt is computed once."""
    blockwise: bool
    """Whether its logits are made block by block."""

    def __init__(self, model: nn.Module, autocast: torch.dtype | None) -> None:
        super().__init__()
        self.model = model
        self.shares = shared_prefix.install(model)
        lean.install(model)
        self._autocast = autocast
        self._shape = _shape_of(model)
        if isinstance(self._head(), nn.Linear):
            self._head().forward = _Forward(self._head())
        self.blockwise = _same(self)

    def forward(
        self,
        tokens: Tensor,
        places: Tensor,
        positions: Tensor | None,
        layout: Layout | None,
        targets: Tensor,
        temperatures: Tensor,
        entropy: bool | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """float32 [N] natural log of softmax(logits / temperature)[target], the distribution that samples, and float32
        [N] entropy of that distribution in nats.

        int64 [B, T] tokens, right-padded rows, or one packed row with int64 [1, T] positions and its layout. int64 [N]
        places in the flattened [B * T], int64 [N] targets, float32 [N] temperatures > 0. `entropy`: None for none,
        False for one without gradient, True for one with.
        """
        packed = {} if layout is None else {"position_ids": positions, "layout": layout}
        # Autocast lives inside the module: DeepSpeed switches off one that surrounds it, and its own `torch_autocast`
        # also reduces gradients in bfloat16.
        with torch.autocast(tokens.device.type, self._autocast) if self._autocast else nullcontext():
            if self.blockwise:
                return self._by_blocks(tokens, places, targets, temperatures, entropy, **packed)
            logits = self._logits(tokens, places, **packed)
        return _from_logits(logits, targets, temperatures, entropy)

    def _head(self) -> nn.Module:
        found: nn.Module = self.model.get_output_embeddings()
        return found

    def _by_blocks(
        self, tokens: Tensor, places: Tensor, targets: Tensor, temperatures: Tensor, entropy: bool | None, **packed: Any
    ) -> tuple[Tensor, Tensor | None]:
        hidden = self.model.base_model(input_ids=tokens, use_cache=False, **packed).last_hidden_state
        chosen = hidden.flatten(0, 1).index_select(0, places)
        # As a module, so that what hooks it (ZeRO 3 gathers its weight) knows of it.
        return self._head()(chosen, targets=targets, temperatures=temperatures, shape=self._shape, entropy=entropy)

    def _logits(self, tokens: Tensor, places: Tensor, **packed: Any) -> Tensor:
        """[N, V]: whatever the model makes of its own head at these places."""

        def pick(_: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
            return (args[0].flatten(0, 1).index_select(0, places)[None], *args[1:])

        with self._head().register_forward_pre_hook(pick):
            return self.model(input_ids=tokens, use_cache=False, **packed).logits[0]


class _Forward:
    """A linear head's forward pass that can also go on to log-probabilities."""

    def __init__(self, module: nn.Module) -> None:
        self._linear = module.forward
        self._weight_of: Any = module

    def __call__(
        self,
        hidden: Tensor,
        targets: Tensor | None = None,
        temperatures: Tensor | None = None,
        shape: head.Shape | None = None,
        entropy: bool | None = None,
    ) -> Any:
        if targets is None:
            return self._linear(hidden)
        module = self._weight_of
        assert temperatures is not None
        assert shape is not None
        bias = getattr(module, "bias", None)
        return head.token_logprobs(hidden, module.weight, bias, targets, temperatures, shape, entropy)


def token_logprobs(logits: Tensor, targets: Tensor, temperatures: Tensor) -> Tensor:
    """float32 [N] natural log of softmax(logits / temperature)[target], from whole logits [N, V] of any float dtype."""
    return _from_logits(logits, targets, temperatures, None)[0]


def _from_logits(
    logits: Tensor, targets: Tensor, temperatures: Tensor, entropy: bool | None
) -> tuple[Tensor, Tensor | None]:
    scaled = logits.float()
    if not bool((temperatures == 1.0).all()):
        scaled = scaled / temperatures[:, None]
    chosen = -nn.functional.cross_entropy(scaled, targets, reduction="none")
    if entropy is None:
        return chosen, None
    with torch.set_grad_enabled(entropy and torch.is_grad_enabled()):
        spread = torch.distributions.Categorical(logits=scaled).entropy()
    return chosen, spread


def _shape_of(model: nn.Module) -> head.Shape:
    """By the names that transformers' models use; whether it is right is seen by comparison."""
    config: Any = model.config
    config = config.get_text_config()
    scale = getattr(config, "logit_scale", None) or 1.0 / (getattr(config, "logits_scaling", None) or 1.0)
    return head.Shape(float(scale), getattr(config, "final_logit_softcapping", None))


def _same(policy: Policy) -> bool:
    """Whether log-probabilities by blocks are those of the model's own logits."""
    if not isinstance(policy._head(), nn.Linear):
        return False
    weight: Tensor = policy._head().weight
    rng = torch.Generator().manual_seed(0)
    tokens, targets = (torch.randint(0, len(weight), (2, 6), generator=rng).to(weight.device) for _ in range(2))
    places = torch.arange(12, device=weight.device)
    ones = torch.ones(12, device=weight.device)
    with torch.no_grad():
        try:
            found, _ = policy._by_blocks(tokens, places, targets.flatten(), ones, None)
        except (
            TypeError,
            ValueError,
            NotImplementedError,
            RuntimeError,
            AttributeError,
        ):  # it cannot: that is the answer
            return False
        wanted = token_logprobs(policy._logits(tokens, places), targets.flatten(), ones)
    return bool((found - wanted).abs().max() <= _TOLERANCE)


def load(path: str | Path) -> nn.Module:
    """The model of a Hugging Face folder in float32, without dropout. Raises ConfigError where it cannot be read."""
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    try:
        model = AutoModelForCausalLM.from_pretrained(str(path), dtype=torch.float32, local_files_only=True)
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: not a model folder that transformers can load: {error}") from None
    return model.eval()
