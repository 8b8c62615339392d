"""Weights between two hosts of a real Ray cluster (two raylets on this machine, which Ray takes for two hosts)."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray

from cluster.ray_transport import Transport
from swarm.errors import ActorError
from swarm.journal import RunFolder
from swarm.types import Weights
from tests.cluster.published import Source
from tests.cluster.small import make_model, swarm, write_recipe

ACTOR_THREADS = 3
"""More than the learner's host has, so that an actor must go to the other one."""

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def hosts() -> Iterator[tuple[str, str]]:
    """The learner's host and an actor's."""
    from ray.cluster_utils import Cluster

    nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})
    try:
        other = nodes.add_node(num_cpus=ACTOR_THREADS)
        ray.init(address=nodes.address, log_to_driver=False)
        yield nodes.head_node.node_id, other.node_id
    finally:
        ray.shutdown()
        nodes.shutdown()


class Wire:
    """A transport with what it told, driven from a test."""

    def __init__(self, hosts: tuple[str, str], folder: Path) -> None:
        self.here, self.there = hosts
        self.told: list[tuple[str, dict[str, Any]]] = []
        self.transport = Transport(lambda kind, **facts: self.told.append((kind, facts)))
        self.source = Source(folder)

    async def bring(self, weights: Weights) -> list[str]:
        """Bring a set, check that it is the published one bit for bit; what was told of it."""
        self.told.clear()
        path = await self.transport.bring(weights, self.here, self.there)
        assert path != weights.path
        assert same(path, weights.path)
        return [facts.get("how", kind) for kind, facts in self.told]


def same(path: str, other: str) -> bool:
    return Path(path).read_bytes() == Path(other).read_bytes()


def damage(path: str) -> None:
    """Flip a bit of the last value: only a digest can tell."""
    content = bytearray(Path(path).read_bytes())
    content[-1] ^= 1
    Path(path).write_bytes(content)


def lose(path: str) -> None:
    Path(path).unlink()


@pytest.fixture
def wire(hosts: tuple[str, str], tmp_path: Path) -> Wire:
    return Wire(hosts, tmp_path)


def test_beside_the_learner_nothing_travels(wire: Wire) -> None:
    async def use() -> None:
        first = wire.source.publish()
        assert await wire.transport.bring(first, wire.here, wire.here) == first.path
        assert not wire.told
        await wire.transport.close()

    asyncio.run(use())


def test_a_set_travels_whole_then_as_deltas_once_per_host_and_a_late_one_whole_again(wire: Wire) -> None:
    async def use() -> None:
        assert await wire.bring(wire.source.publish()) == ["full"]
        second = wire.source.publish()
        assert await wire.bring(second) == ["delta"]
        assert wire.told[0][1]["bytes"] == second.delta.bytes < second.bytes / 4
        assert await wire.bring(second) == [], "another actor of that host"
        third = wire.source.publish()
        at_once = [wire.transport.bring(third, wire.here, wire.there) for _ in range(3)]
        assert len(set(await asyncio.gather(*at_once))) == 1
        wire.source.publish()
        assert await wire.bring(wire.source.publish()) == ["full"], "one was missed"
        assert await wire.bring(wire.source.publish()) == ["delta"]
        await wire.transport.close()

    asyncio.run(use())


def test_a_damaged_or_lost_delta_is_told_and_the_full_set_comes(wire: Wire) -> None:
    async def use() -> None:
        await wire.bring(wire.source.publish())
        damaged = wire.source.publish()
        damage(damaged.delta.path)
        assert await wire.bring(damaged) == ["delta_refused", "full"]
        assert "digest" in wire.told[0][1]["cause"]
        lost = wire.source.publish()
        lose(lost.delta.path)
        assert await wire.bring(lost) == ["delta_refused", "full"]
        assert "cannot be read" in wire.told[0][1]["cause"]
        await wire.transport.close()

    asyncio.run(use())


@pytest.mark.parametrize(("side", "then"), [("there", "full"), ("here", "delta")])
def test_a_dead_courier_is_replaced_and_the_set_arrives(wire: Wire, side: str, then: str) -> None:
    async def use() -> None:
        await wire.bring(wire.source.publish())
        ray.kill(wire.transport._hosts[getattr(wire, side)].process)
        found = await wire.bring(wire.source.publish())
        assert found[-1] == then
        assert "courier_died" in found
        assert await wire.bring(wire.source.publish()) == ["delta"]
        await wire.transport.close()

    asyncio.run(use())


def test_a_host_that_is_gone_is_an_error_of_its_actors(wire: Wire) -> None:
    async def use() -> None:
        with pytest.raises(ActorError, match="weights of step 1 did not arrive"):
            await wire.transport.bring(wire.source.publish(), wire.here, "0" * len(wire.there))
        await wire.transport.close()

    asyncio.run(use())


def test_what_is_not_as_published_is_never_handed_to_an_actor(wire: Wire) -> None:
    async def use() -> None:
        first = wire.source.publish()
        damage(first.path)
        with pytest.raises(ActorError, match="published as"):
            await wire.transport.bring(first, wire.here, wire.there)
        await wire.transport.close()

    asyncio.run(use())


@pytest.mark.slow
def test_a_run_whose_actor_is_on_another_host_sends_deltas_and_trains_to_its_end(
    hosts: tuple[str, str], tmp_path: Path
) -> None:
    steps = 4
    settings = (
        f"cluster.address={ray.get_runtime_context().gcs_address}",
        f"actors.threads={ACTOR_THREADS}",
        "model.dtype=bfloat16",
        "learners.lr=1e-6",
    )
    recipe = write_recipe(tmp_path, make_model(tmp_path / "model"), steps)
    swarm("run", recipe, "--out", tmp_path / "out", *(part for text in settings for part in ("--set", text)))
    folder = RunFolder(tmp_path / "out")
    carried = [e["how"] for e in folder.read("events.jsonl") if e["event"] == "carried"]
    assert carried == ["full"] + ["delta"] * steps
    lines = folder.read("metrics.jsonl")
    assert [line["step"] for line in lines] == list(range(1, steps + 1))
    assert all(0 <= line["sync/changed_frac"] < 1 for line in lines)
    assert all(line["sync/delta_bytes"] < line["sync/full_bytes"] for line in lines)
