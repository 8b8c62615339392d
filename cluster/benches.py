"""The benches by name."""

from __future__ import annotations

from collections.abc import Mapping

from cluster.bench import Bench
from cluster.bench_learn import Speed
from cluster.bench_reward_attacks import Attacks
from cluster.bench_reward_ensembles import Ensembles
from cluster.bench_reward_estimates import Accuracy, Appeals, Crowd, Failures
from cluster.bench_reward_false_positive import FalsePositive
from cluster.bench_reward_noise import Gradient, GroupFlips, Phase, StepSize
from cluster.bench_reward_plane import JudgePlane
from cluster.bench_reward_sandbox import Sandbox
from cluster.bench_reward_shaping import Shaping
from cluster.bench_reward_training import Flips, Training
from cluster.bench_reward_verifiers import Verifiers
from cluster.bench_rules import Lag, Rules
from cluster.bench_upkeep import Checkpoint, Delta, Pause

BENCHES: Mapping[str, type[Bench]] = {
    "learn/speed": Speed,
    "learn/checkpoint": Checkpoint,
    "learn/delta": Delta,
    "learn/pause": Pause,
    "learn/rules": Rules,
    "learn/lag": Lag,
    "reward/verifiers": Verifiers,
    "reward/ensembles": Ensembles,
    "reward/shaping": Shaping,
    "reward/training": Training,
    "reward/flips": Flips,
    "reward/sandbox": Sandbox,
    "reward/false_positive": FalsePositive,
    "reward/attacks": Attacks,
    "reward/gradient": Gradient,
    "reward/phase": Phase,
    "reward/step-size": StepSize,
    "reward/group-flips": GroupFlips,
    "reward/appeals": Appeals,
    "reward/accuracy": Accuracy,
    "reward/crowd": Crowd,
    "reward/failures": Failures,
    "reward/judge_plane": JudgePlane,
}
