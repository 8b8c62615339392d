"""Ray itself: a local one of our own, or the cluster that the recipe names."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from swarm.config import RunConfig
from swarm.errors import ConfigError

OBJECT_STORE_BYTES = 256 * 2**20
"""Of a local Ray: groups are kilobytes, and weights of the same host do not pass through the store."""


def cpus_asked(config: RunConfig) -> int:
    """Cores that all workers of a recipe ask Ray for."""
    a, r, s = config.actors, config.rewarders, config.learners
    return a.num * a.threads + r.num + s.ranks * s.threads + sum(judge.threads for judge in r.served)


@contextmanager
def ray_running(config: RunConfig) -> Iterator[None]:
    """Connect to Ray for the time inside. A local one is told that it has as many cores as the recipe asks for:
    on a laptop the roles share the cores, and the operating system divides them better than a refusal would."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault(
        "RAY_worker_niceness", "0"
    )  # Ray's 15 would let anything else on the machine starve the roles
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    if not config.cluster.address:
        os.environ.pop("RAY_ADDRESS", None)  # it would be stronger than what is asked for below
        # Ray replaces 127.0.0.1 by the address of the host, and then listens on all interfaces, unless it takes the
        # machine for one that it supports no clusters on. It reads this when it is imported, in each process.
        os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    import ray

    quiet = {"log_to_driver": False, "logging_level": logging.ERROR, "configure_logging": True}
    if config.cluster.address:
        try:
            ray.init(address=config.cluster.address, **quiet)
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise ConfigError(
                f'cluster.address = "{config.cluster.address}": no Ray cluster answers there ({error}); '
                "start one with `ray start --head`, or leave the address empty for a local one"
            ) from None
        _demand(config, ray.cluster_resources())
    else:
        ray.init(
            address="local",  # else a Ray that somebody else has started here would be taken
            num_cpus=max(os.cpu_count() or 1, cpus_asked(config)),
            include_dashboard=False,
            object_store_memory=OBJECT_STORE_BYTES,
            _node_ip_address="127.0.0.1",
            **quiet,
        )
        _spare_the_cores()
    try:
        yield
    finally:
        ray.shutdown()


def _spare_the_cores() -> None:
    """End what polls beside a local Ray and serves nothing here: the autoscaler, and the mirror of worker logs."""
    from ray._private import worker

    node = getattr(worker, "_global_node", None)
    for name in ("kill_monitor", "kill_log_monitor"):
        with suppress(Exception):  # private, so it may be gone in another Ray: then they go on polling
            getattr(node, name)(check_alive=False)


def _demand(config: RunConfig, has: dict[str, float]) -> None:
    gpus = config.actors.num * config.actors.gpus + config.learners.ranks * config.learners.gpus
    gpus += sum(judge.gpus for judge in config.rewarders.served)
    for kind, wanted in (("CPU", float(cpus_asked(config))), ("GPU", gpus)):
        if has.get(kind, 0.0) < wanted:
            raise ConfigError(
                f'cluster.address = "{config.cluster.address}": the recipe asks for {wanted:g} {kind}, '
                f"the cluster has {has.get(kind, 0.0):g}; lower actors.num, threads or gpus, or add hosts"
            )
