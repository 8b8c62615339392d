"""What a learner step says of itself, as `learn/...` figures.

`batch_metrics` needs no forward pass; `Seen` is what the forward passes saw. A figure that has no value (no
token was trained) is left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import numpy as np

from learners.batching import token_lags
from learners.noise import signal
from learners.rewards import Centred, Treatment
from swarm.config import LimitsSection
from swarm.errors import DivergedError
from swarm.scores import rewards
from swarm.types import Finish, PolicyVersion

if TYPE_CHECKING:
    from torch import Tensor


def batch_metrics(centred: Sequence[Centred], now: PolicyVersion) -> dict[str, float]:
    """Rewards, lengths and lags of the consumed batch, including what needs no compute."""
    rollouts = [rollout for item in centred for rollout in item.group.rollouts]
    rewards = [value for item in centred for value in item.rewards if value is not None]
    lags = np.concatenate([token_lags(item.group, r, now) for item in centred for r in item.group.rollouts])
    lags = lags[lags >= 0]
    out = {
        "learn/masked_rollouts": float(len(rollouts) - len(rewards)),
        "learn/flat_groups_frac": float(np.mean([item.is_flat for item in centred])),
        "learn/length_mean_tokens": float(np.mean([len(r.tokens) for r in rollouts])),
        "learn/truncated_frac": float(np.mean([r.finish is Finish.LENGTH for r in rollouts])),
    }
    if rewards:
        out |= {"learn/reward_mean": float(np.mean(rewards)), "learn/reward_std": float(np.std(rewards))}
    if len(lags):
        out |= {"learn/lag_mean_steps": float(lags.mean()), "learn/lag_max_steps": float(lags.max())}
    return out


def reward_metrics(centred: Sequence[Centred], treatment: Treatment) -> dict[str, float]:
    """The audit of the step's advantages: what correction and weights did to them; nothing where there are neither.
    Where every verdict carries rates, also what the mean reward would be without its rewarders' errors.

    `noise_noop` is 1 where a correction changed no advantage: no verdict carries rates, or the advantage takes off what
    it added. A cosine of 1 with a change above 0 is a change of step size only.
    """
    rollouts = [rollout for item in centred for rollout in item.group.rollouts]
    values = [value for item in centred for value in item.rewards]
    out: dict[str, float] = {}
    if (mean := _debiased(centred, treatment.weights)) is not None:
        out["learn/reward_debiased_mean"] = mean
    if treatment.audit is not None:
        verdicts = [v for rollout in rollouts for v in rollout.verdicts if v.value is not None]
        js = [signal(v.rates) for v in verdicts if v.rates is not None]
        out |= {
            "learn/noise_change_mean": treatment.audit.change_mean,
            "learn/noise_change_max": treatment.audit.change_max,
            "learn/noise_cosine": treatment.audit.cosine,
            "learn/noise_noop": float(treatment.audit.is_noop),
            "learn/noise_rated_frac": len(js) / len(verdicts) if verdicts else 0.0,
            "learn/masked_frac": sum(value is None for value in values) / len(values),
        }
        if js:
            out |= {"learn/noise_j_mean": float(np.mean(js)), "learn/noise_j_min": float(np.min(js))}
    if treatment.reweighs:
        kept = [(treatment.weight(r), v) for r, v in zip(rollouts, values, strict=True) if v is not None]
        if kept:
            weights, known = np.array(kept, np.float64).T
            out["learn/reward_reweighed_mean"] = float(weights @ known / weights.sum())
            out["learn/reward_weight_max"] = float(weights.max())
    return out


def _debiased(centred: Sequence[Centred], weights: Mapping[str, float]) -> float | None:
    """Mean of the backward-corrected rewards, as given but for that; None where a verdict has no rates that tell."""
    total, num = 0.0, 0
    for item in centred:
        known = rewards([r.verdicts for r in item.group.rollouts], weights)
        for rollout, value in zip(item.group.rollouts, known, strict=True):
            for v in rollout.verdicts if value is not None else ():
                if v.value is None or v.rewarder not in weights:
                    continue
                if v.rates is None or signal(v.rates) <= 0.0:
                    return None
                total += weights[v.rewarder] * (v.value - v.rates.false_accept) / signal(v.rates)
            num += value is not None
    return total / num if num else None


@dataclass(frozen=True, slots=True)
class Seen:
    """What forward passes saw, each trained token once; all arrays are [N]."""

    new: np.ndarray
    """float64: log-probabilities under the weights being trained."""
    behaviour: np.ndarray
    """float64: as recorded at sampling."""
    weight: np.ndarray
    """float64: the correction that was applied."""
    clipped: np.ndarray
    """bool"""
    lags: np.ndarray
    """int64; -1: unknown."""
    entropy: np.ndarray
    """float64: of the whole distribution, NaN where it was not computed."""
    kl: np.ndarray
    """float64: estimate of the divergence from the initial policy, NaN where it was not computed."""

    @classmethod
    def of(
        cls,
        new: Tensor,
        behaviour: Tensor,
        weight: Tensor,
        clipped: Tensor,
        lags: np.ndarray,
        entropy: Tensor | None,
        kl: Tensor | None,
    ) -> Seen:
        """From tensors of one forward pass; None where a quantity was not computed."""
        none = np.full(len(lags), np.nan)
        return cls(
            new=_array(new),
            behaviour=_array(behaviour),
            weight=_array(weight),
            clipped=clipped.detach().cpu().numpy(),
            lags=lags,
            entropy=none if entropy is None else _array(entropy),
            kl=none if kl is None else _array(kl),
        )

    @classmethod
    def joined(cls, parts: Sequence[Seen]) -> Seen:
        """The tokens of all parts, in order; at least one part."""
        return cls(*(np.concatenate([getattr(p, f.name) for p in parts]) for f in fields(cls)))

    @property
    def ess_frac(self) -> float:
        """(sum w)^2 / (N sum w^2): the effective sample size as a share; 0 where all weights are 0."""
        return _ess(self.weight)

    @property
    def entropy_nats(self) -> float:
        """Mean entropy of the distributions; where that was not computed the mean of minus the log-probability of the
        sampled tokens, which is its expectation where the present weights sampled them."""
        return float(-self.new.mean() if np.isnan(self.entropy).any() else self.entropy.mean())

    def check(self, limits: LimitsSection) -> None:
        """Raises DivergedError where the policy has collapsed, or has left those that sampled far behind."""
        if (entropy := self.entropy_nats) < limits.entropy_nats:
            raise DivergedError(
                f"the entropy collapsed to {entropy:.3g} nats a token (learners.limits.entropy_nats = "
                f"{limits.entropy_nats:g}); lower the learning rate or raise entropy_coef"
            )
        if (share := self.ess_frac) < limits.ess_frac:
            raise DivergedError(
                f"the effective sample size collapsed to {share:.3g} of the tokens (learners.limits.ess_frac = "
                f"{limits.ess_frac:g}); lower max_lag or the learning rate"
            )

    def metrics(self) -> dict[str, float]:
        """Figures over all tokens, and per lag. `kl_behaviour_nats` is the k3 estimate of KL(behaviour || now)."""
        gap = np.clip(self.new - self.behaviour, -20.0, 20.0)
        divergence = np.exp(gap) - gap - 1.0
        known = ~np.isnan(divergence)  # a sampler of whom only the text is known has none
        out = {
            "learn/clip_frac": float(self.clipped.mean()),
            "learn/importance_mean": float(self.weight.mean()),
            "learn/ess_frac": self.ess_frac,
            "learn/entropy_nats": self.entropy_nats,
        }
        if known.any():
            out["learn/kl_behaviour_nats"] = float(divergence[known].mean())
        if not np.isnan(self.kl).any():
            out["learn/kl_reference_nats"] = float(self.kl.mean())
        for lag in np.unique(self.lags[self.lags >= 0]):
            at = self.lags == lag
            out |= {
                f"learn/clip_lag{lag}_frac": float(self.clipped[at].mean()),
                f"learn/importance_lag{lag}_mean": float(self.weight[at].mean()),
                f"learn/ess_lag{lag}_frac": _ess(self.weight[at]),
            }
            if known[at].any():
                out[f"learn/kl_behaviour_lag{lag}_nats"] = float(divergence[at & known].mean())
        return out


def _ess(weight: np.ndarray) -> float:
    squares = float((weight**2).sum())
    return float(weight.sum()) ** 2 / (len(weight) * squares) if squares else 0.0


def _array(tensor: Tensor) -> np.ndarray:
    return tensor.detach().cpu().numpy().astype(np.float64)
