"""Couriers with real files: what they make of deltas is what was published, or they make nothing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from cluster.courier import Courier
from swarm import weights
from swarm.errors import ActorError
from swarm.types import Weights
from tests.cluster.published import Source


@pytest.fixture
def source(tmp_path: Path) -> Source:
    return Source(tmp_path)


@pytest.fixture
def courier() -> Iterator[Courier]:
    made = Courier()
    yield made
    made.close()


def same(path: str, published: Weights) -> bool:
    return Path(path).read_bytes() == Path(published.path).read_bytes()


def carried(here: Courier, there: Courier, published: Weights) -> str:
    """By delta."""
    assert published.delta is not None
    return there.patch(published, here.read(published.delta.path))


def test_a_chain_of_deltas_gives_every_set_bit_for_bit(source: Source, courier: Courier) -> None:
    here, first = Courier(), source.publish()
    assert same(courier.hold(first, here.read(first.path)), first)
    for share in (0.001, 0.3, 0.0, 1.0):
        published = source.publish(share)
        assert same(carried(here, courier, published), published)


def test_a_mapped_set_stays_as_it_was_while_the_next_ones_are_made(source: Source, courier: Courier) -> None:
    here, first = Courier(), source.publish()
    mapped = weights.open_mapped(courier.hold(first, here.read(first.path)))
    for _ in range(3):
        carried(here, courier, source.publish())
    assert weights.digest((n, t.dtype, t.shape, t.data) for n, t in mapped.items()) == first.digest


def test_the_two_newest_sets_are_kept_and_all_go_at_the_end(source: Source, courier: Courier) -> None:
    here, first = Courier(), source.publish()
    paths = [Path(courier.hold(first, here.read(first.path)))]
    paths += [Path(carried(here, courier, source.publish())) for _ in range(2)]
    assert [path.exists() for path in paths] == [False, True, True]
    courier.close()
    assert not paths[0].parent.exists()


def test_a_damaged_delta_is_refused_and_the_full_set_still_comes(source: Source, courier: Courier) -> None:
    here, first = Courier(), source.publish()
    courier.hold(first, here.read(first.path))
    published = source.publish()
    content = here.read(published.delta.path)
    content[-1] ^= 1  # a value: only the digest can tell
    with pytest.raises(ActorError, match="step 2: digest"):
        courier.patch(published, content)
    with pytest.raises(ActorError, match=r"step 2: delta .* cut short"):
        courier.patch(published, content[:-3])
    assert same(courier.hold(published, here.read(published.path)), published)
    assert not list(Path(courier.hold(published, here.read(published.path))).parent.glob("*.part"))


def test_who_is_further_behind_cannot_use_the_delta(source: Source, courier: Courier) -> None:
    here, first = Courier(), source.publish()
    courier.hold(first, here.read(first.path))
    source.publish()
    third = source.publish()
    with pytest.raises(ActorError, match="not held here"):
        carried(here, courier, third)
    assert same(courier.hold(third, here.read(third.path)), third)


def test_a_full_set_that_is_not_what_was_published_is_refused(source: Source, courier: Courier) -> None:
    first = source.publish()
    content = Courier().read(first.path)
    with pytest.raises(ActorError, match="cut short"):
        courier.hold(first, content[:-2])
    with pytest.raises(ActorError, match="published as 0000"):
        courier.hold(replace(first, digest="0" * 32), content)


def test_a_file_that_is_gone_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(ActorError, match="nothing here"):
        Courier().read(str(tmp_path / "nothing here"))
