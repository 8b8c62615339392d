"""ZeRO stages 0 to 3 on one rank: the same learner, in the same process one after the other."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from learners.losses import LOSSES, Terms, token_mean
from swarm.errors import DivergedError
from swarm.weights import open_mapped

MIXED = (1.0, 0.0, 0.0, 1.0)


def train(learner, make_group, first, last):
    return [
        learner.step(step, [make_group(MIXED, step), make_group(MIXED, 20 + step, prompt_length=4)])
        for step in range(first, last + 1)
    ]


def masters(learner):
    with learner._engine.parameters(learner._model) as parameters:
        return {name: p.clone() for name, p in parameters.items()}


STAGES = pytest.mark.parametrize(
    "stage", [pytest.param(1, marks=pytest.mark.slow), pytest.param(2, marks=pytest.mark.slow), 3]
)
"""Each stage has its own optimiser in DeepSpeed; 3 has the most that can go wrong."""


@STAGES
def test_all_stages_train_alike_over_several_micro_batches(make_learner, make_group, stage):
    options = {"micro_tokens": 40, "grad_clip": 0.5, "lr": 1e-3, "weight_decay": 0.1}
    plain, sharded = make_learner(**options), make_learner(zero_stage=stage, **options)
    for one, other in zip(train(plain, make_group, 1, 3), train(sharded, make_group, 1, 3), strict=True):
        for key in ("learn/loss", "learn/grad_norm", "learn/kl_behaviour_nats"):
            assert other.metrics[key] == pytest.approx(one.metrics[key], rel=1e-3, abs=1e-6), key
    wanted = masters(plain)
    for name, value in masters(sharded).items():
        assert torch.allclose(value, wanted[name], atol=1e-5), name
    published = open_mapped(sharded.publish().path)
    assert list(published) == list(wanted)


@STAGES
def test_a_resume_is_exact_at_every_stage(make_learner, make_group, tmp_path, stage):
    whole = make_learner(zero_stage=stage)
    train(whole, make_group, 1, 2)
    whole.save(tmp_path)
    train(whole, make_group, 3, 4)
    whole.saved()
    resumed = make_learner(zero_stage=stage)
    resumed.restore(tmp_path, lineage=1)
    train(resumed, make_group, 3, 4)
    assert resumed.checksum() == whole.checksum()


@STAGES
def test_bad_numbers_leave_the_weights_alone_at_every_stage(make_learner, make_group, monkeypatch, stage):
    def cusp(t):
        return Terms((t.new - t.new.detach()).abs().sqrt(), t.advantage > 0, token_mean)

    monkeypatch.setitem(LOSSES, "cusp", cusp)
    learner = make_learner(zero_stage=stage, loss={"name": "cusp"})
    before = learner.checksum()
    with pytest.raises(DivergedError, match="gradient"):
        learner.step(1, [make_group(MIXED, 1)])
    assert learner.checksum() == before

    learner = make_learner(zero_stage=stage, limits={"grad_norm": 1e-6})
    with pytest.raises(DivergedError, match="norm is"):
        learner.step(1, [make_group(MIXED, 1)])
    assert learner.checksum() == before

    learner, fresh = (make_learner(zero_stage=stage, micro_tokens=1) for _ in range(2))
    group = make_group(MIXED, 1)
    bad = replace(group.rollouts[-1], logprobs=np.full(len(group.rollouts[-1].tokens), np.nan, np.float32))
    with pytest.raises(DivergedError, match="loss"):
        learner.step(1, [replace(group, rollouts=(*group.rollouts[:-1], bad))])
    assert learner.checksum() == before
    for one in (learner, fresh):  # nothing is left of the passes before the bad one
        one.step(1, [group])
    assert learner.checksum() == fresh.checksum()


@pytest.mark.parametrize("stage", [1, pytest.param(2, marks=pytest.mark.slow), pytest.param(3, marks=pytest.mark.slow)])
def test_offload_trains_alike(make_learner, make_group, tmp_path, stage):
    options = {"micro_tokens": 40, "lr": 1e-3, "zero_stage": stage}
    plain, other = make_learner(**options), make_learner(offload=True, **options)
    for learner in (plain, other):
        train(learner, make_group, 1, 3)
    wanted = masters(plain)
    for name, value in masters(other).items():
        assert torch.allclose(value, wanted[name], atol=1e-5), name
    other.save(tmp_path)
    other.saved()
    plain.restore(tmp_path, lineage=0)
    assert plain.checksum() == other.checksum()


def test_a_machine_without_a_compiler_works_and_stdout_stays_clean():
    code = """
import torch
from learners.engine_deepspeed import DeepSpeedEngine
module = torch.nn.Linear(4, 4)
engine = DeepSpeedEngine(module, lr=0.1, betas=(0.9, 0.95), weight_decay=0.0, grad_clip=1.0, zero_stage=1)
before = module.weight.clone()
engine.backward(engine(torch.ones(2, 4)).square().sum(), True)
assert engine.update(0.1) > 0
assert not torch.equal(module.weight, before)
engine.close()
import psutil
for c in psutil.Process().net_connections():
    assert not c.laddr or c.laddr.ip in ("127.0.0.1", "::1", "::ffff:127.0.0.1"), c
"""
    env = {k: v for k, v in os.environ.items() if k not in ("PATH", "DS_ACCELERATOR", "CC", "CXX")}
    done = subprocess.run(
        [sys.executable, "-c", code], env=env | {"PATH": ""}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
