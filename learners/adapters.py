"""LoRA: a few small matrices are trained and published, the model itself is frozen.

    W' = W + scale B A,   A [rank, in], B [out, rank], scale = alpha / rank

peft puts the adapters beside the model's linear layers, in float32. B starts at 0, so the policy starts as the model.
Hosts of engines get A and B, and add the product to their own copy of the model (`actors.adapters`).

Source: LoRA, arXiv 2106.09685, eq. 3. Differs: no dropout.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from swarm.config import LoraSection
from swarm.errors import ConfigError

_NAME = "default"
_IN_PEFT = "base_model.model."
"""What peft puts before a model's names in its files."""


def _config(section: LoraSection, base: str = "") -> Any:
    from peft import LoraConfig

    targets = section.targets if isinstance(section.targets, str) else list(section.targets)
    return LoraConfig(
        base_model_name_or_path=base or None,
        r=section.rank,
        lora_alpha=section.alpha,
        target_modules=targets,
        task_type="CAUSAL_LM",
        inference_mode=bool(base),
    )


def adapt(model: nn.Module, section: LoraSection) -> float:
    """Freeze `model` and put adapters beside its linear layers, drawn from torch's random state; returns the scale.

    Raises ConfigError where a target is no linear layer of the model.
    """
    from peft import inject_adapter_in_model

    try:
        inject_adapter_in_model(_config(section), model, adapter_name=_NAME)
    except ValueError as error:
        raise ConfigError(f"learners.lora.targets = {section.targets!r}: {error}") from None
    head = model.get_output_embeddings()
    if hasattr(head, "lora_A"):
        raise ConfigError(f"learners.lora.targets = {section.targets!r}: the head cannot have adapters")
    for layer in model.modules():
        if hasattr(layer, "lora_A") and not isinstance(layer.get_base_layer(), nn.Linear):
            kind = type(layer.get_base_layer()).__name__
            raise ConfigError(f"learners.lora.targets = {section.targets!r}: {kind} is not a linear layer")
    return section.alpha / section.rank


def published_name(name: str) -> str:
    """`...q_proj.lora_A.default.weight` is published as `...q_proj.lora_A.weight`, peft's name in files."""
    return name.replace(f".{_NAME}.", ".")


def merge(model: nn.Module, trained: Mapping[str, Tensor], section: LoraSection) -> None:
    """Add trained adapters (by their names in an adapted model, float32) to a plain model's weights, in place."""
    scale = section.alpha / section.rank
    weights = dict(model.named_parameters())
    with torch.no_grad():
        for name, a in trained.items():
            target, found, _ = name.partition(f".lora_A.{_NAME}.weight")
            if found:
                weights[f"{target}.weight"] += scale * trained[f"{target}.lora_B.{_NAME}.weight"] @ a


def write(folder: Path, trained: Mapping[str, Tensor], section: LoraSection, base: str) -> None:
    """Adapters alone, as `peft.PeftModel.from_pretrained(model, folder)` reads them; `base` is the model's path."""
    from safetensors.torch import save_file

    tensors = {
        _IN_PEFT + published_name(name): value.contiguous() for name, value in trained.items() if ".lora_" in name
    }
    save_file(tensors, folder / "adapter_model.safetensors")
    _config(section, base).save_pretrained(str(folder))
