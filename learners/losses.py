"""Policy losses: one pure function each, from log-probabilities to a loss per token.

    log-probabilities, advantages --loss--> Terms (a loss per token, and how it is averaged) --mean--> the batch's loss

A loss sees one micro-batch at a time; a rollout is never cut in two. It names its mean: `token_mean`, `sequence_mean`,
`constant_mean` and `rollout_mean` divide by numbers of the whole batch, so that the parts add up to the batch's loss
however it is cut, over micro-batches and ranks.

Three policies: `new` is being trained, `old` is the proximal one that limits how far an update goes
(`learners.proximal`), `behaviour` sampled. Ratios are new/old; `weight` corrects old/behaviour (`learners.corrections`)
and multiplies every loss that has a ratio. That is decoupled PPO (arXiv 2110.00641) for all of them; with
`proximal = "behaviour"` the weights are 1 and a loss is that of its paper.

A function's keyword-only options are its schema in a recipe. Only tensor methods are used, so that reading the
signatures does not import torch. To add a loss: write the function, add it to `LOSSES`, add its slow transcription to
the tests.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from swarm.config import Positive

if TYPE_CHECKING:
    from torch import Tensor

_MAX_LOG_RATIO = 20.0  # exp(20) = 5e8: beyond it float32 overflows in the backward pass, and a clip acts long before


@dataclass(frozen=True, slots=True)
class Totals:
    """What the means divide by: counts over all rollouts of the batch that have a reward, also those that need no
    compute, of all ranks."""

    tokens: int
    """Completion tokens with loss."""
    rollouts: int
    max_tokens: int
    """Longest completion that the recipe allows."""


@dataclass(frozen=True, slots=True)
class Tokens:
    """A micro-batch as a loss sees it: N tokens that carry loss, flat, of R whole rollouts. Natural logs."""

    new: Tensor
    """float [N], with gradient."""
    old: Tensor
    """float [N], detached."""
    weight: Tensor
    """float [N], detached: the correction for the weights and the engine that sampled."""
    advantage: Tensor
    """float [N]"""
    rollout: Tensor
    """int64 [N]: which of the R rollouts a token is of."""
    lengths: Tensor
    """float [R]: tokens with loss."""
    rewards: Tensor
    """float [R]"""
    group: Tensor
    """int64 [R]: rollouts of one group have the same number."""
    reference: Tensor | None
    """float [N]: under the frozen initial policy, for losses in `WITH_REFERENCE` and the KL penalty."""
    totals: Totals

    def per_rollout(self, values: Tensor) -> Tensor:
        """Sums of float [N] over each rollout: [R]."""
        return values.new_zeros(len(self.lengths)).index_add(0, self.rollout, values)


Mean = Callable[["Tensor", Tokens], "Tensor"]


class Terms(NamedTuple):
    """What a loss says of each token; tensors are [N]."""

    loss: Tensor
    """To be minimised, with gradient."""
    clipped: Tensor
    """bool: the token's gradient is zero, or bounded, because its ratio left the range."""
    mean: Mean
    """How the tokens' losses become the batch's."""


Loss = Callable[..., Terms]


def token_mean(values: Tensor, t: Tokens) -> Tensor:
    """Every token of the batch counts the same (DAPO, arXiv 2503.14476, eq. 8)."""
    return values.sum() / t.totals.tokens


def sequence_mean(values: Tensor, t: Tokens) -> Tensor:
    """Every rollout counts the same: mean over its tokens, then over rollouts (GRPO, arXiv 2402.03300, eq. 3)."""
    return (values / t.lengths[t.rollout]).sum() / t.totals.rollouts


def constant_mean(values: Tensor, t: Tokens) -> Tensor:
    """Sum over tokens by a constant, the token budget of all rollouts (Dr. GRPO, arXiv 2503.20783)."""
    return values.sum() / (t.totals.rollouts * t.totals.max_tokens)


def rollout_mean(values: Tensor, t: Tokens) -> Tensor:
    """Sum over a rollout's tokens, mean over rollouts: of log-probabilities that is the mean over sequences."""
    return values.sum() / t.totals.rollouts


def reinforce(t: Tokens) -> Terms:
    """Policy gradient: `-w sg(r) A new`, whose gradient is that of `-w r A`, with r = new/old.

    Source: REINFORCE, Williams 1992; token mean.
    Differs: sg(r) (1 with one update per batch) follows the weights through further updates of the same batch.
    """
    ratio = _ratio(t).detach()
    return Terms(-t.weight * ratio * t.advantage * t.new, ratio != ratio, token_mean)


def ppo(t: Tokens, *, clip: Positive = 0.2) -> Terms:
    """`-w min(r A, clip(r, 1 - clip, 1 + clip) A)`, token mean.

    Source: PPO, arXiv 1707.06347, eq. 7; with `proximal` other than "behaviour": arXiv 2110.00641.
    Differs: no value function; advantages come from the group.
    """
    return _clipped(t, _ratio(t), clip, clip, token_mean)


def grpo(t: Tokens, *, clip: Positive = 0.2) -> Terms:
    """PPO's surrogate, averaged over each rollout and then over rollouts.

    Source: GRPO, arXiv 2402.03300, eq. 3.
    Differs: the mean is over the batch's rollouts, not per question first (the same where groups are whole and of one
    size; `learners.rewards` weights those of another); the KL term is the recipe's (`kl_coef`), off by default.
    """
    return _clipped(t, _ratio(t), clip, clip, sequence_mean)


def dr_grpo(t: Tokens, *, clip: Positive = 0.2) -> Terms:
    """PPO's surrogate, summed and divided by a constant, so that length does not weigh; use with `mean_only`.

    Source: Dr. GRPO, arXiv 2503.20783.
    """
    return _clipped(t, _ratio(t), clip, clip, constant_mean)


def dapo(t: Tokens, *, clip_low: Positive = 0.2, clip_high: Positive = 0.28) -> Terms:
    """PPO's surrogate with a wider upper range and a token mean: rare right tokens may grow faster.

    Source: DAPO, arXiv 2503.14476, eq. 8; its overlong shaping is `truncation`, its dynamic sampling
    `actors.resample`.
    """
    return _clipped(t, _ratio(t), clip_low, clip_high, token_mean)


def gspo(t: Tokens, *, clip_low: Positive = 3e-4, clip_high: Positive = 4e-4) -> Terms:
    """PPO's surrogate with one ratio for a rollout: s = exp(mean of log r over its tokens); every rollout counts the
    same.

    Source: GSPO, arXiv 2507.18071, eqs. 5 and 7.
    """
    return _clipped(t, _sequence_ratio(t), clip_low, clip_high, sequence_mean)


def luspo(t: Tokens, *, clip_low: Positive = 3e-4, clip_high: Positive = 4e-4) -> Terms:
    """GSPO with each rollout's loss multiplied by its length, so that a token's gradient is not diluted by length.

    Source: LUSPO, arXiv 2602.05261. Differs: divided by the batch's tokens, a factor common to all rollouts.
    """
    return _clipped(t, _sequence_ratio(t), clip_low, clip_high, token_mean)


def cispo(t: Tokens, *, clip_high: Positive = 4.0) -> Terms:
    """`-w sg(min(r, 1 + clip_high)) A new`: a token beyond the range keeps a bounded gradient instead of none.

    Source: CISPO, MiniMax-M1, arXiv 2506.13585; no lower bound, as there; token mean.
    Differs: the paper tunes the bound and does not state it; 5 in all, as peers have it.
    """
    ratio = _ratio(t).detach()
    return Terms(
        -t.weight * ratio.clamp(max=1.0 + clip_high) * t.advantage * t.new, ratio > 1.0 + clip_high, token_mean
    )


def copg(t: Tokens, *, beta: Positive = 0.1) -> Terms:
    """`-(R_b(y) - mean of R_b over the others of its group) log pi(y)`, with R_b = R - beta log(pi/pi_ref)(y), the
    factor detached. No ratio to the sampler: right for text of unknown policies, whatever they were.

    The fixed point is pi_ref exp(R / beta), normalised, for every sampler that covers it. Uses rewards instead of
    advantages, and the frozen initial policy as pi_ref. A rollout that is alone in its group contributes nothing.
    Source: CoPG, arXiv 2406.19185. Differs: a rollout's pairs are averaged over the group.
    """
    assert t.reference is not None
    gap = t.per_rollout(t.new.detach() - t.reference)
    regularised = t.rewards - beta * gap
    counts = regularised.new_zeros(len(t.group)).index_add(0, t.group, regularised.new_ones(len(t.group)))[t.group]
    sums = regularised.new_zeros(len(t.group)).index_add(0, t.group, regularised)[t.group]
    others = (sums - regularised) / (counts - 1).clamp(min=1)
    factor = (regularised - others) * (counts > 1)
    return Terms(-factor[t.rollout] * t.new, t.new != t.new, rollout_mean)


def sft(t: Tokens, *, above: float = 0.0) -> Terms:
    """`-new` on rollouts with a reward over `above`: maximum likelihood of what is right. Token mean over all rollouts.

    On demonstrations it is a supervised warm start, on own samples rejection-sampling fine-tuning. Neither advantages
    nor the sampler matter.
    Source: RAFT, arXiv 2304.06767. Differs: all that are right instead of the best of K.
    """
    right = (t.rewards > above)[t.rollout]
    return Terms(-t.new * right, t.new != t.new, token_mean)


def _ratio(t: Tokens) -> Tensor:
    return (t.new - t.old).clamp(-_MAX_LOG_RATIO, _MAX_LOG_RATIO).exp()


def _sequence_ratio(t: Tokens) -> Tensor:
    mean = t.per_rollout(t.new - t.old) / t.lengths
    return mean.clamp(-_MAX_LOG_RATIO, _MAX_LOG_RATIO).exp()[t.rollout]


def _clipped(t: Tokens, ratio: Tensor, low: float, high: float, mean: Mean) -> Terms:
    surrogate = (ratio * t.advantage).minimum(ratio.clamp(1.0 - low, 1.0 + high) * t.advantage)
    over, under = ratio > 1.0 + high, ratio < 1.0 - low
    clipped = ((t.advantage > 0) & over) | ((t.advantage < 0) & under)
    return Terms(-t.weight * surrogate, clipped.detach(), mean)


LOSSES: dict[str, Loss] = {
    "reinforce": reinforce,
    "ppo": ppo,
    "grpo": grpo,
    "dr_grpo": dr_grpo,
    "dapo": dapo,
    "gspo": gspo,
    "luspo": luspo,
    "cispo": cispo,
    "copg": copg,
    "sft": sft,
}

WITH_REFERENCE = frozenset({"copg"})
"""Losses that compare a group's rollouts under the initial policy: it is kept in memory, groups are not cut, and
rollouts with advantage 0 are forwarded too."""

WITHOUT_RATIO = frozenset({"copg", "sft"})
"""Losses of rewards and log-probabilities alone: neither advantages nor the sampler's log-probabilities enter."""
