"""Groups into micro-batches: which rollouts cost compute, in what order, and what the loss is divided by.

    centred groups --rows()--> rows (one rollout each) --micro_batches()--> lists of rows --shares_of()--> those of a
    rank --pack() or pad()--> arrays

**Denominator.** A loss's mean is over *all* completion tokens that carry loss, or all rollouts, that have a reward,
including those whose advantage is 0 (`totals`). Those contribute 0 to the sum, so leaving them out of the forward pass
changes nothing, while dividing by what was trained only would make the step size grow when groups turn flat. Masked
rollouts are in neither sum.

`pack` lays each group's prompt once beside its completions (learners.shared_prefix). `pad`, a row per rollout, is for
models that cannot share. Its padding is on the right: with causal attention a token never sees what follows, so no
attention mask is needed and a padded row gives the same log-probabilities as the row alone (up to rounding).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from learners.losses import Totals
from learners.rewards import Centred
from swarm.types import Group, PolicyVersion, Rollout


@dataclass(frozen=True, slots=True)
class Row:
    """One rollout to be forwarded."""

    group: str
    """Rows of one group have the same prompt."""
    prompt_tokens: np.ndarray
    """int32 [P], P >= 1"""
    rollout: Rollout
    reward: float
    advantages: np.ndarray
    """float64 [C]"""
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
    """One micro-batch. B rows of length T, right-padded; packed, B is 1. N tokens that carry loss, row by row."""

    tokens: np.ndarray
    """int64 [B, T], padded with 0."""
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
    rollout: np.ndarray
    """int64 [N]: which of the micro-batch's R rows a token is of."""
    lengths: np.ndarray
    """float32 [R]: tokens that carry loss."""
    rewards: np.ndarray
    """float32 [R]"""
    groups: np.ndarray
    """int64 [R]: equal for rows of one group."""
    shared: Shared | None = None
    """Set where it is packed."""


@dataclass(frozen=True, slots=True)
class Shared:
    """How packed tokens belong together: G prompts, C completions."""

    positions: np.ndarray
    """int64 [1, T]: position of each token in its own rollout."""
    prompts: np.ndarray
    """int64 [G, 2]: start and length."""
    completions: np.ndarray
    """int64 [C, 2]: start and length, without the last token, which is predicted and not read."""
    owner: np.ndarray
    """int64 [C]: the prompt of each completion."""


def rows(centred: Sequence[Centred], now: PolicyVersion, keep_flat: bool = False) -> list[Row]:
    """The rollouts that need a forward pass: a reward, a token with loss, and an advantage other than 0.

    `now` names the weights that are about to be trained. `keep_flat` also keeps advantage 0, for what acts on it too: a
    KL penalty, an entropy bonus, some losses.
    Raises ValueError for an empty prompt.
    """
    out = []
    for item in centred:
        group = item.group
        if len(group.prompt_tokens) == 0:
            raise ValueError(f"group {group.id}: the prompt has no token, so the first completion token has no context")
        for rollout, value, advantages in zip(group.rollouts, item.rewards, item.advantages, strict=True):
            if value is not None and rollout.loss_mask.any() and (keep_flat or advantages[rollout.loss_mask].any()):
                temperature = group.temperature or 1.0
                lags = token_lags(group, rollout, now)
                out.append(Row(group.id, group.prompt_tokens, rollout, value, advantages, temperature, lags))
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


def totals(centred: Sequence[Centred], max_tokens: int) -> Totals:
    """The denominators: what has a reward, whether it is forwarded or not."""
    kept = [
        rollout
        for item in centred
        for rollout, value in zip(item.group.rollouts, item.rewards, strict=True)
        if value is not None
    ]
    return Totals(sum(int(rollout.loss_mask.sum()) for rollout in kept), len(kept), max_tokens)


def micro_batches(
    items: Sequence[Row], micro_tokens: int, shared: bool = False, ranks: int = 1, whole_groups: bool = False
) -> list[list[Row]]:
    """Split rows into micro-batches of at most `micro_tokens` tokens each: packed ones (`shared`), else padded ones.

    As few as the budget allows, rounded up to a multiple of `ranks`; then the budget is lowered as far as that number
    holds, which balances them. A row longer than the budget is a micro-batch of its own. Longest first; with `shared`
    a group's rows stay together, and a group that is cut has its prompt in both parts. The number is not a multiple
    of `ranks` only where every micro-batch is a single row. With `whole_groups` each group is a micro-batch, whatever
    its size: for losses that compare its rollouts.
    """
    if not items:
        return []
    if whole_groups:
        groups: dict[str, list[Row]] = {}
        for row in items:
            groups.setdefault(row.group, []).append(row)
        return list(groups.values())
    if shared:
        ordered, cut = sorted(items, key=lambda row: (-len(row.prompt_tokens), row.group, -row.length)), _cut_packed
    else:
        ordered, cut = sorted(items, key=lambda row: -row.length), _cut_padded
    best = cut(ordered, micro_tokens)
    low, high = 1, micro_tokens
    while low < high:
        middle = (low + high) // 2
        parts = cut(ordered, middle)
        if len(parts) <= -(-len(best) // ranks) * ranks:
            best, high = parts, middle
        else:
            low = middle + 1
    while len(best) % ranks and any(len(part) > 1 for part in best):
        whole = max((part for part in best if len(part) > 1), key=lambda part: tokens_in(part, shared))
        at, half = best.index(whole), len(whole) // 2
        best[at : at + 1] = [whole[:half], whole[half:]]
    return best


def tokens_in(part: Sequence[Row], shared: bool) -> int:
    """Tokens of one forward pass over a micro-batch, padding included."""
    if not shared:
        return max(row.length for row in part) * len(part)
    prompts = {row.group: len(row.prompt_tokens) for row in part}
    return sum(prompts.values()) + sum(len(row.rollout.tokens) - 1 for row in part)


def shares_of(parts: Sequence[list[Row]], ranks: int, shared: bool = False) -> list[list[list[Row]]]:
    """Deal micro-batches out to `ranks` ranks, by tokens; each gets the same number.

    In rounds from the costliest on, so that what runs at the same time takes the same time; in a round the costliest
    goes to the rank with the least so far. Ranks that the last round does not reach get an empty one: the collectives
    of ZeRO need everybody in every pass. Deterministic. With one rank the order is kept.
    """
    if ranks == 1:
        return [list(parts)]
    costs = [tokens_in(part, shared) for part in parts]
    order = sorted(range(len(parts)), key=lambda i: -costs[i])
    shares: list[list[list[Row]]] = [[] for _ in range(ranks)]
    loads = [0] * ranks
    for begin in range(0, len(order), ranks):
        dealt = order[begin : begin + ranks]
        lightest = sorted(range(ranks), key=lambda rank: loads[rank])
        for place, rank in enumerate(lightest):
            index = dealt[place] if place < len(dealt) else None
            shares[rank].append([] if index is None else parts[index])
            loads[rank] += 0 if index is None else costs[index]
    return shares


def pack(items: Sequence[Row]) -> Batch:
    """Arrays of one micro-batch, rows of a group next to each other: prompt, completion, completion, prompt, ..."""
    tokens: list[np.ndarray] = []
    positions, places, chosen = [], [], []
    prompts, completions, owner = [], [], []
    at, group, last = 0, None, 0
    for row in items:
        length = len(row.prompt_tokens)
        if row.group != group:
            group = row.group
            prompts.append((at, length))
            tokens.append(row.prompt_tokens)
            positions.append(np.arange(length))
            at += length
            last = at - 1
        read = len(row.rollout.tokens) - 1
        completions.append((at, read))
        owner.append(len(prompts) - 1)
        tokens.append(row.rollout.tokens[:-1])
        positions.append(length + np.arange(read))
        kept = np.flatnonzero(row.rollout.loss_mask)
        places.append(np.where(kept == 0, last, at + kept - 1))
        chosen.append(kept)
        at += read
    shared = Shared(
        positions=np.concatenate(positions)[None].astype(np.int64),
        prompts=np.array(prompts, np.int64),
        completions=np.array(completions, np.int64),
        owner=np.array(owner, np.int64),
    )
    return _batch(items, np.concatenate(tokens)[None].astype(np.int64), places, chosen, shared)


def pad(items: Sequence[Row]) -> Batch:
    """Arrays of one micro-batch, a row for each rollout."""
    width = max(row.length for row in items)
    tokens = np.zeros((len(items), width), np.int64)
    places, chosen = [], []
    for i, row in enumerate(items):
        tokens[i, : row.length] = np.concatenate([row.prompt_tokens, row.rollout.tokens[:-1]])
        kept = np.flatnonzero(row.rollout.loss_mask)
        places.append(i * width + len(row.prompt_tokens) - 1 + kept)
        chosen.append(kept)
    return _batch(items, tokens, places, chosen, None)


def _batch(
    items: Sequence[Row],
    tokens: np.ndarray,
    places: Sequence[np.ndarray],
    chosen: Sequence[np.ndarray],
    shared: Shared | None,
) -> Batch:
    """`chosen`: index of the tokens with loss in each row's completion."""
    counts = [len(kept) for kept in chosen]
    rows = list(zip(items, chosen, strict=True))
    return Batch(
        tokens=tokens,
        places=np.concatenate(places).astype(np.int64),
        targets=np.concatenate([row.rollout.tokens[kept] for row, kept in rows]).astype(np.int64),
        advantages=np.concatenate([row.advantages[kept] for row, kept in rows]).astype(np.float32),
        behaviour=np.concatenate([row.rollout.logprobs[kept] for row, kept in rows]).astype(np.float32),
        temperatures=np.repeat([row.temperature for row in items], counts).astype(np.float32),
        lags=np.concatenate([row.lags[kept] for row, kept in rows]).astype(np.int64),
        rollout=np.repeat(np.arange(len(items)), counts),
        lengths=np.array(counts, np.float32),
        rewards=np.array([row.reward for row in items], np.float32),
        groups=np.unique([row.group for row in items], return_inverse=True)[1].astype(np.int64),
        shared=shared,
    )


def _cut_padded(ordered: Sequence[Row], budget: int) -> list[list[Row]]:
    """Fill from the longest row on; the first row of a part sets its width."""
    parts: list[list[Row]] = []
    for row in ordered:
        if parts and parts[-1][0].length * (len(parts[-1]) + 1) <= budget:
            parts[-1].append(row)
        else:
            parts.append([row])
    return parts


def _cut_packed(ordered: Sequence[Row], budget: int) -> list[list[Row]]:
    """A group's first row in a part also costs its prompt."""
    parts: list[list[Row]] = []
    spent = 0
    for row in ordered:
        read = len(row.rollout.tokens) - 1
        cost = read if parts and parts[-1][-1].group == row.group else row.length
        if parts and spent + cost <= budget:
            parts[-1].append(row)
            spent += cost
        else:
            parts.append([row])
            spent = row.length
    return parts
