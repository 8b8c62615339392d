from __future__ import annotations

import asyncio

import pytest

from rewarders.numeric import Numeric
from swarm.types import Status


@pytest.mark.parametrize(
    ("options", "answer", "text", "value"),
    [
        ({}, "42", "so it is 42.0", 1.0),
        ({}, "1200", "1.2e+03", 1.0),
        ({}, "12345678901234567890", "12345678901234567891", 0.0),
        ({}, "1/3", "0.333", 0.0),
        ({"relative": 0.01}, "1/3", "0.333", 1.0),
        ({"relative": 0.01}, "-100", "-101", 1.0),
        ({"relative": 0.01}, "-100", "-101.1", 0.0),
        ({"relative": 0.01}, "0", "0.0001", 0.0),
        ({"absolute": 0.001}, "0", "0.0001", 1.0),
        ({"absolute": 1.0}, "10", "11", 1.0),
        ({}, "0.5", "50%", 0.0),
        ({"percent": True}, "0.5", "50%", 1.0),
        ({"percent": True}, "50%", "0.5", 1.0),
        ({}, "713", "713%", None),
        ({}, "713", "it is 713 percent", None),
        ({}, "713", "714%", 0.0),
        ({"absolute": 1.0}, "713", "714%", None),
        ({}, "3", "The rate is 3 per century", 1.0),
        ({}, "713", "93% sure that it is 713", 1.0),
        ({}, "713%", "713%", 1.0),
        ({}, "713 per cent", "713", 1.0),
        ({"extract": "boxed"}, "713", r"\boxed{713\%}", None),
        ({"extract": "boxed"}, "713", r"\boxed{713}\%", None),
        ({"extract": "boxed"}, "713", r"93% sure: \boxed{713}, not 714%", 1.0),
        ({"absolute": 1e300}, "1", "inf", 0.0),
        ({"absolute": 1e300}, "1", "nan", 0.0),
        ({"absolute": 1e300}, "1", "1e999", 0.0),
        ({"extract": "boxed"}, "42", r"\boxed{42}", 1.0),
        ({"extract": "boxed"}, "42", r"\boxed{x = 42\text{ m}^2}", 1.0),
        ({"extract": "boxed"}, "42", r"\boxed{999=42}", 0.0),
        ({"extract": "boxed"}, "42", r"\boxed{41, 42}", 0.0),
        ({"extract": "boxed"}, "42", "42", 0.0),
    ],
)
def test_within_the_stated_tolerance(make_group, options, answer, text, value) -> None:
    [verdict] = asyncio.run(Numeric(**options).judge(make_group([text], answer)))
    assert verdict.value == value, verdict
    assert verdict.status is (Status.ABSTAINED if value is None else Status.SCORED)


@pytest.mark.parametrize(
    "question",
    ["What percentage of them?", "How many per cent?", "In %?", "Wie viel Prozent?", "\u767e\u5206\u4e4b\u591a\u5c11?"],
)
def test_a_question_about_percent_may_be_answered_in_percent(make_group, question) -> None:
    group = make_group(["60%", "60 \\%", "60", "61%"], "60", question)
    assert [v.value for v in asyncio.run(Numeric().judge(group))] == [1.0, 1.0, 1.0, 0.0]


@pytest.mark.parametrize("answer", [None, "four", "inf", "1e999", "1/0"])
def test_an_answer_that_is_no_finite_number_is_an_abstention(make_group, answer) -> None:
    [verdict] = asyncio.run(Numeric().judge(make_group(["4"], answer)))
    assert verdict.status is Status.ABSTAINED


@pytest.mark.parametrize(
    "options", [{"absolute": -1.0}, {"relative": float("nan")}, {"absolute": float("inf")}, {"extract": "x"}]
)
def test_a_tolerance_that_is_none_is_refused(options) -> None:
    with pytest.raises(ValueError, match="wanted"):
        Numeric(**options)
