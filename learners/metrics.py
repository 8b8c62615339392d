"""What a learner step says of itself, as `learn/...` figures.

`batch_metrics` needs no forward pass; `Tally` gathers what the forward passes saw. A figure that has no value (no
token was trained) is left out.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from learners.batching import token_lags
from learners.rewards import Centred
from swarm.types import Finish, PolicyVersion


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


class Tally:
    """What the forward passes of a step saw, each trained token once. All arrays are [N]."""

    def __init__(self) -> None:
        self._parts: list[tuple[np.ndarray, ...]] = []
        self.reference_kl = 0.0

    def add(
        self, new: np.ndarray, behaviour: np.ndarray, weight: np.ndarray, clipped: np.ndarray, lags: np.ndarray
    ) -> None:
        """One forward pass: log-probabilities now and then, importance weights, clip flags, lags (-1: unknown)."""
        self._parts.append((new.astype(np.float64), behaviour.astype(np.float64), weight, clipped, lags))

    @classmethod
    def joined(cls, tallies: Sequence[Tally]) -> Tally:
        """What all ranks saw, rank by rank."""
        out = cls()
        for tally in tallies:
            out._parts += tally._parts
            out.reference_kl += tally.reference_kl
        return out

    @property
    def num_tokens(self) -> int:
        """Tokens added so far."""
        return sum(len(part[0]) for part in self._parts)

    def metrics(self) -> dict[str, float]:
        """Figures over all trained tokens; none where there were none.

        `ess_frac` is (sum w)^2 / (N sum w^2), the effective sample size as a share. `kl_behaviour_nats` is the k3
        estimate of KL(behaviour || now). `entropy_nats` is the mean of minus the log-probability of the sampled tokens:
        the entropy in expectation where they were sampled by the present weights.
        """
        if not self._parts:
            return {}
        new, behaviour, weight, clipped, lags = (np.concatenate(column) for column in zip(*self._parts, strict=True))
        weight = weight.astype(np.float64)
        gap = np.clip(new - behaviour, -20.0, 20.0)
        squares = float((weight**2).sum())
        out = {
            "learn/clip_frac": float(clipped.mean()),
            "learn/importance_mean": float(weight.mean()),
            "learn/ess_frac": float(weight.sum()) ** 2 / (len(weight) * squares) if squares else 0.0,
            "learn/kl_behaviour_nats": float((np.exp(gap) - gap - 1.0).mean()),
            "learn/entropy_nats": float(-new.mean()),
        }
        for lag in np.unique(lags[lags >= 0]):
            out[f"learn/importance_lag{lag}_mean"] = float(weight[lags == lag].mean())
        return out
