"""The policy module: which of its two ways a model gets, and that both say what the model says."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import (
    CohereConfig,
    CohereForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    GraniteConfig,
    GraniteForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PhiConfig,
    PhiForCausalLM,
)

from learners import policy

SMALL = {
    "num_hidden_layers": 1,
    "hidden_size": 32,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 48,
    "vocab_size": 61,
    "head_dim": 8,
    "max_position_embeddings": 128,
}
MODELS = {
    "llama, tied": lambda: LlamaForCausalLM(LlamaConfig(**SMALL, tie_word_embeddings=True)),
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**SMALL)),
    "gpt2": lambda: GPT2LMHeadModel(GPT2Config(vocab_size=61, n_embd=32, n_layer=1, n_head=2, n_positions=64)),
    "phi, with a bias": lambda: PhiForCausalLM(PhiConfig(**{k: v for k, v in SMALL.items() if k != "head_dim"})),
    "cohere, scaled": lambda: CohereForCausalLM(
        CohereConfig(**{k: v for k, v in SMALL.items() if k != "head_dim"}, logit_scale=0.3, pad_token_id=0)
    ),
    "granite, divided": lambda: GraniteForCausalLM(GraniteConfig(**SMALL, logits_scaling=4.0)),
    "gemma2, capped": lambda: Gemma2ForCausalLM(Gemma2Config(**SMALL, final_logit_softcapping=0.5)),
}
TOKENS = torch.from_numpy(np.random.default_rng(0).integers(1, 61, (2, 7)))
PLACES = torch.tensor([2, 3, 5, 9, 12])
TARGETS = torch.tensor([4, 60, 0, 7, 4])
TEMPERATURES = torch.tensor([1.0, 0.7, 1.0, 1.3, 1.0])


def made(kind):
    torch.manual_seed(0)
    model = MODELS[kind]().float().eval()
    head = model.get_output_embeddings()
    with torch.no_grad():  # as wide as a trained model's, so that a forgotten scale is seen
        head.weight.normal_(std=0.5)
        if head.bias is not None:
            head.bias.normal_(std=0.5)
    return model


def run(module, entropy=None):
    return module(TOKENS, PLACES, None, None, TARGETS, TEMPERATURES, entropy)


@pytest.mark.parametrize("kind", MODELS)
def test_log_probabilities_and_entropy_are_those_of_the_models_own_logits(kind):
    model = made(kind)
    logits = model(input_ids=TOKENS, use_cache=False).logits.flatten(0, 1)[PLACES]
    wanted = (logits / TEMPERATURES[:, None]).log_softmax(-1)
    module = policy.Policy(model, None)
    assert module.blockwise
    found, spread = run(module, entropy=True)
    assert torch.allclose(found, wanted.gather(1, TARGETS[:, None])[:, 0], atol=1e-5)
    assert torch.allclose(spread, -(wanted.exp() * wanted).sum(-1), atol=1e-5)
    again = model(input_ids=TOKENS, use_cache=False).logits.flatten(0, 1)[PLACES]
    assert torch.allclose(again, logits, atol=1e-5)  # the model can still be asked for logits


@pytest.mark.parametrize("kind", MODELS)
def test_both_ways_have_the_same_gradient(kind):
    module = policy.Policy(made(kind), None)
    gradients = []
    for blockwise in (True, False):
        module.blockwise = blockwise
        module.zero_grad()
        logprobs, spread = run(module, entropy=True)
        (logprobs.sum() + 0.1 * spread.sum()).backward()
        gradients.append({n: p.grad.clone() for n, p in module.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for name, value in gradients[0].items():
        assert torch.allclose(value, gradients[1][name], rtol=1e-4, atol=1e-5), name


def test_logits_that_nobody_can_explain_are_the_models_own():
    model = made("llama")
    plain = model.forward

    def odd(*args, **kwargs):
        out = plain(*args, **kwargs)
        out.logits = out.logits.clamp(max=0.1)
        return out

    model.forward = odd
    module, rows = policy.Policy(model, None), []
    assert not module.blockwise
    model.lm_head.register_forward_hook(lambda head, args, out: rows.append(args[0].shape))
    found, spread = run(module, entropy=False)
    assert rows == [(1, 5, 32)]  # the head sees the chosen positions and no other
    logits = odd(input_ids=TOKENS, use_cache=False).logits.flatten(0, 1)[PLACES]
    wanted = (logits / TEMPERATURES[:, None]).log_softmax(-1)
    assert torch.allclose(found, wanted.gather(1, TARGETS[:, None])[:, 0], atol=1e-5)
    assert not spread.requires_grad


def test_a_head_sees_only_the_chosen_positions():
    model, rows = made("llama"), []
    module = policy.Policy(model, None)
    model.lm_head.register_forward_hook(lambda head, args, out: rows.append(args[0].shape))
    run(module)
    assert rows == [(5, 32)]
