"""What a step minimises, of one micro-batch: policy loss, off-policy correction, KL penalty, entropy bonus.

    log-probabilities --proximal--> old --correction--> weight --loss--> per token  (+ kl_coef KL - entropy_coef H)
                                                                             --mean--> part of the batch's objective

All of it is made of the pure functions that the recipe names; the penalties are averaged as the loss is.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from learners.batching import Batch
from learners.corrections import CORRECTIONS
from learners.layout import Layout
from learners.losses import LOSSES, WITH_REFERENCE, WITHOUT_RATIO, Tokens, Totals
from learners.metrics import Seen
from learners.penalties import KL_ESTIMATORS
from swarm.config import LearnersSection


@dataclass(slots=True)
class Micro:
    """One micro-batch on the device, as in `learners.batching.Batch`; `lags` stay with the metrics."""

    tokens: Tensor
    places: Tensor
    targets: Tensor
    advantages: Tensor
    behaviour: Tensor
    temperatures: Tensor
    rollout: Tensor
    lengths: Tensor
    rewards: Tensor
    groups: Tensor
    lags: np.ndarray
    positions: Tensor | None = None
    layout: Layout | None = None
    old: Tensor | None = None
    """float32 [N]: under the weights at the start of the step, where they are not those being trained."""
    idle: bool = False
    """Another rank's turn: passed forward and backward for the collectives, without any gradient."""

    @property
    def inputs(self) -> tuple[Tensor | Layout | None, ...]:
        """What the policy takes."""
        return self.tokens, self.places, self.positions, self.layout, self.targets, self.temperatures

    @classmethod
    def of(cls, batch: Batch, device: str, idle: bool = False) -> Micro:
        """Its arrays as tensors on `device`."""
        names = [
            "tokens",
            "places",
            "targets",
            "advantages",
            "behaviour",
            "temperatures",
            "rollout",
            "lengths",
            "rewards",
            "groups",
        ]
        micro = cls(**{n: torch.from_numpy(getattr(batch, n)).to(device) for n in names}, lags=batch.lags, idle=idle)
        if batch.shared is not None:
            s = batch.shared
            micro.positions = torch.from_numpy(s.positions).to(device)
            micro.layout = Layout.of(s.prompts, s.completions, s.owner, device)
        return micro


class Objective:
    """The recipe's choice of loss, proximal policy, correction and penalties."""

    def __init__(self, section: LearnersSection) -> None:
        self._loss = partial(LOSSES[section.loss.name], **section.loss.options)
        self._correction = partial(CORRECTIONS[section.correction.name], **section.correction.options)
        self._kl = KL_ESTIMATORS[section.kl_estimator]
        self._kl_coef, self._entropy_coef = section.kl_coef, section.entropy_coef
        self._proximal = section.proximal
        compares = section.loss.name in WITH_REFERENCE
        self.whole_groups = compares
        """Whether the loss compares the rollouts of a group: then a micro-batch holds all of them."""
        self.needs_reference = compares or section.kl_coef > 0
        """Whether the frozen initial policy is asked."""
        self.needs_entropy = section.entropy_coef > 0
        self._without_ratio = section.loss.name in WITHOUT_RATIO
        self.keeps_flat = self._without_ratio or section.kl_coef > 0 or section.entropy_coef > 0
        """Whether rollouts with advantage 0 have a gradient."""
        self.needs_start = section.proximal == "start" and not self._without_ratio
        """Whether updates after the first one of a step need log-probabilities from its start."""

    def __call__(
        self, new: Tensor, entropy: Tensor | None, reference: Tensor | None, micro: Micro, totals: Totals
    ) -> tuple[Tensor, Seen]:
        """The micro-batch's part of the objective, a scalar with gradient, and what it saw. `new`, `entropy` and
        `reference` are float32 [N], nats."""
        old = self._old(new, micro)
        gap = (old - micro.behaviour).detach()
        weight = torch.ones_like(gap) if self._without_ratio else self._correction(gap, micro.rollout, micro.lengths)
        t = Tokens(
            new=new,
            old=old,
            weight=weight,
            advantage=micro.advantages,
            rollout=micro.rollout,
            lengths=micro.lengths,
            rewards=micro.rewards,
            group=micro.groups,
            reference=reference,
            totals=totals,
        )
        terms = self._loss(t)
        total = terms.loss
        kl = None
        if self._kl_coef > 0:
            kl = self._kl(new, reference)
            total = total + self._kl_coef * kl
        if entropy is not None and self._entropy_coef > 0:
            total = total - self._entropy_coef * entropy
        seen = Seen.of(new, micro.behaviour, weight, terms.clipped, micro.lags, entropy, kl)
        return terms.mean(total, t), seen

    def _old(self, new: Tensor, micro: Micro) -> Tensor:
        """float32 [N], detached: log-probabilities of the proximal policy.

        Interpolated: behaviour + lag / (lag + 1) (new - behaviour), which is where a policy one step before the one in
        the making lies if log-probabilities move evenly from step to step; no forward pass. A token whose lag is not
        known gets the weights being trained. Source: A-3PO, arXiv 2512.06547, with the versions of each token as in
        AReaL's documentation.
        """
        if self._proximal == "behaviour":
            return micro.behaviour
        if self._proximal == "interpolated":
            lags = torch.from_numpy(micro.lags).to(new.device)
            share = torch.where(lags < 0, 1.0, lags / (lags + 1.0).clamp(min=1.0)).to(new.dtype)
            return micro.behaviour + share * (new.detach() - micro.behaviour)
        return new.detach() if micro.old is None else micro.old
