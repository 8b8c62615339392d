"""What a group says of its prompt, for the selection of prompts (`actors.selection`). It costs no forward pass."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from swarm import scores
from swarm.types import Group, PromptStats, Rollout

BEGIN = -1
"""Before the first token, so that a completion of one token has a pair too."""


def prompt_stats(group: Group, weights: Mapping[str, float]) -> PromptStats:
    """Mean reward, its variance, gradient proxy and diversity of one scored group. `weights`: rewarder name -> factor.

    Rewards are the plain weighted sums of verdicts, before any correction: a corrected one can be above 1 or below 0
    for either answer. Masked rollouts are left out.
    """
    rewards = scores.rewards([rollout.verdicts for rollout in group.rollouts], weights)
    known = [rollout for rollout, reward in zip(group.rollouts, rewards, strict=True) if reward is not None]
    return scores.stats_of(group.prompt.id, group.prompt.source, rewards, surprise_norm(known), diversity(known))


def surprise_norm(rollouts: Sequence[Rollout]) -> float | None:
    """Proxy of the norm of one rollout's gradient of its log-probability: the root over rollouts of the mean of
    sum_t (1 - pi_t)^2, over tokens with loss, pi_t the recorded probability of the token that was sampled.

    The gradient of log pi_t with respect to the logits of its place is one-hot minus pi, whose norm lies between
    1 - pi_t and sqrt(2) (1 - pi_t); places are different logits, so squares add up. Hence the proxy is within a factor
    sqrt(2) of the norm at the logits, and only the model's Jacobian is left out.

    Source: the G_i of GVM-RAFT, arXiv 2505.02391, which takes gradients of accepted samples by backward passes. Differs
    as said, and in taking all rollouts with a reward. The advantage is no part of it: its size is a function of the
    pass rate, which the allocation has already. None without rollouts.
    """
    if not rollouts:
        return None
    squares = [np.square(1 - np.exp(r.logprobs[r.loss_mask].astype(np.float64))).sum() for r in rollouts]
    squares = [value for value in squares if not np.isnan(value)]  # of text without log-probabilities nothing is known
    if not squares:
        return None
    return float(np.sqrt(np.mean(squares)))


def diversity(rollouts: Sequence[Rollout]) -> float | None:
    """How different the completions of a group are: 0 where all have the same pairs of neighbouring tokens, 1 where no
    two share any.

    (D / sum D_i - 1/G) / (1 - 1/G), with D_i different pairs in completion i and D in all of them together.

    Source: distinct-n, arXiv 1510.03055, in the place of the inverse self-BLEU of MMR1, arXiv 2509.21268. Differs from
    distinct-n: repetition inside one completion does not count, and the range is [0, 1] for every G. None with fewer
    than two completions, or without any token.
    """
    pairs = [set(zip([BEGIN, *r.tokens.tolist()], r.tokens.tolist(), strict=False)) for r in rollouts]
    total = sum(len(found) for found in pairs)
    if len(pairs) < 2 or total == 0:
        return None
    share = len(set().union(*pairs)) / total
    least = 1 / len(pairs)
    return (share - least) / (1 - least)
