"""The benches by name."""

from __future__ import annotations

from collections.abc import Mapping

from cluster.bench import Bench
from cluster.bench_learn import Speed
from cluster.bench_reward_attacks import Attacks
from cluster.bench_reward_ensembles import Ensembles
from cluster.bench_reward_false_positive import FalsePositive
from cluster.bench_reward_shaping import Shaping
from cluster.bench_reward_training import Training
from cluster.bench_rules import Lag, Rules
from cluster.bench_upkeep import Checkpoint, Delta

BENCHES: Mapping[str, type[Bench]] = {
    "learn/speed": Speed,
    "learn/checkpoint": Checkpoint,
    "learn/delta": Delta,
    "learn/rules": Rules,
    "learn/lag": Lag,
    "reward/ensembles": Ensembles,
    "reward/shaping": Shaping,
    "reward/training": Training,
    "reward/false_positive": FalsePositive,
    "reward/attacks": Attacks,
}
