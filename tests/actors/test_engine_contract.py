"""The contract of `swarm.roles.Engine`, over every engine, in float32 against plain forward passes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from actors.engines import ENGINES
from swarm.errors import ActorError, DeadActor, PromptRefused
from swarm.roles import Completion, Engine, Sampling
from swarm.types import Finish, PolicyVersion

TOLERANCE = 1e-3  # nats
PROMPTS = [np.arange(5 + i, 12 + 3 * i, dtype=np.int32) for i in range(6)]


@pytest.fixture(scope="module", params=list(ENGINES))
def bench(request: pytest.FixtureRequest, llama: str, tools: Any, tmp_path_factory: Any) -> Iterator[Any]:
    if request.param == "vllm":
        pytest.importorskip("vllm")
    bench = tools.open_bench(request.param, llama, tmp_path_factory.mktemp("published"), max_num_seqs=48)
    yield bench
    bench.engine.close()


async def several(engine: Engine, prompts: Any, temperature: float, new: int, seed: int = 0) -> list[Completion]:
    asked = (engine.complete(p, Sampling(temperature, new), seed + i) for i, p in enumerate(prompts))
    return await asyncio.gather(*asked)


def assert_is_policy(tools: Any, net: Any, prompt: Any, out: Completion, temperature: float = 1.0) -> None:
    plain = tools.logprobs_of(net, prompt, out.tokens, temperature)
    np.testing.assert_allclose(out.logprobs, plain, atol=TOLERANCE, rtol=0)


def test_greedy_outputs_are_the_argmax_of_a_plain_forward_pass_so_engines_agree(bench: Any, tools: Any) -> None:
    import torch

    for prompt, out in zip(PROMPTS, bench.run(several(bench.engine, PROMPTS, 0.0, 24)), strict=True):
        ids = torch.tensor([[*prompt, *out.tokens]], dtype=torch.long)
        with torch.no_grad():
            best = bench.net(ids).logits[0, len(prompt) - 1 : -1].argmax(-1)
        assert out.tokens.tolist() == best.tolist()
        assert (out.tokens.dtype, out.logprobs.dtype) == (np.int32, np.float32)


@pytest.mark.parametrize("temperature", [0.0, 0.7, 1.0])
def test_recorded_logprobs_are_those_of_the_sampling_distribution(bench: Any, tools: Any, temperature: float) -> None:
    for prompt, out in zip(PROMPTS, bench.run(several(bench.engine, PROMPTS, temperature, 24)), strict=True):
        assert_is_policy(tools, bench.net, prompt, out, temperature)


def test_greedy_and_sampled_requests_share_a_batch(bench: Any, tools: Any) -> None:
    async def mixed() -> list[Completion]:
        kinds = [0.0, 0.5, 1.0, 0.0, 1.3, 1.0]
        asked = (bench.engine.complete(p, Sampling(t, 16), 3) for p, t in zip(PROMPTS, kinds, strict=True))
        for prompt, t, out in zip(PROMPTS, kinds, await asyncio.gather(*asked), strict=True):
            assert_is_policy(tools, bench.net, prompt, out, t)
        return []

    bench.run(mixed())


def test_given_tokens_are_scored_at_temperature_one(bench: Any, tools: Any) -> None:
    async def scores() -> list[np.ndarray]:
        return await asyncio.gather(*(bench.engine.logprobs(p, np.arange(100, 120)) for p in PROMPTS))

    for prompt, found in zip(PROMPTS, bench.run(scores()), strict=True):
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, tools.logprobs_of(bench.net, prompt, range(100, 120)), atol=TOLERANCE, rtol=0)


def test_candidates_for_the_first_token_are_scored_in_one_request(bench: Any, tools: Any) -> None:
    ids = np.array([119, 7, 100, 7], np.int32)

    async def beside_others() -> list[np.ndarray]:
        sampled = (bench.engine.complete(p, Sampling(t, 16), 3) for p, t in zip(PROMPTS, (0.0, 0.7, 1.3), strict=False))
        others = asyncio.gather(*sampled)
        found = await asyncio.gather(*(bench.engine.first_logprobs(p, ids[: 2 + i % 3]) for i, p in enumerate(PROMPTS)))
        for prompt, t, out in zip(PROMPTS, (0.0, 0.7, 1.3), await others, strict=False):
            assert_is_policy(tools, bench.net, prompt, out, t)
        return found

    for i, (prompt, found) in enumerate(zip(PROMPTS, bench.run(beside_others()), strict=True)):
        plain = [tools.logprobs_of(bench.net, prompt, [int(token)])[0] for token in ids[: 2 + i % 3]]
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, plain, atol=TOLERANCE, rtol=0)
    assert len(bench.run(bench.engine.first_logprobs(PROMPTS[0], ids[:0]))) == 0
    with pytest.raises(ActorError, match="the vocabulary has"):
        bench.run(bench.engine.first_logprobs(PROMPTS[0], np.array([10**6], np.int32)))


def test_requests_join_and_leave_while_others_run(bench: Any) -> None:
    async def overlap() -> None:
        long = asyncio.create_task(bench.engine.complete(PROMPTS[0], Sampling(0.0, 200), 0))
        for wave in range(3):
            await several(bench.engine, PROMPTS, 0.0, 2 + wave)
            assert not long.done()
        await long

    bench.run(overlap())


def test_a_seed_fixes_the_tokens_and_another_seed_changes_them(bench: Any) -> None:
    first, again, other = (bench.run(several(bench.engine, PROMPTS, 1.0, 24, seed)) for seed in (7, 7, 8))
    assert [o.tokens.tolist() for o in first] == [o.tokens.tolist() for o in again]
    assert all(a.tokens.tolist() != b.tokens.tolist() for a, b in zip(first, other, strict=True))


def test_tokens_do_not_depend_on_what_else_runs(bench: Any) -> None:
    async def staggered() -> list[Completion]:
        tasks = []
        for i, prompt in enumerate(PROMPTS):
            tasks.append(asyncio.create_task(bench.engine.complete(prompt, Sampling(1.0, 24), 50 + i)))
            await bench.engine.complete(PROMPTS[0], Sampling(1.0, 3), i)
        return await asyncio.gather(*tasks)

    together = bench.run(several(bench.engine, PROMPTS, 1.0, 24, 50))
    assert [o.tokens.tolist() for o in together] == [o.tokens.tolist() for o in bench.run(staggered())]


def test_a_completion_ends_at_the_first_stop_token_or_at_its_length(bench: Any, tools: Any) -> None:
    outs = bench.run(several(bench.engine, PROMPTS * 10, 2.0, 60))
    assert {o.finish for o in outs} == {Finish.STOP, Finish.LENGTH}
    for out in outs:
        assert tools.EOS not in out.tokens[:-1]
        assert (out.finish is Finish.STOP) == (out.tokens[-1] == tools.EOS)
        assert out.finish is Finish.STOP or len(out.tokens) == 60


def test_more_requests_than_fit_at_once_all_finish(bench: Any, tools: Any) -> None:
    prompts = [np.arange(3, 3 + 20 + i % 150, dtype=np.int32) for i in range(120)]  # 8 to 9 times the budget of a step
    for prompt, out in zip(prompts, bench.run(several(bench.engine, prompts, 1.0, 5)), strict=True):
        assert_is_policy(tools, bench.net, prompt, out)


def test_a_prompt_that_can_not_fit_is_refused_and_one_that_just_fits_is_not(bench: Any, tools: Any) -> None:
    full = np.full(tools.CONTEXT - 4, 9, np.int32)
    assert len(bench.run(bench.engine.complete(full, Sampling(0.0, 4), 0)).tokens) <= 4
    assert len(bench.run(bench.engine.logprobs(full, np.array([1, 3, 5, 7])))) == 4
    for bad in (np.full(tools.CONTEXT - 3, 9), np.array([], np.int32), np.array([tools.VOCAB]), np.array([-1])):
        with pytest.raises(PromptRefused):
            bench.run(bench.engine.complete(bad.astype(np.int32), Sampling(0.0, 4), 0))


def test_a_cancelled_request_leaves_and_the_others_go_on(bench: Any, tools: Any) -> None:
    async def cancel() -> list[Completion]:
        doomed = asyncio.create_task(bench.engine.complete(PROMPTS[0], Sampling(1.0, 200), 0))
        others = asyncio.create_task(several(bench.engine, PROMPTS, 1.0, 20))
        await bench.engine.complete(PROMPTS[1], Sampling(1.0, 2), 0)
        doomed.cancel()
        with pytest.raises(asyncio.CancelledError):
            await doomed
        return await others

    for prompt, out in zip(PROMPTS, bench.run(cancel()), strict=True):
        assert_is_policy(tools, bench.net, prompt, out)


def test_usage_adds_up_to_the_time_that_passed_and_counts_tokens(bench: Any) -> None:
    before, u1, after = time.monotonic(), bench.engine.usage(), time.monotonic()
    outs = bench.run(several(bench.engine, PROMPTS, 1.0, 10))
    bench.load(bench.moved())
    before2, u2, after2 = time.monotonic(), bench.engine.usage(), time.monotonic()
    spent = (u2.busy_s + u2.idle_s + u2.paused_s) - (u1.busy_s + u1.idle_s + u1.paused_s)
    assert before2 - after - 1e-6 <= spent <= after2 - before + 1e-6
    assert u2.paused_s > u1.paused_s
    assert u2.cpu_s > u1.cpu_s
    assert u2.tokens - u1.tokens == sum(len(o.tokens) for o in outs)


def test_an_update_in_flight_splits_rollouts_into_spans_and_each_span_is_its_version(bench: Any, tools: Any) -> None:
    old, new, was = bench.net, bench.moved(), bench.engine.version.step

    async def update() -> tuple[list[Completion], Any]:
        asked = asyncio.create_task(several(bench.engine, PROMPTS * 4, 1.0, 180))
        await bench.engine.complete(PROMPTS[0], Sampling(1.0, 5), 0)
        report = await bench.engine.load(bench.publish(new, new))
        return await asked, report

    outs, report = bench.run(update())
    bench.net = new
    assert report.step == bench.step
    assert report.in_flight > 0
    assert report.canary_max <= 1e-3
    assert min(report.pause_s, report.stage_s) > 0
    crossed = 0
    for prompt, out in zip(PROMPTS * 4, outs, strict=True):
        assert [s.start for s in out.spans] == [0, *(s.end for s in out.spans[:-1])]
        assert out.spans[-1].end == len(out.tokens)
        assert [s.step for s in out.spans] in ([was, bench.step], [was], [bench.step])
        crossed += len(out.spans) == 2
        for span in out.spans:
            net = new if span.step == bench.step else old
            part = slice(span.start, span.end)
            plain = tools.logprobs_of(net, prompt, out.tokens)[part]
            np.testing.assert_allclose(out.logprobs[part], plain, atol=TOLERANCE, rtol=0)
    assert crossed > 0


def without(name: str) -> Any:
    return lambda bench: bench.publish(bench.moved(), tensors={name: None})


def with_tensor(change: Any) -> Any:
    def make(bench: Any) -> Any:
        name = "model.layers.1.mlp.up_proj.weight"
        net = bench.moved()
        dtype, shape, data = bench.tensors_of(net)[name]
        return bench.publish(net, tensors={name: change(dtype, shape, data)})

    return make


def not_finite(dtype: str, shape: Any, data: np.ndarray) -> Any:
    data[3, 5] = np.nan
    return dtype, shape, data


def cut_short(bench: Any) -> Any:
    published = bench.publish(bench.moved())
    with open(published.path, "r+b") as file:
        file.truncate(published.bytes - 100)
    return published


BAD = {
    "missing": without("model.layers.1.self_attn.q_proj.weight"),
    "unknown": lambda bench: bench.publish(
        bench.moved(), tensors={"lm_head.weight": bench.tensors_of(bench.net)["model.embed_tokens.weight"]}
    ),
    "not finite": with_tensor(not_finite),
    "has float32 \\(128, 64\\)": with_tensor(lambda dtype, shape, data: (dtype, (64, 128), data)),
    "is bfloat16": with_tensor(lambda dtype, shape, data: ("bfloat16", shape, data.astype(np.float16))),
    "digest": lambda bench: bench.publish(bench.moved(), digest="0" * 32),
    "cut short": cut_short,
    "No such file": lambda bench: replace(bench.publish(bench.moved()), path="/nowhere"),
    "after those of step": lambda bench: replace(bench.publish(bench.moved()), version=PolicyVersion("learner", 0, -1)),
}


@pytest.mark.parametrize("why", list(BAD))
def test_a_bad_set_is_refused_and_generation_goes_on_with_the_last_good_one(bench: Any, tools: Any, why: str) -> None:
    async def refused() -> list[Completion]:
        asked = asyncio.create_task(several(bench.engine, PROMPTS, 1.0, 60))
        await bench.engine.complete(PROMPTS[0], Sampling(1.0, 2), 0)
        with pytest.raises(ActorError, match=why):
            await bench.engine.load(BAD[why](bench))
        return await asked

    for prompt, out in zip(PROMPTS, bench.run(refused()), strict=True):
        assert_is_policy(tools, bench.net, prompt, out)
        assert len(out.spans) == 1


def test_weights_whose_canary_is_off_are_rolled_back_and_nothing_of_them_gets_out(bench: Any, tools: Any) -> None:
    bench.load(bench.moved())  # a good version to return to
    good = bench.step

    async def rejected() -> list[Any]:
        lengths = [4, 8, 16, 32, 64, 128]
        asked = [
            asyncio.create_task(bench.engine.complete(p, Sampling(1.0, n), 0))
            for p, n in zip(PROMPTS, lengths, strict=True)
        ]
        await bench.engine.complete(PROMPTS[0], Sampling(1.0, 2), 0)
        with pytest.raises(ActorError, match="canary differs"):
            await bench.engine.load(bench.publish(bench.moved(), canary_net=bench.net))
        return await asyncio.gather(*asked, return_exceptions=True)

    for out in bench.run(rejected()):
        if isinstance(out, Completion):
            assert {s.step for s in out.spans} == {good}
        else:
            assert isinstance(out, ActorError)
            assert "did not verify" in str(out)
    for prompt, out in zip(PROMPTS, bench.run(several(bench.engine, PROMPTS, 1.0, 24)), strict=True):
        assert_is_policy(tools, bench.net, prompt, out)
        assert {s.step for s in out.spans} == {good}


def test_no_rollout_mixes_two_lineages(bench: Any) -> None:
    async def change() -> Any:
        long = asyncio.create_task(bench.engine.complete(PROMPTS[0], Sampling(0.0, 200), 0))
        await bench.engine.complete(PROMPTS[1], Sampling(0.0, 2), 0)
        published = bench.publish(bench.net, bench.net)
        await bench.engine.load(replace(published, version=PolicyVersion("learner", 1, 0)))
        with pytest.raises(ActorError, match="lineage"):
            await long
        return await bench.engine.complete(PROMPTS[0], Sampling(0.0, 4), 0)

    assert [s.step for s in bench.run(change()).spans] == [0]
    assert bench.engine.version == PolicyVersion("learner", 1, 0)
    back = replace(bench.publish(bench.net, bench.net), version=PolicyVersion("learner", 0, bench.step))
    bench.run(bench.engine.load(back))


def test_closing_fails_what_is_unfinished_and_leaves_no_thread(bench: Any) -> None:
    """Keep last: it closes the engine of this module."""

    async def closing() -> None:
        long = asyncio.create_task(bench.engine.complete(PROMPTS[0], Sampling(0.0, 200), 0))
        await bench.engine.complete(PROMPTS[1], Sampling(0.0, 2), 0)
        bench.engine.close()
        with pytest.raises(ActorError, match="stopped"):
            await long
        with pytest.raises(DeadActor):
            await bench.engine.complete(PROMPTS[0], Sampling(0.0, 2), 0)

    bench.run(closing())
    assert not bench.engine._thread.is_alive()
    bench.engine.close()
