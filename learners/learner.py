"""The learner: scored groups in, weights out.

    groups -> centre (rewards, advantages) -> rows that need compute -> micro-batches
           -> forward, loss, backward each -> clip, AdamW -> version + 1 -> publish

A batch in which nothing needs compute (every advantage is 0 and there is no KL term) makes no forward pass and no
optimiser update: AdamW's momentum and weight decay alone would still move the weights, on no evidence. The step counts
(`learn/updates` is 0), and the version moves on.

With `updates_per_step` > 1 the batch is split by groups, in order; the old log-probabilities are those of the weights
before the first update, from forward passes without gradient. With 1 they equal the new ones, and no pass is spent.

With `kl_coef` > 0 a frozen float32 copy of the initial policy stays in memory, and rollouts with advantage 0 are
forwarded too, since the penalty acts on them.
"""

from __future__ import annotations

import copy
import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from learners import policy
from learners.advantages import ADVANTAGES
from learners.batching import Batch, loss_tokens, micro_batches, pack, pad, rows
from learners.engine_deepspeed import DeepSpeedEngine
from learners.layout import Layout
from learners.losses import LOSSES, kl_k3
from learners.metrics import Tally, batch_metrics
from learners.publish import Publisher
from learners.rewards import centre
from learners.schedule import lr_factor
from swarm.config import LearnersSection
from swarm.errors import DivergedError
from swarm.roles import Usage
from swarm.types import Group, PolicyVersion, StepReport, Weights
from swarm.weights import digest

_REFUSED_WRITE = ("PytorchStreamWriter", "inline_container", "unexpected pos", "file write failed")
"""What torch's RuntimeError says where the disk refused a write."""


@dataclass(slots=True)
class _Micro:
    """One micro-batch on the device; `lags` stay with the metrics."""

    tokens: Tensor
    places: Tensor
    targets: Tensor
    advantages: Tensor
    behaviour: Tensor
    temperatures: Tensor
    lags: np.ndarray
    positions: Tensor | None = None
    layout: Layout | None = None
    old: Tensor | None = None

    @property
    def inputs(self) -> tuple[Tensor | Layout | None, ...]:
        """What the policy takes."""
        return self.tokens, self.places, self.positions, self.layout, self.targets, self.temperatures


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
        publications: Path | None = None,
    ) -> None:
        """`model` is a Hugging Face folder; `dtype` (`bfloat16` or `float32`) is that of autocast and of publications;
        `version` names the initial weights; `publications` is a RAM-backed folder (default: one of its own)."""
        self._section, self._reward_weights, self.version = section, dict(reward_weights), version
        self._loss = partial(LOSSES[section.loss.name], **section.loss.options)
        self._advantage = partial(ADVANTAGES[section.advantage.name], **section.advantage.options)
        self._device = "cuda" if section.gpus > 0 else "cpu"
        torch.manual_seed(seed)
        lower = torch.bfloat16 if dtype == "bfloat16" else None
        self._model = policy.load(model)
        self._publisher = Publisher(self._model, lower or torch.float32, seed, publications)
        self._reference = None
        if section.kl_coef > 0:
            frozen = copy.deepcopy(self._model).requires_grad_(False).to(self._device)
            self._reference = policy.Policy(frozen, lower)
        trained = policy.Policy(self._model, lower)
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
        """One step on a batch. Raises DivergedError where a loss or gradient is not finite: the weights are then those
        of the last good update. Raises ValueError for an empty batch, or a step that is not the next."""
        if step != self.version.step + 1:
            raise ValueError(f"step {step} cannot follow the weights of step {self.version.step}")
        if not groups:
            raise ValueError(f"step {step}: the batch is empty")
        began = time.monotonic()
        section, tally = self._section, Tally()
        centred = [centre(group, self._reward_weights, self._advantage) for group in groups]
        lr = section.lr * lr_factor(section.schedule, step, section.steps, section.warmup_steps)
        updates = []
        for numbers in np.array_split(np.arange(len(groups)), section.updates_per_step):
            part = [centred[i] for i in numbers]
            needed = rows(part, self.version, keep_flat=section.kl_coef > 0)
            if needed:
                parts = micro_batches(needed, section.micro_tokens, self._shares)
                micros = [self._to_device(pack(p) if self._shares else pad(p)) for p in parts]
                updates.append((micros, loss_tokens(part)))
        if section.updates_per_step > 1:
            for micro in (micro for micros, _ in updates for micro in micros):
                with torch.no_grad():
                    micro.old = self._logprobs(micro)
        losses, norms = [], []
        seconds = dict.fromkeys(("forward", "backward", "optimizer"), 0.0)
        for micros, denominator in updates:
            losses.append(sum(self._accumulate(m, m is micros[-1], denominator, tally, seconds) for m in micros))
            at = time.monotonic()
            norms.append(self._engine.update(lr))
            seconds["optimizer"] += time.monotonic() - at

        metrics = batch_metrics(centred, self.version) | tally.metrics()
        metrics |= {f"learn/{name}_s": value for name, value in seconds.items()}
        metrics |= {
            "learn/loss": float(np.mean(losses)) if losses else 0.0,
            "learn/grad_norm": float(np.mean(norms)) if norms else 0.0,
            "learn/lr": lr,
            "learn/updates": float(len(updates)),
        }
        if section.kl_coef > 0 and tally.num_tokens:
            metrics["learn/kl_reference_nats"] = tally.reference_kl / tally.num_tokens
        self.version = replace(self.version, step=step)
        consumed = sum(len(rollout.tokens) for group in groups for rollout in group.rollouts)
        self._tokens += consumed
        spent = time.monotonic() - began
        self._busy += spent
        num_rollouts = sum(len(group.rollouts) for group in groups)
        return StepReport(step, num_rollouts, consumed, tally.num_tokens, spent, metrics)

    def _accumulate(
        self, micro: _Micro, last: bool, denominator: int, tally: Tally, seconds: dict[str, float]
    ) -> float:
        """Forward, loss and backward of one micro-batch; returns its part of the batch's loss."""
        at = time.monotonic()
        new = self._logprobs(micro)
        old = new.detach() if micro.old is None else micro.old
        terms = self._loss(new, old, micro.behaviour, micro.advantages, self._section.importance_cap)
        total = terms.loss.sum()
        if self._reference is not None:
            with torch.no_grad():
                reference, _ = self._reference(*micro.inputs)
            penalty = kl_k3(new, reference).sum()
            total = total + self._section.kl_coef * penalty
            tally.reference_kl += penalty.item()
        loss = total / denominator
        value = loss.item()
        if not math.isfinite(value):
            self._engine.forget()
            raise DivergedError(f"the loss is {value}; the weights are those of the update before")
        seconds["forward"] += time.monotonic() - at
        at = time.monotonic()
        self._engine.backward(loss, last)
        seconds["backward"] += time.monotonic() - at
        seen = [t.detach().cpu().numpy() for t in (new, micro.behaviour, terms.weight, terms.clipped)]
        tally.add(seen[0], seen[1], seen[2], seen[3], micro.lags)
        return float(value)

    def _logprobs(self, micro: _Micro) -> Tensor:
        """float32 [N] under the present weights, of the distribution that samples."""
        return self._engine(*micro.inputs)[0]

    def _to_device(self, batch: Batch) -> _Micro:
        names = ("tokens", "places", "targets", "advantages", "behaviour", "temperatures")
        tensors = {n: torch.from_numpy(getattr(batch, n)).to(self._device) for n in names}
        micro = _Micro(**tensors, lags=batch.lags)
        if batch.shared is not None:
            s = batch.shared
            micro.positions = torch.from_numpy(s.positions).to(self._device)
            micro.layout = Layout.of(s.prompts, s.completions, s.owner, self._device)
        return micro

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
        (folder / "learner.json").write_text(json.dumps(version | {"checksum": self.checksum()}))
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
