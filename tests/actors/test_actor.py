"""The rollout actor, over a fake engine and the tiny model's byte tokenizer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from actors.actor import RolloutActor, derive_seed, eos_ids, load_tokenizer
from swarm import schema
from swarm.errors import ActorError, ConfigError, PromptRefused
from swarm.roles import Engine
from swarm.types import Finish, Prompt
from tests.fakes import FakeEngine, weights_of

END = 257
REPLY = list(b"It is 7")
PROMPT = Prompt(id="p1", text="Calculate 3 + 4.", answer="7", source="sums", system="Be brief.")


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokenizer with a chat template; no model."""
    from cluster.model_tiny import make_tokenizer

    place = tmp_path_factory.mktemp("tokenizer")
    make_tokenizer(place)
    return place


@pytest.fixture
def make(folder: Path) -> Callable[..., RolloutActor]:
    def make_actor(engine: Engine, model: Path = folder, **changes: Any) -> RolloutActor:
        values: dict[str, Any] = {
            "learner": "learner", "lineage": 0, "seed": 5, "group_size": 4, "temperature": 0.7,
            "max_new_tokens": 12, "max_prompt_tokens": 64,
        }  # fmt: skip
        return RolloutActor(engine, model, **values | changes)

    return make_actor


def run(work: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(work)


Make = Callable[..., RolloutActor]


def test_the_fake_is_an_engine() -> None:
    assert isinstance(FakeEngine(REPLY, END), Engine)


def test_a_group_holds_all_rollouts_of_one_prompt(make: Make) -> None:
    engine = FakeEngine(REPLY, END)
    group = run(make(engine).generate(PROMPT, ticket=3, attempt=1))
    assert (group.id, group.ticket, group.attempt, group.prompt) == ("3.1", 3, 1, PROMPT)
    assert (group.learner, group.lineage, group.temperature, group.cache_kept) == ("learner", 0, 0.7, True)
    assert group.prompt_tokens.dtype == np.int32
    assert len(group.rollouts) == 4
    for rollout in group.rollouts:
        assert rollout.text == "It is 7"  # the end token is in the tokens, not in the text
        assert rollout.tokens.tolist() == [*REPLY, END]
        assert rollout.loss_mask.tolist() == [True] * 8
        assert rollout.finish is Finish.STOP
    assert schema.from_batch(schema.to_batch(group)).prompt == PROMPT


def test_the_whole_group_is_asked_at_once(make: Make) -> None:
    engine = FakeEngine(REPLY, END)
    run(make(engine).generate(PROMPT, 0, 0, num=6))
    assert engine.most_at_once == 6


def test_system_and_user_are_rendered_for_generation(make: Make, folder: Path) -> None:
    group = run(make(FakeEngine(REPLY, END)).generate(PROMPT, 0, 0))
    rendered = load_tokenizer(folder).decode(group.prompt_tokens.tolist())
    assert rendered == "<|system|>Be brief.<|end|><|user|>Calculate 3 + 4.<|end|><|assistant|>"


def changed(folder: Path, place: Path, template: str | None) -> Path:
    tokenizer = load_tokenizer(folder)
    tokenizer.chat_template = template
    tokenizer.save_pretrained(place)
    return place


def test_a_model_without_a_template_gets_plain_text(make: Make, folder: Path, tmp_path: Path) -> None:
    actor = make(FakeEngine(REPLY, END), changed(folder, tmp_path, None))
    assert bytes(actor.render(PROMPT).tolist()) == b"Be brief.\n\nCalculate 3 + 4."


@pytest.mark.parametrize(
    "template",
    [
        "{{ raise_exception('no system role') if messages[0]['role'] == 'system' }}<{{ messages[0]['content'] }}>",
        "{% for m in messages if m['role'] == 'user' %}<{{ m['content'] }}>{% endfor %}",
    ],
    ids=["refuses", "drops"],
)
def test_a_template_without_a_system_role_loses_nothing(
    make: Make, folder: Path, tmp_path: Path, template: str
) -> None:
    actor = make(FakeEngine(REPLY, END), changed(folder, tmp_path, template))
    assert bytes(actor.render(PROMPT).tolist()) == b"<Be brief.\n\nCalculate 3 + 4.>"


def test_a_long_prompt_is_refused_with_its_length_and_the_limit(make: Make) -> None:
    engine = FakeEngine(REPLY, END)
    long = Prompt(id="p2", text="x" * 100, source="sums")
    with pytest.raises(PromptRefused, match=r"p2 of sums has 103 tokens .* limit is 64: .*max_prompt_tokens"):
        run(make(engine).generate(long, 0, 0))
    assert not engine.seeds


def test_a_prompt_as_long_as_the_limit_is_taken(make: Make) -> None:
    fits = Prompt(id="p3", text="x" * 61)
    assert len(run(make(FakeEngine(REPLY, END)).generate(fits, 0, 0)).prompt_tokens) == 64


def seeds_of(make: Make, prompt: Prompt, ticket: int, attempt: int, **changes: Any) -> list[int]:
    engine = FakeEngine(REPLY, END)
    run(make(engine, **changes).generate(prompt, ticket, attempt))
    return engine.seeds


def test_a_prompt_asked_again_has_the_same_seeds(make: Make) -> None:
    assert seeds_of(make, PROMPT, 3, 0) == seeds_of(make, PROMPT, 3, 1)


def test_seeds_differ_by_rollout_ticket_prompt_and_run(make: Make) -> None:
    other = Prompt(id="other", text=PROMPT.text)
    found = seeds_of(make, PROMPT, 3, 0) + seeds_of(make, PROMPT, 4, 0) + seeds_of(make, other, 3, 0)
    found += seeds_of(make, PROMPT, 3, 0, seed=6)
    assert len(set(found)) == 16
    assert derive_seed(0, "a", 1, 11) != derive_seed(0, "a", 11, 1)


def test_greedy_asks_for_temperature_0_and_records_1(make: Make) -> None:
    engine = FakeEngine(REPLY, END)
    group = run(make(engine).generate(PROMPT, -1, 0, greedy=True, num=1))
    assert [s.temperature for s in engine.samplings] == [0.0]
    assert group.temperature == 1.0


def test_a_completion_cut_by_its_length_says_so(make: Make) -> None:
    group = run(make(FakeEngine(REPLY, END), max_new_tokens=5).generate(PROMPT, 0, 0))
    assert {(r.text, r.finish) for r in group.rollouts} == {("It is", Finish.LENGTH)}


def test_one_failed_rollout_fails_the_group_and_cancels_the_others(make: Make) -> None:
    async def scene() -> int:
        engine = FakeEngine(REPLY, END, fail_at=2)
        engine.gate.clear()
        with pytest.raises(ActorError, match="generate for prompt p1: ValueError: the engine broke"):
            await make(engine).generate(PROMPT, 0, 0)
        await asyncio.sleep(0)
        return engine.cancelled

    assert run(scene()) == 3


def test_a_cancelled_group_cancels_its_rollouts(make: Make) -> None:
    async def scene() -> int:
        engine = FakeEngine(REPLY, END)
        engine.gate.clear()
        work = asyncio.create_task(make(engine).generate(PROMPT, 0, 0))
        await engine.full.wait()
        work.cancel()
        await asyncio.gather(work, return_exceptions=True)
        return engine.cancelled

    assert run(scene()) == 4


def test_a_group_may_span_steps_of_one_lineage(make: Make) -> None:
    async def scene() -> Any:
        engine = FakeEngine(REPLY, END)
        actor = make(engine)
        engine.gate.clear()
        work = asyncio.create_task(actor.generate(PROMPT, 0, 0))
        await asyncio.sleep(0)
        await actor.load(weights_of("learner", 0, 1))
        engine.gate.set()
        return await work

    assert run(scene()).lineage == 0


@pytest.mark.parametrize("begins", ["before", "during"])
def test_a_group_never_mixes_lineages(make: Make, begins: str) -> None:
    async def scene() -> Any:
        engine = FakeEngine(REPLY, END)
        actor = make(engine)
        engine.gate.clear()
        engine.load_gate.clear()
        works = [actor.load(weights_of("learner", 1, 4)), actor.generate(PROMPT, 0, 0)]
        tasks = [asyncio.create_task(work) for work in (works if begins == "during" else reversed(works))]
        await asyncio.sleep(0)
        engine.load_gate.set()
        await asyncio.sleep(0)
        engine.gate.set()
        await asyncio.gather(*tasks, return_exceptions=True)
        failure = next(f for t in tasks if (f := t.exception()))
        assert isinstance(failure, ActorError)
        assert "another lineage" in str(failure)
        return await actor.generate(PROMPT, 1, 0)

    assert run(scene()).lineage == 1


def test_a_failed_load_leaves_the_lineage(make: Make) -> None:
    async def scene() -> Any:
        engine = FakeEngine(REPLY, END)
        engine.load_error = ActorError("broken weights")
        actor = make(engine)
        with pytest.raises(ActorError, match="broken weights"):
            await actor.load(weights_of("learner", 1, 4))
        return await actor.generate(PROMPT, 0, 0)

    assert run(scene()).lineage == 0


def test_usage_and_close_are_the_engines(make: Make) -> None:
    engine = FakeEngine(REPLY, END)
    actor = make(engine)
    run(actor.generate(PROMPT, 0, 0))
    assert actor.usage().tokens == 4
    actor.close()
    assert engine.closed


def test_a_folder_without_a_tokenizer_is_one_clear_error(make: Make, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(ConfigError, match="no tokenizer") as caught:
        make(FakeEngine(REPLY, END), tmp_path)
    assert str(tmp_path) in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_a_damaged_tokenizer_is_one_clear_error(folder: Path, tmp_path: Path) -> None:
    changed(folder, tmp_path, None)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(ConfigError, match="no tokenizer that loads"):
        load_tokenizer(tmp_path)


def test_end_ids_are_those_of_tokenizer_and_generation_config(folder: Path, tmp_path: Path) -> None:
    assert eos_ids(folder) == (END,)
    changed(folder, tmp_path, None)
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": [10, 257]}')
    assert eos_ids(tmp_path) == (10, END)
