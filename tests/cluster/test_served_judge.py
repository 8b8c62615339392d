"""A judge that this node serves, over the transformers engine, against plain forward passes."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.served_judge import ServedJudge, served_name
from rewarders.chat import ChatModel, TooLong
from swarm.config import JudgeSection, Spec
from tests.cluster.small import make_model
from tests.cluster.yes_model import make_yes_model

MESSAGES = [{"role": "system", "content": "Answer in a word."}, {"role": "user", "content": "Is 2 + 2 = 4?"}]


def section(model: Path, **more: object) -> JudgeSection:
    return JudgeSection(name="small", model=str(model), engine=Spec(name="transformers"), **more)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("judges") / "small")


@pytest.fixture(scope="module")
def judge(model: Path) -> Iterator[ServedJudge]:
    made = ServedJudge(section(model), model, "float32")
    yield made
    made.close()
    made.close()


def begins_with(model: Path, words: list[str]) -> float:
    """P(the answer begins with one of these texts), token by token, by plain forward passes."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)
    net = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    prompt = tokenizer.apply_chat_template(MESSAGES, add_generation_prompt=True, return_dict=True)["input_ids"]
    total = 0.0
    for word in words:
        ids, prob = list(prompt), 1.0
        for token in tokenizer(word, add_special_tokens=False)["input_ids"]:
            with torch.inference_mode():
                prob *= float(net(torch.tensor([ids])).logits[0, -1].softmax(-1)[token])
            ids.append(token)
        total += prob
    return total


def test_a_choice_has_the_summed_probability_of_its_spellings(judge: ServedJudge, model: Path) -> None:
    reply = asyncio.run(judge.ask(MESSAGES, max_tokens=3, choices=("y", "No")))
    assert reply.choices["y"] == pytest.approx(begins_with(model, ["y", "Y", " y", " Y"]), rel=1e-3)
    no = ["No", "no", "NO", " No", " no", " NO"]
    assert reply.choices["No"] == pytest.approx(begins_with(model, no), rel=1e-3)
    assert 0 < reply.choices["No"] < reply.choices["y"] < 1
    assert reply.completion_tokens <= 3
    assert reply.prompt_tokens > len("Is 2 + 2 = 4?")


def test_a_judge_that_is_sure_is_read_as_sure(tmp_path: Path) -> None:
    sure = make_yes_model(tmp_path / "yes")
    judge = ServedJudge(section(sure), sure, "float32")
    try:
        reply = asyncio.run(judge.ask(MESSAGES, max_tokens=8, choices=("yes", "no")))
    finally:
        judge.close()
    assert reply.text == "yes"
    assert reply.choices["yes"] > 0.9
    assert reply.choices["no"] < 0.05


def test_equal_messages_get_equal_replies_side_by_side(judge: ServedJudge) -> None:
    async def ask() -> list[object]:
        others = [[{"role": "user", "content": "?" * n}] for n in range(1, 9)]
        work = [judge.ask(m, max_tokens=5, choices=("a",)) for m in (MESSAGES, *others, MESSAGES)]
        return list(await asyncio.gather(*work))

    first, *_, last = asyncio.run(ask())
    assert first.text == last.text  # type: ignore[attr-defined]
    assert first.choices["a"] == pytest.approx(last.choices["a"], rel=1e-3)  # type: ignore[attr-defined]
    assert isinstance(judge, ChatModel)


def test_without_choices_there_are_none(judge: ServedJudge) -> None:
    assert asyncio.run(judge.ask(MESSAGES, max_tokens=1)).choices == {}


def test_what_does_not_fit_the_context_is_too_long(judge: ServedJudge) -> None:
    with pytest.raises(TooLong, match=r"small.*tokens.*context of 512.*longer context"):
        asyncio.run(judge.ask([{"role": "user", "content": "x" * 600}], max_tokens=4))


def test_a_judge_that_is_gone_is_a_connection_error(model: Path) -> None:
    judge = ServedJudge(section(model), model, "float32")
    judge.close()
    with pytest.raises(ConnectionError, match="judge small:"):
        asyncio.run(judge.ask(MESSAGES, max_tokens=1, choices=("yes",)))


def test_a_request_that_takes_too_long_is_a_timeout(model: Path) -> None:
    judge = ServedJudge(section(model, timeout_s=1e-6), model, "float32")
    try:
        with pytest.raises(TimeoutError):
            asyncio.run(judge.ask(MESSAGES, max_tokens=100))
    finally:
        judge.close()


def test_other_weights_have_another_name(model: Path, tmp_path: Path) -> None:
    other = make_model(tmp_path / "other")
    same = JudgeSection(name="a", model="m")
    assert served_name(same, model) == served_name(same, other)
    weights = other / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\1")
    assert served_name(same, model) != served_name(same, other)
    assert served_name(same, model).startswith("a:m@")
