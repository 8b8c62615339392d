"""What only vLLM needs: updates that vLLM itself would let pass, and its caches."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pytest

from actors import engine_vllm
from actors.engine_thread import Sync
from swarm.errors import ActorError
from swarm.roles import Sampling
from swarm.weights import Tensor, open_mapped

pytest.importorskip("vllm")

PROMPT = np.arange(5, 45, dtype=np.int32)


@pytest.fixture(scope="module", params=[False, pytest.param(True, marks=pytest.mark.slow)], ids=["cleared", "kept"])
def bench(request: pytest.FixtureRequest, llama: str, tools: Any, tmp_path_factory: Any) -> Iterator[Any]:
    folder = tmp_path_factory.mktemp("published")
    bench = tools.open_bench("vllm", llama, folder, keep_cache=request.param, max_num_seqs=48)
    yield bench
    bench.engine.close()


class Cut(Mapping[str, Tensor]):
    """A set whose stream breaks before its n-th tensor."""

    def __init__(self, tensors: Mapping[str, Tensor], n: int) -> None:
        self.tensors, self.n = tensors, n

    def __getitem__(self, name: str) -> Tensor:
        if list(self.tensors).index(name) >= self.n:
            raise ConnectionError(f"stream broke before {name}")
        return self.tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.tensors)

    def __len__(self) -> int:
        return len(self.tensors)


def push(bench: Any, tensors: Mapping[str, Tensor]) -> None:
    """Load a set past the staging that would have refused it."""
    sync = Sync(bench.publish(bench.moved()), tensors, 0.0)
    bench.engine._post(lambda: bench.engine._syncs.append(sync), sync.future)
    sync.future.result()


def assert_serves(bench: Any, tools: Any) -> None:
    out = bench.run(bench.engine.complete(PROMPT, Sampling(1.0, 16), 1))
    plain = tools.logprobs_of(bench.net, PROMPT, out.tokens)
    np.testing.assert_allclose(out.logprobs, plain, atol=1e-3, rtol=0)


@pytest.mark.parametrize("part", ["layers.1.mlp.", "layers.0.self_attn.", "layers.1.self_attn.k_proj", "model.norm"])
def test_an_update_that_leaves_a_layer_out_is_caught_and_rolled_back(bench: Any, tools: Any, part: str) -> None:
    bench.load(bench.moved())
    staged = open_mapped(bench.publish(bench.moved()).path)
    with pytest.raises(ActorError, match=f"not loaded, .*{part}.* is back"):
        push(bench, {name: tensor for name, tensor in staged.items() if part not in name})
    assert_serves(bench, tools)


def test_a_stream_that_breaks_at_any_tensor_is_rolled_back(bench: Any, tools: Any) -> None:
    staged = open_mapped(bench.publish(bench.moved()).path)
    for n in range(len(staged)):
        with pytest.raises(ActorError, match="stream broke"):
            push(bench, Cut(staged, n))
        assert_serves(bench, tools)


def test_the_first_rollback_is_to_the_model_folder(llama: str, tools: Any, tmp_path: Any) -> None:
    bench = tools.open_bench("vllm", llama, tmp_path)
    with pytest.raises(ActorError, match="not loaded"):
        push(bench, {})
    assert_serves(bench, tools)
    bench.engine.close()


def test_weights_that_overflow_leave_no_trace_in_the_cache(bench: Any, tools: Any) -> None:
    async def overflow() -> None:
        running = [asyncio.create_task(bench.engine.complete(PROMPT, Sampling(1.0, 150), i)) for i in range(16)]
        await bench.engine.complete(PROMPT, Sampling(1.0, 2), 0)
        with pytest.raises(ActorError, match="canary differs"):
            await bench.engine.load(bench.publish(bench.moved(1e30), canary_net=bench.net))
        await asyncio.gather(*running, return_exceptions=True)

    bench.run(overflow())
    for _ in range(3):
        assert_serves(bench, tools)


def test_new_requests_never_share_the_prefix_cache_of_older_weights(bench: Any, tools: Any) -> None:
    for _ in range(3):
        assert_serves(bench, tools)
        bench.load(bench.moved())
    assert_serves(bench, tools)


def test_seeded_requests_survive_updates_with_more_tokens_under_way_than_a_step_takes(bench: Any) -> None:
    async def storm() -> None:
        prompts = [np.arange(3, 60 + i, dtype=np.int32) for i in range(60)]  # 48 run: 4,000 tokens, 300 a step
        asked = asyncio.gather(*(bench.engine.complete(p, Sampling(1.0, 60), i) for i, p in enumerate(prompts)))
        for i in range(3):
            await bench.engine.complete(PROMPT, Sampling(1.0, 2 + i), i)
            net = bench.moved()
            await bench.engine.load(bench.publish(net, net))
            bench.net = net
        for out in await asked:
            assert out.spans[-1].end == len(out.tokens)

    bench.run(storm())


def test_registering_twice_is_harmless() -> None:
    engine_vllm.register()
    engine_vllm.register()


def test_another_vllm_is_refused_in_one_line_that_says_what_is_needed() -> None:
    calls = set(engine_vllm.CALLS)
    assert engine_vllm.unsupported("0.32.4", calls) == ""
    assert "0.32.x is needed" in engine_vllm.unsupported("0.33.0", calls)
    gone = engine_vllm.unsupported("0.30.1", calls - {"start_weight_update"})
    assert "LLM.start_weight_update" in gone
    assert "\n" not in gone
