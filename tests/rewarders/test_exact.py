from __future__ import annotations

import asyncio

import pytest

from rewarders.exact import Exact
from swarm.types import Status


@pytest.mark.parametrize(
    ("options", "answer", "text", "value"),
    [
        ({}, "a b", " a \n b ", 1.0),
        ({}, "A", "a", 0.0),
        ({"ignore_case": True}, "A", "a", 1.0),
        ({}, "\u00e9", "e\u0301", 1.0),
        ({}, "52", "5\u00b2", 0.0),
        ({}, "4", "the answer is 4", 0.0),
        ({"extract": "number"}, "4", "the answer is 4.0", 1.0),
        ({"extract": "number"}, "so many #### 1,000", "1000", 1.0),
        ({"extract": "number"}, "4", "-4", 0.0),
        ({"extract": "number"}, "713", "713%", None),
        ({"extract": "number"}, "713", "**713**%", None),
        ({"extract": "number"}, "713", "714%", 0.0),
        ({"extract": "number"}, "3", "it is 3 per century", 1.0),
        ({"extract": "number"}, "713", "I am 99% sure that it is 713", 1.0),
        ({"extract": "number"}, "60%", "60%", 1.0),
        ({"extract": "number"}, "60%", "60", 1.0),
        ({"extract": "tag"}, "4", "<answer>4</answer>", 1.0),
        ({"extract": "tag"}, "4", "4", 0.0),
    ],
)
def test_equal_after_the_stated_normalisation(make_group, options, answer, text, value) -> None:
    [verdict] = asyncio.run(Exact(**options).judge(make_group([text], answer)))
    assert verdict.value == value
    assert verdict.status is (Status.ABSTAINED if value is None else Status.SCORED)


def test_a_number_wanted_of_an_answer_without_one_is_an_abstention(make_group) -> None:
    [verdict] = asyncio.run(Exact(extract="number").judge(make_group(["4"], "four")))
    assert verdict.status is Status.ABSTAINED


def test_an_answer_beyond_all_floats_is_an_abstention(make_group) -> None:
    [verdict] = asyncio.run(Exact(extract="number").judge(make_group(["9" * 400], "9" * 400)))
    assert verdict.status is Status.ABSTAINED


def test_an_unknown_extract_is_refused() -> None:
    with pytest.raises(ValueError, match="wanted one of"):
        Exact(extract="numbers")
