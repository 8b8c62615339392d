"""The learner: scored groups in, weights out.

    groups -> centre (rewards, advantages) -> rows that need compute -> micro-batches
           -> forward, loss, backward each -> clip, AdamW -> version + 1 -> publish

A batch in which nothing needs compute (every advantage is 0 and there is no KL term) makes no forward pass and no
optimiser update: AdamW's momentum and weight decay alone would still move the weights, on no evidence. The step counts
(`learn/updates` is 0), and the version moves on.

With `updates_per_step` > 1 the batch is split by groups, in order; the old log-probabilities are those of the weights
before the first update, from forward passes without gradient. With 1 they equal the new ones, and no pass is spent.

With several ranks each process has such a learner, called with the same arguments. Every rank sees the whole batch and
passes its share of it; gradients are summed, since the loss is already divided by the tokens of all, and every rank
reports the figures of the whole batch. Only rank 0 publishes.

With `kl_coef` > 0 a frozen float32 copy of the initial policy stays in memory, and rollouts with advantage 0 are
forwarded too, since the penalty acts on them.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from learners import policy, saving
from learners.advantages import ADVANTAGES
from learners.batching import Batch, Row, loss_tokens, micro_batches, pack, pad, rows, shares_of
from learners.engine_deepspeed import DeepSpeedEngine
from learners.losses import LOSSES, kl_k3
from learners.metrics import Tally, batch_metrics
from learners.publish import Publisher
from learners.rewards import centre
from learners.schedule import lr_factor
from learners.shared_prefix import Layout
from learners.state import SavedState
from swarm.config import LearnersSection
from swarm.errors import DivergedError
from swarm.roles import Saved, Usage
from swarm.types import Group, PolicyVersion, StepReport, Weights
from swarm.weights import digest


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
    idle: bool = False
    """Another rank's turn: passed forward and backward for the collectives, without any gradient."""


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
        rank: int = 0,
        store: torch.distributed.Store | None = None,
    ) -> None:
        """`model` is a Hugging Face folder; `dtype` (`bfloat16` or `float32`) is that of autocast and of publications;
        `version` names the initial weights; `publications` is a RAM-backed folder (default: one of its own). `rank`
        of `section.ranks`, which meet in `store` (`learners.ranks`; needed with several)."""
        self._section, self._reward_weights, self.version = section, dict(reward_weights), version
        self._loss = partial(LOSSES[section.loss.name], **section.loss.options)
        self._advantage = partial(ADVANTAGES[section.advantage.name], **section.advantage.options)
        self._device = "cuda" if section.gpus > 0 else "cpu"
        torch.manual_seed(seed)
        lower = torch.bfloat16 if dtype == "bfloat16" else None
        self._model = policy.load(model)
        self._publisher = None if rank else Publisher(self._model, lower or torch.float32, seed, publications)
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
            offload=section.offload,
            device=self._device,
            rank=rank,
            ranks=section.ranks,
            store=store,
        )
        self._rank = rank
        self._saver = saving.Saver(self._engine, rank, section.ranks, buffered=section.checkpoint_every < section.steps)
        self._ready, self._busy, self._tokens = time.monotonic(), 0.0, 0

    def step(self, step: int, groups: Sequence[Group]) -> StepReport:
        """One step on a batch. Raises DivergedError where a loss or gradient is not finite: the weights are then those
        of the last good update. Raises ValueError for an empty batch, or a step that is not the next."""
        if step != self.version.step + 1:
            raise ValueError(f"step {step} cannot follow the weights of step {self.version.step}")
        if not groups:
            raise ValueError(f"step {step}: the batch is empty")
        began = time.monotonic()
        self._saver.before_change()
        section, tally = self._section, Tally()
        centred = [centre(group, self._reward_weights, self._advantage) for group in groups]
        lr = section.lr * lr_factor(section.schedule, step, section.steps, section.warmup_steps)
        updates = []
        for numbers in np.array_split(np.arange(len(groups)), section.updates_per_step):
            part = [centred[i] for i in numbers]
            needed = rows(part, self.version, keep_flat=section.kl_coef > 0)
            if needed:
                parts = micro_batches(needed, section.micro_tokens, self._shares, section.ranks)
                mine = shares_of(parts, section.ranks, self._shares)[self._rank]
                micros = [self._micro(part, needed) for part in mine]
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

        tally = Tally.joined(self._engine.gather(tally))
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
        self._tokens += 0 if self._rank else consumed  # once for all ranks
        spent = time.monotonic() - began
        self._busy += spent
        num_rollouts = sum(len(group.rollouts) for group in groups)
        return StepReport(step, num_rollouts, consumed, tally.num_tokens, spent, metrics)

    def _accumulate(
        self, micro: _Micro, last: bool, denominator: int, tally: Tally, seconds: dict[str, float]
    ) -> float:
        """Forward, loss and backward of one micro-batch; returns its part of the batch's loss, and those that the
        other ranks did at the same time."""
        at = time.monotonic()
        new = self._logprobs(micro)
        if micro.idle:
            value = self._engine.sum(0.0)
            self._check(value)
            self._engine.backward(new.sum() * 0.0, last)
            return value
        old = new.detach() if micro.old is None else micro.old
        terms = self._loss(new, old, micro.behaviour, micro.advantages, self._section.importance_cap)
        total = terms.loss.sum()
        if self._reference is not None:
            with torch.no_grad():
                logits = self._reference(micro.tokens, micro.places, micro.positions, micro.layout)
                reference = policy.token_logprobs(logits, micro.targets, micro.temperatures)
            penalty = kl_k3(new, reference).sum()
            total = total + self._section.kl_coef * penalty
            tally.reference_kl += penalty.item()
        loss = total / denominator
        value = self._engine.sum(loss.item())
        self._check(value)
        seconds["forward"] += time.monotonic() - at
        at = time.monotonic()
        self._engine.backward(loss, last)
        seconds["backward"] += time.monotonic() - at
        seen = [t.detach().cpu().numpy() for t in (new, micro.behaviour, terms.weight, terms.clipped)]
        tally.add(seen[0], seen[1], seen[2], seen[3], micro.lags)
        return value

    def _check(self, loss: float) -> None:
        if not math.isfinite(loss):
            self._engine.forget()
            raise DivergedError(f"the loss is {loss}; the weights are those of the update before")

    def _logprobs(self, micro: _Micro) -> Tensor:
        """float32 [N] under the present weights, of the distribution that samples."""
        logits = self._engine(micro.tokens, micro.places, micro.positions, micro.layout)
        return policy.token_logprobs(logits, micro.targets, micro.temperatures)

    def _micro(self, part: Sequence[Row], all_rows: Sequence[Row]) -> _Micro:
        """One micro-batch of this rank; where it has none, the cheapest row as an idle one."""
        items = part or [min(all_rows, key=lambda row: row.length)]
        micro = self._to_device(pack(items) if self._shares else pad(items))
        micro.idle = not part
        return micro

    def _to_device(self, batch: Batch) -> _Micro:
        names = ("tokens", "places", "targets", "advantages", "behaviour", "temperatures")
        tensors = {n: torch.from_numpy(getattr(batch, n)).to(self._device) for n in names}
        micro = _Micro(**tensors, lags=batch.lags)
        if batch.shared is not None:
            s = batch.shared
            micro.positions = torch.from_numpy(s.positions).to(self._device)
            micro.layout = Layout.of(s.prompts, s.completions, s.owner, self._device)
        return micro

    def publish(self) -> Weights | None:
        """Write the present weights to shared memory in the engines' dtype, with the canary's log-probabilities.
        None on all ranks but the first."""
        began, weights = time.monotonic(), None
        with self._engine.parameters(self._model) as parameters:
            if self._publisher is not None:
                weights = self._publisher.publish(parameters, self.version)
        self._busy += time.monotonic() - began
        return weights

    def checksum(self) -> str:
        """xxh3-128 of the float32 master weights: equal histories on one machine and thread count give equal ones."""
        with self._engine.parameters(self._model) as parameters:
            return digest((n, "float32", p.shape, p.cpu().contiguous().numpy()) for n, p in parameters.items())

    def save(self, folder: Path) -> Saved:
        """Take the state of this moment, and write it into an existing folder while training goes on. `saved` tells
        how that ended; one saving is under way at a time. Returns what it took."""
        began = time.monotonic()
        facts = {"learner": self.version.learner, "lineage": self.version.lineage, "step": self.version.step}
        size = self._saver.start(folder, facts)
        spent = time.monotonic() - began
        self._busy += spent
        return Saved(spent, size)

    def saved(self) -> None:
        """Wait until what `save` began is in its files. Raises OSError where they could not be written."""
        self._saver.wait()

    def restore(self, folder: Path, lineage: int) -> None:
        """The state that `save` wrote, by any number of ranks at any ZeRO stage; versions from now on belong to
        `lineage`. Raises ValueError where the state is broken or another model's, OSError where files are missing."""
        began = time.monotonic()
        self._saver.settle()
        facts, rng, state = saving.read(folder)
        self._engine.load(state)
        torch.set_rng_state(rng["rng"])
        if len(rng["rng_cuda"]) == torch.cuda.device_count():
            torch.cuda.set_rng_state_all(rng["rng_cuda"])
        self._compare(state)
        self.version = PolicyVersion(facts["learner"], lineage, facts["step"])
        self._busy += time.monotonic() - began

    def _compare(self, state: SavedState) -> None:
        """The module's weights, which DeepSpeed copies from what was read, with the files."""
        with self._engine.parameters(self._model) as parameters:
            odd = [n for n in state.shapes if not torch.equal(parameters[n].cpu(), state.whole("weight", n))]
        if odd:
            raise ValueError(f"{state.folder}: {odd[0]} is not in the module as it was saved")

    def usage(self) -> Usage:
        """Seconds and completion tokens since it was ready."""
        idle = time.monotonic() - self._ready - self._busy
        return Usage(busy_s=self._busy, idle_s=idle, cpu_s=time.process_time(), tokens=self._tokens)

    def close(self) -> None:
        """Remove what was published and free the memory."""
        self._saver.settle()
        if self._publisher is not None:
            self._publisher.close()
        self._engine.close()
