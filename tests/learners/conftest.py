"""A random Llama of 150k parameters in a folder, and groups made of random tokens."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from swarm.config import LearnersSection
from swarm.types import Finish, Group, PolicyVersion, Prompt, Rollout, Span, Status, Verdict

os.environ.setdefault("DS_ACCELERATOR", "cpu")
VOCAB = 300


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama with tied embeddings, hidden size 64, two layers, saved in float32."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = tmp_path_factory.mktemp("model")
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=128,
        vocab_size=VOCAB,
        tie_word_embeddings=True,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def _verdict(value: float | None) -> Verdict:
    if value is None:
        return Verdict("exact", Status.TIMEOUT, cause="slow")
    return Verdict("exact", Status.SCORED, value)


def _group(
    rewards: Sequence[float | None],
    seed: int = 0,
    step: int = 0,
    lengths: Sequence[int] | None = None,
    prompt_length: int = 7,
    temperature: float = 1.0,
    lineage: int = 0,
) -> Group:
    rng = np.random.default_rng(seed)
    rollouts = []
    for i, value in enumerate(rewards):
        num = lengths[i] if lengths else int(rng.integers(2, 9))
        rollouts.append(
            Rollout(
                tokens=rng.integers(0, VOCAB, num).astype(np.int32),
                logprobs=(-5.7 + 0.1 * rng.standard_normal(num)).astype(np.float32),
                spans=(Span(step, 0, num),),
                text="",
                finish=Finish.STOP if i % 2 else Finish.LENGTH,
                loss_mask=np.ones(num, bool),
                verdicts=(_verdict(value),),
            )
        )
    return Group(
        id=f"g{seed}",
        ticket=seed,
        attempt=0,
        prompt=Prompt(id=f"p{seed}", text="?"),
        prompt_tokens=rng.integers(0, VOCAB, prompt_length).astype(np.int32),
        rollouts=tuple(rollouts),
        learner="me",
        lineage=lineage,
        temperature=temperature,
        cache_kept=False,
    )


@pytest.fixture(scope="session")
def make_group() -> Callable[..., Group]:
    """A group with the given rewards (None: a rewarder timed out) and random tokens."""
    return _group


@pytest.fixture
def make_learner(model_folder: Path, tmp_path: Path):
    """A learner on the small model; keywords are those of `LearnersSection`. Closed at the end of the test."""
    from learners.learner import PolicyLearner

    made = []

    def make(dtype: str = "float32", model: Path = model_folder, **options: object) -> PolicyLearner:
        section = LearnersSection(**({"steps": 10, "lr": 1e-2, "betas": [0.9, 0.95]} | options))
        made.append(
            PolicyLearner(
                model,
                dtype=dtype,
                section=section,
                reward_weights={"exact": 1.0},
                seed=3,
                version=PolicyVersion("me", 0, 0),
                max_tokens=8,
            )
        )
        return made[-1]

    yield make
    for learner in made:
        learner.close()
