"""The policy as a module: token ids in, logits out at the positions that carry loss, and nowhere else.

N = tokens with loss, V = vocabulary. The head of a small model over a large vocabulary costs as much as many layers
and its logits more memory than all of them, so prompt and padding positions must not reach it. A hook in front of the
model's own head picks the positions; whatever the model does with its logits afterwards (scaling, soft-capping) holds.
"""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from learners import shared_prefix
from swarm.errors import ConfigError


class Policy(nn.Module):
    """A causal language model with its autocast, in float32 weights."""

    shares: bool
    """Whether it takes packed micro-batches, in which a group's prompt is computed once."""

    def __init__(self, model: nn.Module, autocast: torch.dtype | None) -> None:
        super().__init__()
        self.model = model
        self.shares = shared_prefix.install(model)
        self._autocast = autocast
        self._places: Tensor | None = None
        head: nn.Module = model.get_output_embeddings()
        head.register_forward_pre_hook(self._pick)

    def forward(
        self,
        tokens: Tensor,
        places: Tensor,
        positions: Tensor | None = None,
        layout: shared_prefix.Layout | None = None,
    ) -> Tensor:
        """Logits [N, V] of int64 [B, T] tokens at int64 [N] places in the flattened [B * T].

        Right-padded rows, or one packed row with int64 [1, T] positions and its layout.
        """
        self._places = places
        packed = {} if layout is None else {"position_ids": positions, "layout": layout}
        # Autocast lives inside the module: DeepSpeed switches off one that surrounds it, and its own `torch_autocast`
        # also reduces gradients in bfloat16.
        kind = tokens.device.type
        with torch.autocast(kind, self._autocast) if self._autocast else nullcontext():
            return self.model(input_ids=tokens, use_cache=False, **packed).logits[0]

    def _pick(self, head: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        return (args[0].flatten(0, 1).index_select(0, self._places)[None], *args[1:])


def token_logprobs(logits: Tensor, targets: Tensor, temperatures: Tensor) -> Tensor:
    """float32 [N] natural log of softmax(logits / temperature)[target]: the distribution that samples.

    `logits` [N, V] any float dtype, `targets` int64 [N], `temperatures` float32 [N] > 0.
    """
    scaled = logits.float()
    if not bool((temperatures == 1.0).all()):
        scaled = scaled / temperatures[:, None]
    return -nn.functional.cross_entropy(scaled, targets, reduction="none")


def token_entropies(logits: Tensor, temperatures: Tensor) -> Tensor:
    """float32 [N], nats: entropy of softmax(logits / temperature); arguments as above."""
    logprobs = (logits.float() / temperatures[:, None]).log_softmax(-1)
    return -(logprobs.exp() * logprobs).sum(-1)


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
