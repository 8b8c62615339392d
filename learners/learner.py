"""The learner: scored groups in, weights out.

    groups -> centre (rewards, advantages) -> rows that need compute -> micro-batches
           -> forward, loss, backward each -> clip, AdamW -> version + 1 -> publish

A batch in which nothing needs compute (every advantage is 0 and there is no KL term) makes no forward pass and no
optimiser update: AdamW's momentum and weight decay alone would still move the weights, on no evidence. The step counts
(`learn/updates` is 0), and the version moves on.

With `updates_per_step` > 1 the batch is split by groups, in order; the old log-probabilities are those of the weights
before the first update, from forward passes without gradient. With 1 they equal the new ones, and no pass is spent.

With a KL penalty, or a loss that compares with it, a frozen float32 copy of the initial policy stays in memory; then,
and with an entropy bonus, rollouts with advantage 0 are forwarded too, since these act on them.
"""

from __future__ import annotations

import copy
import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch

from learners.adapters import adapt
from learners.advantages import ADVANTAGES
from learners.batching import micro_batches, pack, pad, rows, totals
from learners.engine_deepspeed import DeepSpeedEngine
from learners.losses import Totals
from learners.metrics import Seen, batch_metrics
from learners.objective import Micro, Objective
from learners.policy import Policy, load
from learners.prompt_stats import prompt_stats
from learners.publish import Publisher
from learners.rewards import Treatment
from learners.schedule import lr_factor
from learners.truncation import TRUNCATIONS
from swarm.config import LearnersSection
from swarm.errors import DivergedError
from swarm.roles import Usage
from swarm.types import Group, PolicyVersion, StepReport, Weights
from swarm.weights import digest

_REFUSED_WRITE = ("PytorchStreamWriter", "inline_container", "unexpected pos", "file write failed")
"""What torch's RuntimeError says where the disk refused a write."""


class PolicyLearner:
    """Policy-gradient learner on DeepSpeed; implements `swarm.roles.Learner`. One lives in a process at a time."""

    def __init__(
        self,
        model: str | Path,
        *,
        dtype: str,
        section: LearnersSection,
        reward_weights: Mapping[str, float],
        seed: int,
        version: PolicyVersion,
        max_tokens: int,
        publications: Path | None = None,
    ) -> None:
        """`model` is a Hugging Face folder; `dtype` (`bfloat16` or `float32`) is that of autocast and of publications;
        `version` names the initial weights; `max_tokens` is the recipe's limit of a completion; `publications` is a
        RAM-backed folder (default: one of its own)."""
        self._section, self.version, self._max_tokens = section, version, max_tokens
        self._objective = Objective(section)
        self._treatment = Treatment(
            weights=dict(reward_weights),
            advantage=partial(ADVANTAGES[section.advantage.name], **section.advantage.options),
            truncation=partial(TRUNCATIONS[section.truncation.name], **section.truncation.options),
            max_tokens=max_tokens,
        )
        self._device = "cuda" if section.gpus > 0 else "cpu"
        torch.manual_seed(seed)
        lower = torch.bfloat16 if dtype == "bfloat16" else None
        self._model = load(model)
        scale = adapt(self._model, section.lora) if section.lora else None
        self._publisher = Publisher(self._model, lower or torch.float32, seed, publications, scale)
        self._reference = None
        if self._objective.needs_reference:
            frozen = copy.deepcopy(self._model).requires_grad_(False).to(self._device)
            self._reference = Policy(frozen, lower)
        trained = Policy(self._model, lower)
        self._shares = trained.shares
        self._engine = DeepSpeedEngine(
            trained,
            lr=section.lr,
            betas=section.betas,
            weight_decay=section.weight_decay,
            grad_clip=section.grad_clip,
            zero_stage=section.zero_stage,
            device=self._device,
        )
        self._ready, self._busy, self._tokens = time.monotonic(), 0.0, 0

    def step(self, step: int, groups: Sequence[Group]) -> StepReport:
        """One step on a batch. Raises DivergedError where a loss or gradient is not finite, or beyond the recipe's
        limits: the weights are then those of the last good update. Raises ValueError for an empty batch, or a step
        that is not the next."""
        if step != self.version.step + 1:
            raise ValueError(f"step {step} cannot follow the weights of step {self.version.step}")
        if not groups:
            raise ValueError(f"step {step}: the batch is empty")
        began = time.monotonic()
        section = self._section
        centred = self._treatment.centre(groups)
        lr = section.lr * lr_factor(section.schedule, step, section.steps, section.warmup_steps)
        updates = []
        for numbers in np.array_split(np.arange(len(groups)), section.updates_per_step):
            part = [centred[i] for i in numbers]
            needed = rows(part, self.version, self._objective.keeps_flat)
            if needed:
                parts = micro_batches(needed, section.micro_tokens, self._shares, self._objective.whole_groups)
                micros = [Micro.of(pack(p) if self._shares else pad(p), self._device) for p in parts]
                updates.append((micros, totals(part, self._max_tokens)))
        if self._objective.needs_start:
            for micro in (micro for micros, _ in updates for micro in micros):
                with torch.no_grad():
                    micro.old, _ = self._engine(*micro.inputs)
        losses, norms, seen = [], [], []
        seconds = dict.fromkeys(("forward", "backward", "optimizer"), 0.0)
        for micros, of_batch in updates:
            found = [self._accumulate(m, m is micros[-1], of_batch, seconds) for m in micros]
            losses.append(sum(loss for loss, _ in found))
            seen.append(Seen.joined([part for _, part in found]))
            at = time.monotonic()
            norms.append(self._update(lr, seen[-1]))
            seconds["optimizer"] += time.monotonic() - at

        trained = Seen.joined(seen) if seen else None
        metrics = batch_metrics(centred, self.version) | (trained.metrics() if trained else {})
        metrics |= {f"learn/{name}_s": value for name, value in seconds.items()}
        metrics |= {
            "learn/loss": float(np.mean(losses)) if losses else 0.0,
            "learn/grad_norm": float(np.mean(norms)) if norms else 0.0,
            "learn/lr": lr,
            "learn/updates": float(len(updates)),
        }
        self.version = replace(self.version, step=step)
        consumed = sum(len(rollout.tokens) for group in groups for rollout in group.rollouts)
        self._tokens += consumed
        spent = time.monotonic() - began
        self._busy += spent
        num_rollouts = sum(len(group.rollouts) for group in groups)
        num_trained = len(trained.new) if trained else 0
        known = tuple(prompt_stats(group, self._treatment.weights) for group in groups)
        return StepReport(step, num_rollouts, consumed, num_trained, spent, metrics, known)

    def _accumulate(self, micro: Micro, last: bool, of_batch: Totals, seconds: dict[str, float]) -> tuple[float, Seen]:
        """Forward, loss and backward of one micro-batch: its part of the batch's loss, and what it saw."""
        at = time.monotonic()
        new, entropy = self._engine(*micro.inputs, True if self._objective.needs_entropy else None)
        reference = None
        if self._reference is not None:
            with torch.no_grad():
                reference, _ = self._reference(*micro.inputs)
        loss, seen = self._objective(new, entropy, reference, micro, of_batch)
        value = loss.item()
        if not math.isfinite(value):
            self._engine.forget()
            raise DivergedError(f"the loss is {value}")
        seconds["forward"] += time.monotonic() - at
        at = time.monotonic()
        self._engine.backward(loss, last)
        seconds["backward"] += time.monotonic() - at
        return float(value), seen

    def _update(self, lr: float, seen: Seen) -> float:
        """Check what the update was made of, then make it; the gradient norm before clipping."""
        try:
            seen.check(self._section.limits)
        except DivergedError:
            self._engine.forget()
            raise
        return self._engine.update(lr, self._section.limits.grad_norm)

    def publish(self) -> Weights:
        """Write the present weights to shared memory in the engines' dtype, with the canary's log-probabilities."""
        began = time.monotonic()
        with self._engine.parameters(self._model) as parameters:
            weights = self._publisher.publish(parameters, self.version)
        self._busy += time.monotonic() - began
        return weights

    def checksum(self) -> str:
        """xxh3-128 of the float32 master weights: equal histories on one machine and thread count give equal ones."""
        with self._engine.parameters(self._model) as parameters:
            return digest((n, "float32", p.shape, p.cpu().contiguous().numpy()) for n, p in parameters.items())

    def save(self, folder: Path) -> None:
        """Weights, moments, random states and the version, into an existing empty folder. Raises OSError where the
        folder cannot take them."""
        began = time.monotonic()
        state = {"rng": torch.get_rng_state(), "rng_cuda": torch.cuda.get_rng_state_all()}
        try:
            self._engine.save(folder)
            torch.save(state, folder / "rng.pt")
        except RuntimeError as error:
            if not any(mark in str(error) for mark in _REFUSED_WRITE):
                raise
            raise OSError(f"{folder}: cannot be written ({str(error).splitlines()[0]})") from error
        version = {"learner": self.version.learner, "lineage": self.version.lineage, "step": self.version.step}
        kept = {"checksum": self.checksum(), "baselines": self._treatment.baselines}
        (folder / "learner.json").write_text(json.dumps(version | kept))
        self._busy += time.monotonic() - began

    def restore(self, folder: Path, lineage: int) -> None:
        """The state that `save` wrote; versions from now on belong to `lineage`. Raises ValueError where the weights
        that were read are not those that were saved, OSError where files are missing."""
        began = time.monotonic()
        saved = json.loads((folder / "learner.json").read_text())
        self._engine.load(folder)
        state = torch.load(folder / "rng.pt", weights_only=True)
        torch.set_rng_state(state["rng"])
        if len(state["rng_cuda"]) == torch.cuda.device_count():
            torch.cuda.set_rng_state_all(state["rng_cuda"])
        if (found := self.checksum()) != saved["checksum"]:
            raise ValueError(f"{folder}: weights have checksum {found}, saved were {saved['checksum']}")
        self._treatment.baselines = saved["baselines"]
        self.version = PolicyVersion(saved["learner"], lineage, saved["step"])
        self._busy += time.monotonic() - began

    def usage(self) -> Usage:
        """Seconds and completion tokens since it was ready."""
        idle = time.monotonic() - self._ready - self._busy
        return Usage(busy_s=self._busy, idle_s=idle, cpu_s=time.process_time(), tokens=self._tokens)

    def close(self) -> None:
        """Remove what was published and free the memory."""
        self._publisher.close()
        self._engine.close()
