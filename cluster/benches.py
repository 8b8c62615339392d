"""The benches by name."""

from __future__ import annotations

from collections.abc import Mapping

from cluster.bench import Bench
from cluster.bench_learn import Speed

BENCHES: Mapping[str, type[Bench]] = {"learn/speed": Speed}
