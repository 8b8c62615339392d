"""`swarm export`: the newest whole checkpoint of a run as a model folder that transformers and vLLM load."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from cluster.models import folder_problems, resolve
from swarm import checkpoints
from swarm import config as recipes
from swarm.errors import ConfigError
from swarm.journal import RunFolder


def export_run(folder: RunFolder, target: Path, adapters: bool = False) -> dict[str, Any]:
    """Write `target`, which must not exist or be empty; with `adapters` those of a LoRA run, alone. Raises ConfigError
    where there is nothing to export."""
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ConfigError(f"{target}: exists and is not empty; name another folder")
    checkpoint, problems = checkpoints.newest_good(folder.checkpoints)
    if checkpoint is None:
        why = "; ".join(problems) or "none was written yet"
        raise ConfigError(f"{folder.root}: no whole checkpoint to export ({why})")
    config = recipes.load(folder.config)
    lora = config.learners.lora
    if adapters and lora is None:
        raise ConfigError(f"{folder.root}: --adapters wants a run with learners.lora; this one trained the model")
    model = resolve(config.model.path, say=lambda _: None)

    os.environ.setdefault("DS_ACCELERATOR", "cpu")  # else transformers' import of DeepSpeed has something to say
    from learners.export import export  # loads torch: only once everything else is known to be right

    target.mkdir(parents=True, exist_ok=True)
    export(checkpoint / "learner", model, target, config.model.dtype, lora, adapters)
    if not adapters and (left := folder_problems(target)):
        raise ConfigError(left)
    return {"step": checkpoints.step_of(checkpoint), "folder": str(target), "passed_over": problems}
