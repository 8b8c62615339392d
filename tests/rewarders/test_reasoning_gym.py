from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rewarders.child_reasoning_gym import guard
from rewarders.process import ChildError
from rewarders.reasoning_gym import ReasoningGym
from swarm.types import Group, Status

EVALUATING = ["binary_matrix", "spiral_matrix", "string_insertion", "n_queens", "countdown", "puzzle24"]
EVALUATING += ["simple_integration", "intermediate_integration", "polynomial_multiplication"]
ATTACKS = [
    "__import__('os').system('touch marker')",
    "[__import__('os').system('touch marker')]",
    "open('marker', 'w')",
    "exec(chr(111))",
    "(1).__class__.__base__.__subclasses__()",
    '\uff45\uff58\uff45\uff43(\'open("marker", "w")\')',
]


@pytest.fixture(scope="module")
def gym(tmp_path_factory) -> Iterator[ReasoningGym]:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("cwd"))
        made = ReasoningGym(timeout_s=60.0)
        yield made
        made.close()


def place(family: str, index: int = 2, **config: Any) -> dict[str, Any]:
    return {"family": family, "seed": 3, "size": 10, "index": index, "config": config}


def entry(gym: ReasoningGym, task: dict[str, Any]) -> dict[str, Any]:
    return asyncio.run(gym.child.ask({"task": task, "prepare": True}, 60.0))


def judge(rewarder: ReasoningGym, group: Group) -> list[Any]:
    return asyncio.run(rewarder.judge(group))


@pytest.mark.parametrize("family", EVALUATING)
def test_text_is_never_run_as_code_and_own_answers_still_score(gym, make_group, family) -> None:
    task = place(family)
    made = entry(gym, task)
    verdicts = judge(gym, make_group([made["answer"], *ATTACKS], made["answer"], made["question"], task))
    assert verdicts[0].value == 1.0, verdicts[0]
    assert all(v.value is not None and v.value <= 0.01 for v in verdicts[1:]), verdicts
    assert not Path("marker").exists()


def test_a_hang_costs_its_own_rollout_only(gym, make_group, monkeypatch) -> None:
    task = place("countdown")
    made = entry(gym, task)
    monkeypatch.setattr(gym, "_timeout_s", 12.0)
    texts = [made["answer"], "9**(9*9*9*9*9*9*9*9*9*9*9)", made["answer"]]
    first, hang, last = judge(gym, make_group(texts, made["answer"], made["question"], task))
    assert (first.value, last.value) == (1.0, 1.0), last
    assert hang.status is Status.TIMEOUT, hang


def test_partial_credit_is_the_scorers_own_or_none(gym, make_group) -> None:
    task = place("chain_sum")
    made = entry(gym, task)
    group = make_group([made["answer"], f"it is {made['answer']}"], made["answer"], made["question"], task)
    full, partial = judge(gym, group)
    assert full.value == 1.0
    assert 0 < partial.value < 1
    gym._full_only = True
    try:
        assert [v.value for v in judge(gym, group)] == [1.0, 0.0]
    finally:
        gym._full_only = False


def test_an_answer_is_taken_as_the_recipe_says(gym, make_group) -> None:
    task = place("chain_sum")
    made = entry(gym, task)
    gym._extract = "number"
    try:
        texts = [f"it is {made['answer']}.", "dunno", f"it is {made['answer']}%"]
        group = make_group(texts, made["answer"], made["question"], task)
        assert [v.value for v in judge(gym, group)] == [1.0, 0.0, None]
        about = replace(group, prompt=replace(group.prompt, text=group.prompt.text + " In percent?"))
        assert [v.value for v in judge(gym, about)] == [1.0, 0.0, 1.0]
    finally:
        gym._extract = "whole"


@pytest.mark.parametrize(("question", "answer"), [("another question", None), (None, "another answer")])
def test_a_prompt_that_is_not_the_regenerated_entry_is_an_error(gym, make_group, question, answer) -> None:
    task = place("chain_sum")
    made = entry(gym, task)
    [verdict] = judge(gym, make_group(["1"], answer or made["answer"], question or made["question"], task))
    assert verdict.status is Status.ERROR
    assert "PYTHONHASHSEED" in verdict.cause


@pytest.mark.parametrize(
    ("task", "cause"),
    [
        (place("no_such_family"), "no_such_family"),
        (place("chain_sum", no_such_option=1), "no_such_option"),
        (place("chain_sum", min_terms=0), "AssertionError"),
    ],
)
def test_an_entry_that_cannot_be_made_is_an_error_with_its_cause(gym, make_group, task, cause) -> None:
    [verdict] = judge(gym, make_group(["1"], task=task))
    assert verdict.status is Status.ERROR
    assert cause in verdict.cause


def test_a_scorer_that_raises_is_an_error_not_a_zero(gym) -> None:
    with pytest.raises(ChildError, match="TypeError"):
        asyncio.run(gym.child.ask({"task": place("chain_sum"), "answer": 1}, 60.0))


NOTHING = [
    "nan",
    "inf",
    "-inf",
    "infinity",
    "nan+1j",
    "infj",
    "1e999",
    "1e308+1e308j",
    "no idea",
    ".",
    "True dat",
]
MALFORMED = [
    "[1]",
    '{"a": 1}',
    "1e999",
    "inf",
    "{}",
    "null",
    "3",
    '[["x"]]',
    "\u00d7",
    "2 \u00d7 x",
    "1/0",
    "1e99999999",
    "x",
]


@pytest.mark.parametrize(
    ("family", "config", "texts"),
    [
        ("game_of_life_halting", {}, [*NOTHING, "0", "yes", "False" * 2]),
        ("complex_arithmetic", {}, NOTHING),
        ("coin_flip", {"min_trials": 12, "max_trials": 15}, [*NOTHING, "0", "0.", "0.0", "1e-9"]),
        ("polynomial_equations", {"min_degree": 2, "max_degree": 2}, NOTHING),
        ("boxnet", {}, MALFORMED),
        ("game_of_life", {}, MALFORMED),
        ("prime_factorization", {}, MALFORMED),
    ],
)
def test_text_without_an_answer_earns_next_to_nothing(gym, make_group, family, config, texts) -> None:
    for index in range(8):
        task = place(family, index, **config)
        made = entry(gym, task)
        own = made["answer"] if family != "boxnet" else None
        verdicts = judge(gym, make_group([*texts, own or "[]"], own, made["question"], task))
        assert all(v.status is Status.SCORED for v in verdicts), verdicts
        paid = [(text, v.value) for text, v in zip(texts, verdicts, strict=False) if v.value > 0.1]
        assert paid == [], (index, own)
        assert not own or verdicts[-1].value == 1.0, (index, own)


def test_an_equation_without_roots_wants_that_said(gym, make_group) -> None:
    config = {"min_degree": 2, "max_degree": 2, "min_terms": 3, "max_terms": 3}
    tasks = [place("polynomial_equations", index, **config) for index in range(10)]
    rootless = [task for task in tasks if entry(gym, task)["answer"] == ""]
    for task in rootless:
        group = make_group(['""', "none at all", "0"], "", entry(gym, task)["question"], task)
        assert [v.value for v in judge(gym, group)] == [1.0, 0.0, 0.0]


def test_the_cascade_that_pays_infinities_is_not_there() -> None:
    import reasoning_gym

    assert not hasattr(reasoning_gym.utils, "cascade_score")


ARITHMETIC = ["49*(85 - 1)/14 - 42", "7*X**9 - 2*X**6 + C", "-3*exp(2*x)/4 + sin(x)", "2.5*x", "3!"]
CODE = ["x.diff", "(x).a", "f'x'", "eval(1)", "x_1", "a[0]", "lambda: 0", "x;y", "S\u0130", "1 .real"]
TOWERS = ["9**9**9", "2^(3^(4^5))", "10 ** 99999", "123456!"]


@pytest.mark.parametrize("text", ARITHMETIC)
def test_the_guard_lets_arithmetic_through(text) -> None:
    guard(text)


@pytest.mark.parametrize("text", CODE + TOWERS)
def test_the_guard_stops_everything_else(text) -> None:
    with pytest.raises(SyntaxError):
        guard(text)


@pytest.mark.slow
def test_no_family_pays_for_text_without_an_answer_or_breaks_on_it(gym, make_group) -> None:
    from reasoning_gym.factory import DATASETS

    bad = []
    for family in sorted(DATASETS):
        for index in range(3):
            task = place(family, index)
            try:
                made = entry(gym, task)
            except ChildError:  # composites need configuration
                continue
            texts = [*NOTHING, *ATTACKS, "[[[", "{}", "()", "None", "\ud800", "\0", "x" * 10_000]
            verdicts = judge(gym, make_group(texts, made["answer"], made["question"], task))
            pairs = [(text[:30], v.value, v.cause) for text, v in zip(texts, verdicts, strict=True)]
            bad += [(family, *pair) for pair in pairs if pair[1] is None or pair[1] == 1]
    assert bad == []
