"""A model folder of a few thousand parameters and a reward that any model can raise: for runs through every stage."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import zlib
from collections.abc import Sequence
from pathlib import Path

from cluster.model_tiny import make_tokenizer


def make_model(folder: Path, context: int = 512) -> Path:
    """A random two-layer Llama over bytes, with a chat template, for so many tokens."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    folder.mkdir(parents=True)
    make_tokenizer(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=261,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=context,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=257,
        pad_token_id=256,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


PACE_S = 0.2
"""What judging a group takes: on a fast machine a run would be over before a test can interfere with it."""


def low_bytes(prompts: Sequence[str], completions: Sequence[str], **columns: object) -> list[float]:
    """The share of characters before `P`: differs within every group, so every batch has something to teach."""
    time.sleep(PACE_S)
    return [sum(c < "P" for c in text) / max(len(text), 1) for text in completions]


def sometimes_flat(prompts: Sequence[str], completions: Sequence[str], **columns: object) -> list[float]:
    """For about half of all questions every answer is wrong; for the others every second one is right."""
    hopeless = zlib.crc32(prompts[0].encode()) % 2
    return [float(not hopeless and i % 2 == 0) for i in range(len(completions))]


RECIPE = """
name = "small"
seed = 3
[model]
path = "{model}"
dtype = "float32"
[actors]
group_size = 4
max_new_tokens = 12
max_prompt_tokens = 128
engine = "transformers"
tasks = [{{ name = "jsonl", path = "{data}", prompt = "q", answer = "a" }}]
[rewarders]
use = [{{ name = "function", path = "tests.cluster.small:low_bytes" }}]
timeout_s = 120.0
[learners]
steps = {steps}
groups_per_step = 3
lr = 1e-3
threads = 1
checkpoint_every = 3
[eval]
questions = 8
live_questions = 4
every = 4
[cluster]
runs = "{runs}"
"""


def write_recipe(folder: Path, model: Path, steps: int) -> Path:
    """A recipe with 400 questions of its own, everything under `folder`."""
    data = folder / "questions.jsonl"
    data.write_text("".join(f'{{"q": "What is {i} + {i}?", "a": "{2 * i}"}}\n' for i in range(400)))
    recipe = folder / "small.toml"
    recipe.write_text(RECIPE.format(model=model, data=data, runs=folder / "runs", steps=steps))
    return recipe


def swarm(*args: str | Path) -> None:
    """Run the command, one thread to a process, to a good end."""
    environment = os.environ | {"PYTHONHASHSEED": "0", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", "from cluster.cli import main; main()", *map(str, args)]
    root = Path(__file__).parents[2]
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
