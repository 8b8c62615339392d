"""Groups into micro-batches: which rollouts cost compute, in what order, and what the loss is divided by.

    centred groups --rows()--> rows (one rollout each) --micro_batches()--> lists of rows --pad()--> arrays

**Denominator.** The batch loss is a token mean over *all* completion tokens that carry loss and belong to a rollout
with a reward, including those whose advantage is 0. Those contribute 0 to the sum, so leaving them out of the forward
pass changes nothing, while dividing by trained tokens only would make the step size grow when groups turn flat.
Masked rollouts are in neither sum.

Padding is on the right: with causal attention a token never sees what follows, so no attention mask is needed and a
padded row gives the same log-probabilities as the row alone (up to rounding).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from learners.rewards import Centred
from swarm.types import Group, PolicyVersion, Rollout


@dataclass(frozen=True, slots=True)
class Row:
    """One rollout to be forwarded."""

    prompt_tokens: np.ndarray
    """int32 [P], P >= 1"""
    rollout: Rollout
    advantage: float
    temperature: float
    """Divides the logits; 1 for greedy groups, whose log-probabilities are those of temperature 1."""
    lags: np.ndarray
    """int64 [C]: learner steps from the weights that sampled a token to those being trained; -1: not comparable."""

    @property
    def length(self) -> int:
        """Tokens of the forward pass: the last one is predicted, not read."""
        return len(self.prompt_tokens) + len(self.rollout.tokens) - 1


@dataclass(frozen=True, slots=True)
class Batch:
    """One micro-batch. B rows of length T; N tokens that carry loss, row by row, in order."""

    tokens: np.ndarray
    """int64 [B, T], right-padded with 0."""
    places: np.ndarray
    """int64 [N]: index into the flattened [B * T] of the position that predicts each token."""
    targets: np.ndarray
    """int64 [N]: the token."""
    advantages: np.ndarray
    """float32 [N]"""
    behaviour: np.ndarray
    """float32 [N]: log-probabilities that the engine recorded."""
    temperatures: np.ndarray
    """float32 [N]: divides the logits."""
    lags: np.ndarray
    """int64 [N]: as in `Row`."""


def rows(centred: Sequence[Centred], now: PolicyVersion, keep_flat: bool = False) -> list[Row]:
    """The rollouts that need a forward pass: a reward, a token with loss, and an advantage other than 0.

    `now` names the weights that are about to be trained. `keep_flat` also keeps advantage 0, for losses with a KL term.
    Raises ValueError for an empty prompt.
    """
    out = []
    for item in centred:
        group = item.group
        if len(group.prompt_tokens) == 0:
            raise ValueError(f"group {group.id}: the prompt has no token, so the first completion token has no context")
        for rollout, value, advantage in zip(group.rollouts, item.rewards, item.advantages, strict=True):
            if value is not None and rollout.loss_mask.any() and (keep_flat or advantage != 0.0):
                temperature = group.temperature or 1.0
                lags = token_lags(group, rollout, now)
                out.append(Row(group.prompt_tokens, rollout, float(advantage), temperature, lags))
    return out


def token_lags(group: Group, rollout: Rollout, now: PolicyVersion) -> np.ndarray:
    """int64 [C]: lag of each token behind `now`; -1 throughout where learner or lineage differ.

    A token cannot come from weights that do not exist yet: a negative lag is a bug, and asserted.
    """
    if PolicyVersion(group.learner, group.lineage, 0).lag_behind(now) is None:
        return np.full(len(rollout.tokens), -1, np.int64)
    lags = now.step - rollout.steps
    assert (lags >= 0).all(), f"group {group.id} has tokens of step {rollout.steps.max()}, the weights are {now.step}"
    return lags


def loss_tokens(centred: Sequence[Centred]) -> int:
    """The denominator: completion tokens with loss of all rollouts that have a reward."""
    return sum(
        int(rollout.loss_mask.sum())
        for item in centred
        for rollout, value in zip(item.group.rollouts, item.rewards, strict=True)
        if value is not None
    )


def micro_batches(items: Sequence[Row], micro_tokens: int) -> list[list[Row]]:
    """Split rows, longest first, into micro-batches of at most `micro_tokens` padded tokens each.

    As few as the budget allows; then the budget is lowered as far as that number holds, which balances them. A row
    longer than the budget is a micro-batch of its own.
    """
    if not items:
        return []
    ordered = sorted(items, key=lambda row: -row.length)
    best = _cut(ordered, micro_tokens)
    low, high = 1, micro_tokens
    while low < high:
        middle = (low + high) // 2
        parts = _cut(ordered, middle)
        if len(parts) <= len(best):
            best, high = parts, middle
        else:
            low = middle + 1
    return best


def pad(items: Sequence[Row]) -> Batch:
    """Arrays of one micro-batch."""
    width = max(row.length for row in items)
    tokens = np.zeros((len(items), width), np.int64)
    places, targets, behaviour, lags = [], [], [], []
    for i, row in enumerate(items):
        rollout = row.rollout
        tokens[i, : row.length] = np.concatenate([row.prompt_tokens, rollout.tokens[:-1]])
        chosen = np.flatnonzero(rollout.loss_mask)
        places.append(i * width + len(row.prompt_tokens) - 1 + chosen)
        targets.append(rollout.tokens[chosen])
        behaviour.append(rollout.logprobs[chosen])
        lags.append(row.lags[chosen])
    counts = [len(chosen) for chosen in targets]
    return Batch(
        tokens=tokens,
        places=np.concatenate(places).astype(np.int64),
        targets=np.concatenate(targets).astype(np.int64),
        advantages=np.repeat([row.advantage for row in items], counts).astype(np.float32),
        behaviour=np.concatenate(behaviour).astype(np.float32),
        temperatures=np.repeat([row.temperature for row in items], counts).astype(np.float32),
        lags=np.concatenate(lags).astype(np.int64),
    )


def _cut(ordered: Sequence[Row], budget: int) -> list[list[Row]]:
    """Fill from the longest row on; the first row of a part sets its width."""
    parts: list[list[Row]] = []
    for row in ordered:
        if parts and parts[-1][0].length * (len(parts[-1]) + 1) <= budget:
            parts[-1].append(row)
        else:
            parts.append([row])
    return parts
