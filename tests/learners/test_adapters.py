"""LoRA: what is trained, what is published, what is exported."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from learners import export as exporting
from learners import policy
from learners.adapters import adapt
from swarm.config import LoraSection
from swarm.errors import ConfigError
from swarm.weights import open_mapped

MIXED = (1.0, 0.0, 0.0, 1.0)
LORA = {"rank": 4, "alpha": 8.0}


def logits(model, tokens):
    """Past the head's hook, which a learner's model has."""
    with torch.no_grad():
        return model.model(input_ids=tokens, use_cache=False).last_hidden_state @ model.lm_head.weight.T


TOKENS = torch.arange(12)[None] + 5


def test_only_adapters_are_trained_and_the_policy_starts_as_the_model(make_learner, make_group, model_folder):
    learner = make_learner(lora=LORA)
    plain = policy.load(model_folder)
    assert torch.allclose(logits(learner._model, TOKENS), logits(plain, TOKENS), atol=1e-5)
    before = {n: p.detach().clone() for n, p in learner._model.named_parameters()}
    learner.step(1, [make_group(MIXED, 1)])
    moved = {n for n, p in learner._model.named_parameters() if not torch.equal(p, before[n])}
    assert moved
    assert all(".lora_B." in name for name in moved)  # at B = 0 the gradient of A is 0
    learner.step(2, [make_group(MIXED, 2)])
    after = {n for n, p in learner._model.named_parameters() if not torch.equal(p, before[n])}
    assert {n for n in before if ".lora_" in n} == after


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_a_publication_holds_the_adapters_and_nothing_else(make_learner, make_group, dtype):
    learner = make_learner(lora=LORA, dtype=dtype)
    learner.step(1, [make_group(MIXED, 1)])
    published = learner.publish()
    assert published.adapter_scale == 2.0
    assert published.delta is None
    tensors = open_mapped(published.path)
    names = {n.replace(".default.", ".") for n, p in learner._model.named_parameters() if p.requires_grad}
    assert set(tensors) == names
    assert published.bytes < 0.5 * sum(p.numel() * 4 for p in learner._model.parameters())
    tokens = torch.tensor(published.canary_tokens)
    want = logits(learner._model, tokens[None])[0, :-1].log_softmax(-1).gather(1, tokens[1:, None])[:, 0]
    assert torch.allclose(torch.tensor(published.canary_logprobs), want, atol=1e-5)


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_adapters_train_alike_at_every_zero_stage(make_learner, make_group, stage):
    plain, staged = make_learner(lora=LORA), make_learner(lora=LORA, zero_stage=stage)
    for step in (1, 2):
        for learner in (plain, staged):
            learner.step(step, [make_group(MIXED, step)])
    tensors = [open_mapped(learner.publish().path) for learner in (plain, staged)]
    assert list(tensors[0]) == list(tensors[1])
    for name, tensor in tensors[0].items():
        found, want = (torch.frombuffer(bytearray(t.data), dtype=torch.float32) for t in (tensors[1][name], tensor))
        assert torch.allclose(found, want, atol=1e-5), name


def test_a_resume_is_exact(make_learner, make_group, tmp_path):
    def train(learner, first, last):
        for step in range(first, last + 1):
            learner.step(step, [make_group(MIXED, step)])

    whole = make_learner(lora=LORA)
    train(whole, 1, 4)
    first = make_learner(lora=LORA)
    train(first, 1, 2)
    first.save(tmp_path)
    resumed = make_learner(lora=LORA)
    resumed.restore(tmp_path, lineage=1)
    train(resumed, 3, 4)
    assert resumed.checksum() == whole.checksum()


def test_an_export_is_the_sum_or_what_peft_reads(make_learner, make_group, model_folder, tmp_path):
    from peft import PeftModel

    learner = make_learner(lora=LORA)
    for step in (1, 2, 3):
        learner.step(step, [make_group(MIXED, step)])
    (tmp_path / "saved").mkdir()
    learner.save(tmp_path / "saved")
    want = logits(learner._model, TOKENS)
    for name, adapters in (("merged", False), ("alone", True)):
        (tmp_path / name).mkdir()
        exporting.export(
            tmp_path / "saved", Path(model_folder), tmp_path / name, "float32", LoraSection(**LORA), adapters
        )
    merged = policy.load(tmp_path / "merged")
    assert torch.allclose(logits(merged, TOKENS), want, atol=1e-5)
    assert not torch.allclose(logits(policy.load(model_folder), TOKENS), want, atol=1e-3)
    loaded = PeftModel.from_pretrained(policy.load(model_folder), tmp_path / "alone")
    assert torch.allclose(logits(loaded.get_base_model(), TOKENS), want, atol=1e-5)
    assert not list((tmp_path / "alone").glob("model*.safetensors"))


def test_targets_can_be_named_and_wrong_ones_are_refused(model_folder):
    model = policy.load(model_folder)
    adapt(model, LoraSection(targets=["q_proj"]))
    assert all(".q_proj." in n for n, p in model.named_parameters() if p.requires_grad)
    with pytest.raises(ConfigError, match=r"learners\.lora\.targets = \['no_such'\]"):
        adapt(policy.load(model_folder), LoraSection(targets=["no_such"]))
    with pytest.raises(ConfigError, match="the head cannot"):
        adapt(policy.load(model_folder), LoraSection(targets=["lm_head"]))
    with pytest.raises(ConfigError, match="not a linear layer"):
        adapt(policy.load(model_folder), LoraSection(targets=["embed_tokens"]))
