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

With a KL penalty, or a loss that compares with it, a frozen float32 copy of the initial policy stays in memory; then,
and with an entropy bonus, rollouts with advantage 0 are forwarded too, since these act on them.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch

from learners import saving
from learners.adapters import adapt
from learners.advantages import ADVANTAGES
from learners.batching import Row, micro_batches, pack, pad, rows, shares_of, totals
from learners.engine_deepspeed import DeepSpeedEngine
from learners.losses import Totals
from learners.metrics import Seen, batch_metrics, reward_metrics
from learners.noise import NOISES
from learners.objective import Micro, Objective
from learners.policy import Policy, load
from learners.prompt_stats import prompt_stats
from learners.publish import Publisher
from learners.rewards import Treatment
from learners.schedule import lr_factor
from learners.state import SavedState
from learners.truncation import PENALTIES, TRUNCATIONS
from swarm.config import LearnersSection
from swarm.errors import DivergedError
from swarm.roles import Saved, Usage
from swarm.types import Group, PolicyVersion, StepReport, Weights
from swarm.weights import digest


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
        group_size: int = 0,
        publications: Path | None = None,
        rank: int = 0,
        store: torch.distributed.Store | None = None,
    ) -> None:
        """`model` is a Hugging Face folder; `dtype` (`bfloat16` or `float32`) is that of autocast and of publications;
        `version` names the initial weights; `max_tokens` is the recipe's limit of a completion, `group_size` its size
        of a group (0: all groups are of one size); `publications` is a RAM-backed folder (default: one of its own).
        `rank` of `section.ranks`, which meet in `store` (`learners.ranks`; needed with several)."""
        self._section, self.version, self._max_tokens = section, version, max_tokens
        self._objective = Objective(section)
        noise = section.noise
        self._treatment = Treatment(
            weights=dict(reward_weights),
            advantage=partial(ADVANTAGES[section.advantage.name], **section.advantage.options),
            truncation=partial(TRUNCATIONS[section.truncation.name], **section.truncation.options),
            penalises=section.truncation.name in PENALTIES,
            max_tokens=max_tokens,
            group_size=group_size,
            noise=None if noise.name == "none" else partial(NOISES[noise.name], **noise.options),
            reweighs=section.on_failure == "ipw",
        )
        self._device = "cuda" if section.gpus > 0 else "cpu"
        torch.manual_seed(seed)
        lower = torch.bfloat16 if dtype == "bfloat16" else None
        self._model = load(model)
        scale = adapt(self._model, section.lora) if section.lora else None
        kind = lower or torch.float32
        self._publisher = None if rank else Publisher(self._model, kind, seed, publications, scale)
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
        """One step on a batch. Raises DivergedError where a loss or gradient is not finite, or beyond the recipe's
        limits: the weights are then those of the last good update. Raises ValueError for an empty batch, or a step
        that is not the next."""
        if step != self.version.step + 1:
            raise ValueError(f"step {step} cannot follow the weights of step {self.version.step}")
        if not groups:
            raise ValueError(f"step {step}: the batch is empty")
        for group in groups:
            self._check_tokens(group)
        began = time.monotonic()
        self._saver.before_change()
        section = self._section
        centred = self._treatment.centre(groups)
        lr = section.lr * lr_factor(section.schedule, step, section.steps, section.warmup_steps)
        updates = []
        for numbers in np.array_split(np.arange(len(groups)), section.updates_per_step):
            part = [centred[i] for i in numbers]
            needed = rows(part, self.version, self._objective.keeps_flat)
            if needed:
                parts = micro_batches(
                    needed, section.micro_tokens, self._shares, section.ranks, self._objective.whole_groups
                )
                mine = shares_of(parts, section.ranks, self._shares)[self._rank]
                updates.append(([self._micro(p, needed) for p in mine], totals(part, self._max_tokens)))
        if self._objective.needs_start:  # in the first update it is the weights being trained
            for micro in (micro for micros, _ in updates[1:] for micro in micros):
                with torch.no_grad():
                    micro.old, _ = self._engine(*micro.inputs)
        losses, norms, seen = [], [], []
        seconds = dict.fromkeys(("forward", "backward", "optimizer"), 0.0)
        for micros, of_batch in updates:
            found = [self._accumulate(m, m is micros[-1], of_batch, seconds) for m in micros]
            losses.append(sum(loss for loss, _ in found))
            of_rank = [part for _, part in found if part is not None]
            seen.append(Seen.joined([part for parts in self._engine.gather(of_rank) for part in parts]))
            at = time.monotonic()
            norms.append(self._update(lr, seen[-1]))
            seconds["optimizer"] += time.monotonic() - at

        trained = Seen.joined(seen) if seen else None
        metrics = batch_metrics(centred, self.version) | reward_metrics(centred, self._treatment)
        metrics |= trained.metrics() if trained else {}
        metrics |= {f"learn/{name}_s": value for name, value in seconds.items()}
        metrics |= {
            "learn/loss": float(np.mean(losses)) if losses else 0.0,
            "learn/grad_norm": float(np.mean(norms)) if norms else 0.0,
            "learn/lr": lr,
            "learn/updates": float(len(updates)),
        }
        self.version = replace(self.version, step=step)
        consumed = sum(len(rollout.tokens) for group in groups for rollout in group.rollouts)
        self._tokens += 0 if self._rank else consumed  # once for all ranks
        spent = time.monotonic() - began
        self._busy += spent
        num_rollouts = sum(len(group.rollouts) for group in groups)
        num_trained = len(trained.new) if trained else 0
        known = tuple(prompt_stats(group, self._treatment.weights) for group in groups)
        news = [{"event": "noise", "step": step, "kind": k, "cause": c} for k, c in self._treatment.news.items()]
        return StepReport(step, num_rollouts, consumed, num_trained, spent, metrics, known, tuple(news))

    def _check_tokens(self, group: Group) -> None:
        """Engines pad the vocabulary, so they may know ids that the model has not."""
        num = self._model.get_input_embeddings().num_embeddings
        for tokens in (group.prompt_tokens, *(rollout.tokens for rollout in group.rollouts)):
            if len(tokens) and not 0 <= tokens.min() <= tokens.max() < num:
                odd = tokens[(tokens < 0) | (tokens >= num)][0]
                raise ValueError(f"group {group.id}: token {odd} is outside the vocabulary of {num}")

    def _accumulate(
        self, micro: Micro, last: bool, of_batch: Totals, seconds: dict[str, float]
    ) -> tuple[float, Seen | None]:
        """Forward, loss and backward of one micro-batch: its part of the batch's loss with those that the other ranks
        did at the same time, and what this rank saw."""
        at = time.monotonic()
        new, entropy = self._engine(*micro.inputs, True if self._objective.needs_entropy else None)
        if micro.idle:
            value, loss, seen = self._engine.sum(0.0), new.sum() * 0.0, None
        else:
            reference = None
            if self._reference is not None:
                with torch.no_grad():
                    reference, _ = self._reference(*micro.inputs)
            loss, seen = self._objective(new, entropy, reference, micro, of_batch)
            value = self._engine.sum(loss.item())
        if not math.isfinite(value):
            self._engine.forget()
            raise DivergedError(f"the loss is {value}")
        seconds["forward"] += time.monotonic() - at
        at = time.monotonic()
        self._engine.backward(loss, last)
        seconds["backward"] += time.monotonic() - at
        return value, seen

    def _update(self, lr: float, seen: Seen) -> float:
        """Check what the update was made of, then make it; the gradient norm before clipping."""
        try:
            seen.check(self._section.limits)
        except DivergedError:
            self._engine.forget()
            raise
        return self._engine.update(lr, self._section.limits.grad_norm)

    def _micro(self, part: Sequence[Row], all_rows: Sequence[Row]) -> Micro:
        """One micro-batch of this rank; where it has none, the cheapest row as an idle one."""
        items = part or [min(all_rows, key=lambda row: row.length)]
        return Micro.of(pack(items) if self._shares else pad(items), self._device, idle=not part)

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
        size = self._saver.start(folder, facts | self._treatment.state())
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
        self._treatment.restore(facts)
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
