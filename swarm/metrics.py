"""What is logged of each learner step, and figures of a whole run that have a definition worth stating."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from swarm.shares import Shares
from swarm.types import Handle, StepReport, Weights


def step_metrics(
    lineage: int, report: StepReport, batch: Sequence[Handle], weights: Weights, shares: Shares
) -> dict[str, Any]:
    """One line of metrics.jsonl: plain numbers, the learner's own under their `learn/...` names."""
    rewards = [r for handle in batch for r in handle.facts.rewards if r is not None]
    return {
        "step": report.step,
        "lineage": lineage,
        "reward": float(np.mean(rewards)) if rewards else None,
        "rollouts": report.num_rollouts,
        "tokens": report.num_tokens,
        "trained_tokens": report.num_trained_tokens,
        "mean_length": float(np.mean([h.facts.mean_length for h in batch])),
        "step_s": report.seconds,
        "digest": weights.digest,
        "weights_bytes": weights.bytes,
        "learner_shares": shares.read(),
        **label_metrics(batch),
        **sync_metrics(weights),
        **report.metrics,
    }


def label_metrics(batch: Sequence[Handle]) -> dict[str, float]:
    """Ages of the judges' labels in a batch, in seconds, and what judges that were behind or down did to it."""
    found = [handle.facts.labels for handle in batch if handle.facts.labels]
    if not found:
        return {}
    rollouts = sum(handle.facts.num_rollouts for handle in batch)
    ages = [labels.age_s for labels in found if labels.age_s is not None]
    known = {"reward/label_age_mean_s": float(np.mean(ages)), "reward/label_age_max_s": max(ages)} if ages else {}
    return known | {
        "reward/backlog": max(labels.backlog for labels in found),
        "reward/displaced_frac": sum(labels.displaced for labels in found) / rollouts,
        "reward/stand_in_frac": sum(labels.stood_in for labels in found) / rollouts,
    }


def drained(counts: Counter[str]) -> dict[str, int]:
    """The counts since the last call; from now on they are 0."""
    found = dict(counts)
    counts.update({name: -count for name, count in found.items()})
    return found


def sync_metrics(weights: Weights) -> dict[str, float]:
    """What a host that holds the set before has to be sent, and what another has; nothing where there is no delta."""
    delta = weights.delta
    if delta is None:
        return {}
    return {
        "sync/changed_frac": delta.changed / delta.elements,
        "sync/changed_elements": delta.changed,
        "sync/delta_bytes": delta.bytes,
        "sync/full_bytes": weights.bytes,
        "sync/delta_s": delta.seconds,
    }


def length_bias(taken: Sequence[float], finished: Sequence[float], seed: int = 0) -> tuple[float, float, float]:
    """Mean length of groups that were trained on over that of all that finished, minus 1, with a 95 % interval.

    `taken` is contained in `finished` (mean completion length of each group, in tokens). The interval is a percentile
    bootstrap over groups. Within 1 % is the promise; nan where nothing was taken.
    """
    if not len(taken) or not len(finished):
        return float("nan"), float("nan"), float("nan")
    a, b = np.asarray(taken, float), np.asarray(finished, float)
    rng = np.random.default_rng(seed)
    draws = [rng.choice(a, len(a)).mean() / rng.choice(b, len(b)).mean() - 1 for _ in range(1000)]
    low, high = np.percentile(draws, [2.5, 97.5])
    return float(a.mean() / b.mean() - 1), float(low), float(high)


def work_conserving_bound(trained_tokens: int, cpu_seconds: float, cores: int) -> float:
    """Trained tokens/s if no core had ever waited: the same work spread over all cores of the machine.

    `cpu_seconds` is what actors, reward workers and learner burnt together for those tokens. Threads that spin while
    they wait would count as work, which is why every process waits passively (`OMP_WAIT_POLICY`).
    """
    return trained_tokens * cores / cpu_seconds if cpu_seconds > 0 else float("nan")
