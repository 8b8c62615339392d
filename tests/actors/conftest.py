"""A tiny random Llama, what a learner would publish of it, and plain forward passes to hold engines against."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from actors.engines import ENGINES
from swarm import weights
from swarm.types import PolicyVersion, Weights

VOCAB, CONTEXT, EOS = 300, 256, 2
CANARY = tuple(range(20, 60))


@pytest.fixture(scope="session")
def llama(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A model folder without a tokenizer: two layers, tied head, weights large enough for peaked distributions."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = tmp_path_factory.mktemp("llama")
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCAB,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        initializer_range=0.2,
        bos_token_id=1,
        eos_token_id=EOS,
    )
    net = LlamaForCausalLM(config)
    with torch.no_grad():
        net.model.embed_tokens.weight[EOS] = 0  # its logit is 0, never the largest: greedy runs to its length
    net.save_pretrained(folder)
    return str(folder)


@dataclass
class Bench:
    """An engine, the model that it should have, and the learner's side of publishing."""

    engine: Any
    net: Any
    folder: Path
    step: int = 0

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run(work)

    def moved(self, scale: float = 0.05) -> Any:
        """A copy of the present model, a step further."""
        import copy

        import torch

        net = copy.deepcopy(self.net)
        torch.manual_seed(self.step)
        with torch.no_grad():
            for p in net.parameters():
                p.add_(torch.randn_like(p), alpha=scale)
        return net

    def publish(self, net: Any, canary_net: Any = None, **changes: Any) -> Weights:
        """Write the model as the next step's weights; `canary_net` scores the canary (None: no canary)."""
        self.step += 1
        tensors = self.tensors_of(net) | changes.pop("tensors", {})
        path = self.folder / f"{self.step}.safetensors"
        each, size = weights.write(path, {k: v for k, v in tensors.items() if v is not None})
        version = PolicyVersion("learner", 0, self.step)
        canary = {}
        if canary_net is not None:
            scores = logprobs_of(canary_net, CANARY[:1], CANARY[1:])
            canary = {"canary_tokens": CANARY, "canary_logprobs": tuple(float(x) for x in scores)}
        return Weights(
            **(
                {
                    "version": version,
                    "path": str(path),
                    "digest": weights.combined(each),
                    "bytes": size,
                    "tensors": each,
                }
                | canary
                | changes
            )
        )

    def load(self, net: Any, **options: Any) -> Any:
        """Publish and load, in one go."""
        report = self.run(self.engine.load(self.publish(net, net, **options)))
        self.net = net
        return report

    @staticmethod
    def tensors_of(net: Any) -> dict[str, tuple[str, tuple[int, ...], np.ndarray]]:
        """What a learner hands to `weights.write`."""
        return {n: ("float32", tuple(p.shape), p.detach().numpy().copy()) for n, p in net.named_parameters()}


def logprobs_of(net: Any, prompt: Any, completion: Any, temperature: float = 1.0) -> np.ndarray:
    """Plain forward pass: float32 [C]."""
    import torch

    ids = torch.tensor([[*map(int, prompt), *map(int, completion)]])
    with torch.no_grad():
        logits = net(ids).logits[0, len(prompt) - 1 : -1].float() / (temperature or 1.0)
    return torch.log_softmax(logits, -1).gather(1, ids[0, len(prompt) :, None])[:, 0].numpy()


def open_bench(name: str, llama: str, folder: Path, **options: Any) -> Bench:
    from transformers import AutoModelForCausalLM

    options = {"max_batched_tokens": 300, "eos_ids": (EOS,)} | options
    if name == "vllm":
        options["kv_cache_gib"] = 0.05
    engine = ENGINES[name](
        llama, dtype="float32", max_context=CONTEXT, seed=0, version=PolicyVersion("learner", 0, 0), **options
    )
    return Bench(engine, AutoModelForCausalLM.from_pretrained(llama, dtype="float32"), folder)


@pytest.fixture(scope="session")
def tools() -> Any:
    """The functions above, for tests (a conftest can't be imported)."""
    from types import SimpleNamespace

    return SimpleNamespace(open_bench=open_bench, logprobs_of=logprobs_of, VOCAB=VOCAB, CONTEXT=CONTEXT, EOS=EOS)
