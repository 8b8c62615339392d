"""Lean layers compute what the model's own do."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from learners import lean

SMALL = {
    "num_hidden_layers": 2,
    "hidden_size": 32,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 48,
    "vocab_size": 61,
    "head_dim": 8,
    "max_position_embeddings": 128,
}
MODELS = {
    "llama": (lambda: LlamaForCausalLM(LlamaConfig(**SMALL)), 2 * 3 + 1),
    "qwen3, with norms of heads": (lambda: Qwen3ForCausalLM(Qwen3Config(**SMALL)), 2 * 5 + 1),
    "gemma2, whose norms add one and whose gate is GELU": (lambda: Gemma2ForCausalLM(Gemma2Config(**SMALL)), 0),
    "gpt2": (
        lambda: GPT2LMHeadModel(GPT2Config(vocab_size=61, n_embd=32, n_layer=1, n_head=2, n_positions=64)),
        0,
    ),
}
TOKENS = torch.arange(1, 25).view(3, 8)


def made(kind):
    torch.manual_seed(0)
    plain = MODELS[kind][0]().float().eval()
    with torch.no_grad():
        for name, parameter in plain.named_parameters():
            if "norm" in name:
                parameter.add_(0.3 * torch.randn_like(parameter))
    return plain, deepcopy(plain)


def gradients(model):
    logits = model(input_ids=TOKENS, use_cache=False).logits.float()
    logits.log_softmax(-1)[..., 3].sum().backward()
    return logits.detach(), {n: p.grad for n, p in model.named_parameters()}


@pytest.mark.parametrize("kind", MODELS)
def test_values_and_gradients_are_the_models_own(kind):
    plain, changed = made(kind)
    assert lean.install(changed) == MODELS[kind][1]
    wanted, of_plain = gradients(plain)
    found, of_changed = gradients(changed)
    assert torch.allclose(found, wanted, atol=1e-5)
    assert of_plain.keys() == of_changed.keys()
    for name, value in of_plain.items():
        assert torch.allclose(of_changed[name], value, rtol=1e-4, atol=1e-5), name


@pytest.mark.parametrize("kind", ["llama", "qwen3, with norms of heads"])
def test_under_autocast_they_agree_as_far_as_bfloat16_goes(kind):
    plain, changed = made(kind)
    lean.install(changed)
    with torch.autocast("cpu", torch.bfloat16):
        wanted, of_plain = gradients(plain)
        found, of_changed = gradients(changed)
    assert torch.allclose(found, wanted, atol=0.05)
    for name, value in of_plain.items():
        assert (of_changed[name] - value).norm() <= 0.02 * value.norm() + 1e-4, name


def test_norms_and_gates_are_exact_in_float64():
    draw = torch.Generator().manual_seed(0)
    x, weight, up = (torch.randn(n, 5, dtype=torch.float64, generator=draw).requires_grad_() for n in (4, 1, 4))
    assert torch.autograd.gradcheck(lean._Gate.apply, (x, up))
    eps = 1e-5
    found = lean._Norm.apply(x.float(), weight[0].float(), eps)
    wanted = x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps) * weight[0]
    assert torch.allclose(found.double(), wanted, atol=1e-6)
    for one, other in zip(
        torch.autograd.grad(found.square().sum(), (x, weight)),
        torch.autograd.grad(wanted.square().sum(), (x, weight)),
        strict=True,
    ):
        assert torch.allclose(one, other, atol=1e-5)


def test_a_copy_has_layers_of_its_own():
    _, model = made("llama")
    lean.install(model)
    copy = deepcopy(model)
    with torch.no_grad():
        for parameter in copy.parameters():
            parameter.zero_()
        assert copy(input_ids=TOKENS).logits.abs().max() == 0
        assert model(input_ids=TOKENS).logits.abs().max() > 0


def test_gates_with_adapters_are_lean_and_their_frozen_weights_get_no_gradient():
    from peft import LoraConfig, inject_adapter_in_model

    plain, changed = made("llama")
    for model in (plain, changed):
        torch.manual_seed(1)
        inject_adapter_in_model(LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False), model)
    assert lean.install(changed) == 2 * 3 + 1
    wanted, of_plain = gradients(plain)
    found, of_changed = gradients(changed)
    assert torch.allclose(found, wanted, atol=1e-5)
    for name, value in of_plain.items():
        assert (value is None) == (of_changed[name] is None) == ("lora_" not in name)
        assert value is None or torch.allclose(of_changed[name], value, rtol=1e-4, atol=1e-5), name


def test_a_norm_that_is_something_else_is_left_alone():
    class OddRMSNorm(torch.nn.RMSNorm):
        def forward(self, x):
            return super().forward(x) + 1

    odd = OddRMSNorm(8, eps=1e-6)
    before = odd.forward
    assert lean.install(odd) == 0
    assert odd.forward == before
