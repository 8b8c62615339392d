"""Several ranks as real processes over gloo: they train as one does, save for any number, and fail together."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch

from learners.ranks import listen, meet
from learners.saving import read, read_weights
from learners.state import KINDS
from swarm.errors import DivergedError
from swarm.weights import open_mapped
from tests.learners.conftest import _group as group
from tests.learners.ranks import Ranks

STEPS = 5
FIGURES = (
    "learn/loss",
    "learn/grad_norm",
    "learn/kl_behaviour_nats",
    "learn/importance_mean",
    "learn/ess_frac",
    "learn/entropy_nats",
)


@pytest.fixture(scope="module")
def two(model_folder: Path) -> Iterator[Ranks]:
    ranks = Ranks(2, model_folder)
    yield ranks
    ranks.close()


@pytest.fixture(scope="module")
def four(model_folder: Path) -> Iterator[Ranks]:
    ranks = Ranks(4, model_folder)
    yield ranks
    ranks.close()


def batch(step: int) -> list[Any]:
    """Full batches, and partial ones: of step 4 two rows are left, of step 5 a single one, which leaves ranks idle."""
    now = {"step": step - 1}
    if step == 4:
        return [group((1.0, 0.0, None, None), step, **now), group((1.0,) * 4, 90, **now)]
    if step == 5:
        return [group((1.0, 0.0), step, lengths=(9, 1), **now), group((0.0, 0.0), 91, **now)]
    mixed = (1.0, 0.0, 0.0, 1.0)
    return [group(mixed, step, **now), group(mixed, 20 + step, prompt_length=4, **now), group(mixed, 40 + step, **now)]


def train(learner: Any, first: int = 1, last: int = STEPS) -> list[Any]:
    return [learner.step(step, batch(step)) for step in range(first, last + 1)]


def masters(learner: Any) -> dict[str, np.ndarray]:
    with learner._engine.parameters(learner._model) as parameters:
        return {name: p.clone().numpy() for name, p in parameters.items()}


def trained(make: Any, dtype: str, options: dict[str, Any]) -> Any:
    learner = make(dtype, **options)
    reports = train(learner)
    published = learner.publish()
    digest = published and published.digest
    names = published and list(open_mapped(published.path))
    return [dict(r.metrics) | {"tokens": r.num_trained_tokens} for r in reports], masters(learner), digest, names


def alone(make_learner: Any, dtype: str = "float32", **options: Any) -> Any:
    return trained(make_learner, dtype, {"lr": 1e-3, "micro_tokens": 40} | options)


def compare(found: list[Any], wanted: Any, weights: float, figures: float) -> None:
    for rank, (reports, values, digest, _) in enumerate(found):
        for report, want in zip(reports, wanted[0], strict=True):
            assert report["tokens"] == want["tokens"]
            for key in FIGURES:
                assert report[key] == pytest.approx(want[key], rel=figures, abs=figures / 10), (rank, key)
        for name, value in values.items():
            assert np.allclose(value, wanted[1][name], rtol=0, atol=weights), (rank, name)
            assert np.array_equal(value, found[0][1][name]), "ranks differ"
        assert (digest is None) == (rank > 0)
    assert found[0][3] == wanted[3]


def slow(*values: Any) -> Any:
    return pytest.param(*values, marks=pytest.mark.slow)


@pytest.mark.parametrize("stage", [0, 1, slow(2), 3])
def test_two_ranks_train_as_one_without_zero(two: Ranks, make_learner: Any, stage: int) -> None:
    compare(two.run(trained, "float32", {"zero_stage": stage}), alone(make_learner), weights=2e-5, figures=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_four_ranks_train_as_one_without_zero(four: Ranks, make_learner: Any, stage: int) -> None:
    compare(four.run(trained, "float32", {"zero_stage": stage}), alone(make_learner), weights=2e-5, figures=1e-3)


@pytest.mark.parametrize("stage", [slow(0), slow(1), slow(2), slow(3)])
def test_two_ranks_in_bfloat16_train_as_one(two: Ranks, make_learner: Any, stage: int) -> None:
    """AdamW moves a weight by about the learning rate (1e-3) in a step, wherever its gradient rounds to."""
    found = two.run(trained, "bfloat16", {"zero_stage": stage})
    compare(found, alone(make_learner, "bfloat16"), weights=5e-3, figures=5e-2)
    near = [np.abs(found[0][1][n] - v) for n, v in alone(make_learner, "bfloat16")[1].items()]
    assert np.mean(np.concatenate([x.ravel() for x in near])) < 2e-4


@pytest.mark.parametrize("stage", [slow(0), slow(2), 3])
def test_several_updates_a_penalty_and_offload_are_shared_too(two: Ranks, make_learner: Any, stage: int) -> None:
    options = {"updates_per_step": 2, "kl_coef": 0.1, "weight_decay": 0.1, "grad_clip": 0.05}
    found = two.run(trained, "float32", options | {"zero_stage": stage, "offload": stage > 0})
    wanted = alone(make_learner, **options)
    compare(found, wanted, weights=2e-5, figures=1e-3)
    for report, want in zip(found[1][0], wanted[0], strict=True):
        assert report["learn/kl_reference_nats"] == pytest.approx(want["learn/kl_reference_nats"], rel=1e-2, abs=1e-7)


def diverging(make: Any, stage: int) -> list[Any]:
    learner = make(zero_stage=stage, micro_tokens=1)
    bad = group((1.0, 0.0, 0.0, 1.0), 1)
    spoilt = replace(bad.rollouts[-1], logprobs=np.full(len(bad.rollouts[-1].tokens), np.nan, np.float32))
    before = learner.checksum()
    said = ""
    try:
        learner.step(1, [replace(bad, rollouts=(*bad.rollouts[:-1], spoilt))])
    except DivergedError as error:
        said = str(error)
    same = learner.checksum() == before
    learner.step(1, [bad])
    fresh = make(zero_stage=stage, micro_tokens=1)
    fresh.step(1, [bad])
    return [said, same, learner.checksum() == fresh.checksum()]


@pytest.mark.parametrize("stage", [slow(0), slow(1), 2, slow(3)])
def test_a_loss_that_is_not_finite_on_one_rank_is_told_by_all(two: Ranks, stage: int) -> None:
    for said, same, clean in two.run(diverging, stage):
        assert said.startswith("the loss is nan")
        assert same
        assert clean, "something was left of the passes before"


# -- states -----------------------------------------------------------------------------------------------------------


def state_of(learner: Any) -> Any:
    """Weights and moments as they are in memory, by (kind, name, start)."""
    pieces = learner._engine.pieces()
    return {(k, p.name, p.start): t.clone().numpy() for p in pieces for k, t in p.tensors().items()}


def interrupted(make: Any, stage: int, folder: Path) -> list[Any]:
    whole = make(zero_stage=stage)
    train(whole, 1, 2)
    whole.save(folder)
    held, saved = state_of(whole), whole.checksum()
    train(whole, 3, 4)
    whole.saved()
    resumed = make(zero_stage=stage)
    resumed.restore(folder, 1)
    assert resumed.checksum() == saved
    train(resumed, 3, 4)
    return [held, saved, whole.checksum(), resumed.checksum()]


def continued(make: Any, stage: int, folder: Path) -> list[Any]:
    learner = make(zero_stage=stage)
    learner.restore(folder, 1)
    held, saved = state_of(learner), learner.checksum()
    (folder / "again").mkdir(exist_ok=True)
    learner.save(folder / "again")
    learner.saved()
    return [held, saved, learner._engine.updates(), train(learner, 3, 3)[0].metrics["learn/loss"]]


def pieces_of(folder: Path) -> Any:
    _, _, state = read(folder)
    return {(kind, name): state.whole(kind, name).numpy() for kind in KINDS for name in state.shapes}


@pytest.mark.parametrize("stage", [slow(0), 1, slow(2), 3])
def test_a_resume_of_two_ranks_is_exact(two: Ranks, tmp_path: Path, stage: int) -> None:
    first, second = two.run(interrupted, stage, tmp_path)
    for _, _, whole, resumed in (first, second):
        assert whole == resumed == first[2]
    saved = pieces_of(tmp_path)
    for (kind, name, start), values in (first[0] | second[0]).items():
        there = saved[kind, name].ravel()[start : start + len(values)]
        assert np.array_equal(there.view(np.uint32), values.view(np.uint32))
    sizes = [f.stat().st_size for f in sorted(tmp_path.glob("state-*-of-2.safetensors"))]
    assert len(sizes) == 2
    assert max(sizes) < 1.2 * min(sizes), "not balanced"


def test_a_state_of_two_ranks_and_zero_1_goes_on_alone_without_zero(
    two: Ranks, make_learner: Any, tmp_path: Path
) -> None:
    _, saved, *_ = two.run(interrupted, 1, tmp_path)[0]
    assert_goes_on([continued(make_learner, 0, tmp_path)], saved, tmp_path)
    learner = make_learner(lr=1e-3, micro_tokens=40)
    learner.restore(tmp_path, 1)
    assert {n: v.tobytes() for n, v in masters(learner).items()} == {
        n: v.numpy().tobytes() for n, v in read_weights(tmp_path).items()
    }


@pytest.mark.slow
@pytest.mark.parametrize(("before", "then", "after"), [(1, 0, 3), (3, 3, 2), (2, 1, 1), (0, 2, 0)])
def test_a_state_goes_on_over_other_numbers_of_ranks_and_stages(
    two: Ranks, four: Ranks, make_learner: Any, tmp_path: Path, before: int, then: int, after: int
) -> None:
    _, saved, *_ = two.run(interrupted, before, tmp_path)[0]
    losses = [assert_goes_on([continued(make_learner, then, tmp_path)], saved, tmp_path)]
    losses.append(assert_goes_on(four.run(continued, after, tmp_path / "again"), saved, tmp_path))
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def assert_goes_on(found: list[Any], saved: str, folder: Path) -> float:
    """What was restored, and what is saved of it again, is bit for bit what `folder` has."""
    want = pieces_of(folder)
    for held, checksum, updates, _ in found:
        assert checksum == saved
        assert set(updates.values()) == {2}
        for (kind, name, start), values in held.items():
            there = want[kind, name].ravel()[start : start + len(values)]
            assert np.array_equal(there.view(np.uint32), values.view(np.uint32)), (kind, name)
    again = max(folder.rglob("again"))
    for key, values in pieces_of(again).items():
        assert np.array_equal(values.view(np.uint32), want[key].view(np.uint32)), key
    return float(found[0][3])


# -- meeting ----------------------------------------------------------------------------------------------------------


def test_the_store_listens_where_it_is_told_and_nowhere_else() -> None:
    store, address = listen("127.0.0.1")
    port = int(address.rpartition(":")[2])
    ours = [c.laddr.ip for c in psutil.Process().net_connections() if c.status == "LISTEN" and c.laddr.port == port]
    assert ours == ["127.0.0.1"]
    meet(address).set("word", "said")
    assert store.get("word") == b"said"


def test_two_learners_on_one_host_never_meet_on_one_port() -> None:
    stores = [listen("127.0.0.1") for _ in range(5)]  # all open at once
    assert len({address for _, address in stores}) == 5
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        assert listen("127.0.0.1")[1] != f"127.0.0.1:{taken.getsockname()[1]}"


def listening(make: Any) -> list[str]:
    make()
    return [c.laddr.ip for c in psutil.Process().net_connections() if c.laddr and c.status == "LISTEN"]


def test_ranks_on_one_host_listen_on_loopback_only(two: Ranks) -> None:
    for found in two.run(listening):
        assert set(found) <= {"127.0.0.1", "::1", "::ffff:127.0.0.1"}


def test_torch_is_not_asked_for_more_threads_than_a_rank_has(two: Ranks) -> None:
    assert two.run(threads) == [1, 1]


def threads(_: Any) -> int:
    return torch.get_num_threads()
