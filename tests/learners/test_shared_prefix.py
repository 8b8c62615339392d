"""Packed groups give what every rollout alone gives."""

from __future__ import annotations

from copy import deepcopy

import numpy as np
import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, MistralConfig, MistralForCausalLM, Qwen3Config, Qwen3ForCausalLM

from learners import shared_prefix
from learners.layout import Layout

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
SHAPES = {
    "one completion": [(5, [4])],
    "several prompts": [(5, [4, 1, 9]), (2, [3, 3]), (7, [6])],
    "only first tokens": [(4, [0, 0, 0]), (6, [0])],
    "some of one token": [(1, [0, 5, 2]), (8, [0])],
}


@pytest.fixture(scope="module")
def qwen():
    torch.manual_seed(0)
    return Qwen3ForCausalLM(Qwen3Config(**SMALL)).float().eval()


def packed(shape, rng, tile=64):
    """Tokens, positions and layout, and each completion's own full sequence with the places of it in the pack."""
    tokens, positions, prompts, completions, owner, alone = [], [], [], [], [], []
    for prompt_length, lengths in shape:
        prompt, start = rng.integers(0, 61, prompt_length), len(tokens)
        prompts.append((start, prompt_length))
        tokens += prompt.tolist()
        positions += range(prompt_length)
        for length in lengths:
            own = rng.integers(0, 61, length)
            places = [*range(start, start + prompt_length), *range(len(tokens), len(tokens) + length)]
            completions.append((len(tokens), length))
            owner.append(len(prompts) - 1)
            tokens += own.tolist()
            positions += range(prompt_length, prompt_length + length)
            alone.append(([*prompt, *own], places))
    layout = Layout.of(np.array(prompts), np.array(completions), np.array(owner), tile=tile)
    return torch.tensor([tokens]), torch.tensor([positions]), layout, alone


@pytest.mark.parametrize("tile", [64, 3, 1, 0])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_logits_and_gradients_are_those_of_each_rollout_alone(qwen, shape, tile):
    tokens, positions, layout, alone = packed(shape, np.random.default_rng(1), tile)
    plain, shared = deepcopy(qwen), deepcopy(qwen)
    assert shared_prefix.install(shared)
    logits = shared(input_ids=tokens, position_ids=positions, layout=layout, use_cache=False).logits[0]
    weights = torch.randn(len(alone), 61)
    total = torch.zeros(())
    for (sequence, places), weight in zip(alone, weights, strict=True):
        own = plain(input_ids=torch.tensor([sequence]), use_cache=False).logits[0]
        assert torch.allclose(logits[places], own, atol=1e-5)
        total = total + (own.log_softmax(-1) * weight).sum()
    total.backward()
    sum((logits[p].log_softmax(-1) * w).sum() for (_, p), w in zip(alone, weights, strict=True)).backward()
    for (name, one), other in zip(plain.named_parameters(), shared.parameters(), strict=True):
        assert torch.allclose(one.grad, other.grad, rtol=1e-3, atol=1e-4), name


def test_tiles_leave_out_completions_that_have_ended():
    _, _, layout, _ = packed([(5, [4, 1, 9]), (2, [3, 7])], np.random.default_rng(0), tile=4)
    assert [(t.count, t.start, t.end) for t in layout.tiles] == [(5, 0, 4), (2, 4, 8), (1, 8, 9)]
    assert [tuple(t.mask.shape) for t in layout.tiles] == [(5, 1, 4, 9), (2, 1, 4, 13), (1, 1, 1, 14)]
    assert layout.owner.tolist() == [0, 1, 0, 1, 0]  # from long to short


def test_attention_under_autocast_is_in_its_dtype(qwen):
    tokens, positions, layout, _ = packed(SHAPES["several prompts"], np.random.default_rng(1), 3)
    shared = deepcopy(qwen)
    assert shared_prefix.install(shared)
    wanted = shared(input_ids=tokens, position_ids=positions, layout=layout, use_cache=False).logits
    with torch.autocast("cpu", torch.bfloat16):
        found = shared(input_ids=tokens, position_ids=positions, layout=layout, use_cache=False).logits
    found.float().square().sum().backward()
    assert (found - wanted).abs().max() < 0.1
    assert all(torch.isfinite(p.grad).all() for p in shared.parameters())


def test_without_a_layout_the_model_is_as_before(qwen):
    shared = deepcopy(qwen)
    assert shared_prefix.install(shared)
    tokens = torch.randint(0, 61, (3, 9))
    assert torch.equal(shared(input_ids=tokens).logits, qwen(input_ids=tokens).logits)


@pytest.mark.parametrize(
    "make",
    [
        lambda: MistralForCausalLM(MistralConfig(**SMALL, sliding_window=4)),
        lambda: GPT2LMHeadModel(GPT2Config(vocab_size=61, n_embd=32, n_layer=1, n_head=2, n_positions=64)),
    ],
    ids=["sliding window", "gpt2"],
)
def test_a_model_that_cannot_share_is_left_as_it_was_or_proves_that_it_can(make):
    model = make().float().eval()
    before = model.config._attn_implementation
    if not shared_prefix.install(model):
        assert model.config._attn_implementation == before
    tokens = torch.randint(0, 61, (1, 9))
    assert torch.isfinite(model(input_ids=tokens).logits).all()


def test_a_sliding_window_is_not_shared():
    assert not shared_prefix.install(MistralForCausalLM(MistralConfig(**SMALL, sliding_window=4)).eval())
