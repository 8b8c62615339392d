"""A checkpoint as an ordinary Hugging Face folder."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from learners import policy
from learners.adapters import merge, write
from learners.saving import read_weights
from swarm.config import LoraSection

BESIDE = ("*.json", "*.jinja", "*.model", "*.txt")
"""What a model folder has beside its weights: tokenizer, chat template, generation settings."""


def export(
    checkpoint: Path, model: Path, target: Path, dtype: str, lora: LoraSection | None = None, adapters: bool = False
) -> None:
    """Write the weights that `PolicyLearner.save` put into `checkpoint` to `target`, in `dtype`, with all that
    the initial `model` folder has beside its weights. LoRA adapters are added to the model, or, with `adapters`,
    written alone as peft reads them. Raises ValueError where names or shapes differ."""
    masters = read_weights(checkpoint)
    if adapters and lora:
        write(target, masters, lora, str(model))
        return
    module = policy.load(model)
    if lora:
        merge(module, masters, lora)
    else:
        _replace(module, masters, checkpoint)
    module.to(getattr(torch, dtype))
    module.save_pretrained(target)
    for pattern in BESIDE:
        for file in model.glob(pattern):
            if not (target / file.name).exists() and not file.name.endswith(".index.json"):
                shutil.copy(file, target / file.name)


def _replace(module: nn.Module, masters: Mapping[str, Tensor], checkpoint: Path) -> None:
    wanted = dict(module.named_parameters())
    if wanted.keys() - masters.keys():
        raise ValueError(f"{checkpoint}: no weights for {', '.join(sorted(wanted.keys() - masters.keys())[:5])}")
    with torch.no_grad():
        for name, parameter in wanted.items():
            if parameter.shape != masters[name].shape:
                raise ValueError(
                    f"{checkpoint}: {name} is {tuple(masters[name].shape)}, the model's {tuple(parameter.shape)}"
                )
            parameter.copy_(masters[name])
