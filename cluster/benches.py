"""The benches by name."""

from __future__ import annotations

from collections.abc import Mapping

from cluster.bench import Bench
from cluster.bench_learn import Speed
from cluster.bench_reward_plane import JudgePlane
from cluster.bench_rules import Lag, Rules
from cluster.bench_upkeep import Checkpoint, Delta

BENCHES: Mapping[str, type[Bench]] = {
    "learn/speed": Speed,
    "learn/checkpoint": Checkpoint,
    "learn/delta": Delta,
    "learn/rules": Rules,
    "learn/lag": Lag,
    "reward/judge_plane": JudgePlane,
}
