from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rewarders.extract import EXTRACTORS, check_extract, extract


@pytest.mark.parametrize(
    ("how", "text", "wanted"),
    [
        ("whole", "  42\n", "42"),
        ("whole", " \n ", None),
        ("number", "first 1, then 2.", "2"),
        ("number", "x = -3", "-3"),
        ("number", "10-3", "3"),
        ("number", "(-3)", "-3"),
        ("number", "f(2)-3", "3"),
        ("number", "\u22125", "-5"),
        ("number", "+5", "5"),
        ("number", "1,234,567.5 apples", "1234567.5"),
        ("number", "1,2", "2"),
        ("number", "-1,2", "2"),
        ("number", "12,34.5", "34.5"),
        ("number", "1" + ",111" * 2**18 + ",11", "11"),
        ("number", "\u0664\u0662", None),
        ("number", "none", None),
        ("tag", "<answer>1</answer> no, <answer> 2 </answer>", "2"),
        ("tag", "<answer>1", None),
        ("tag", "</answer><answer>1", None),
        ("tag", "<answer></answer>", None),
        ("boxed", r"\boxed{1} or \boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        ("boxed", r"\boxed{1", None),
        ("last_line", "work\n\n 7 \n\n", "7"),
        ("fenced", "so:\n```json\n[1]\n```\nand\n```\n[2]\n```", "[2]"),
        ("fenced", "```[1]```", "[1]"),
        ("fenced", " [1] ", "[1]"),
        ("fenced", "``````", None),
    ],
)
def test_the_last_answer_is_taken(how, text, wanted) -> None:
    assert extract(text, how) == wanted


@given(st.text(), st.sampled_from(sorted(EXTRACTORS)))
def test_any_text_gives_text_or_nothing(text, how) -> None:
    found = extract(text, how)
    assert found is None or (isinstance(found, str) and found.strip())


@given(st.text(alphabet=st.characters(exclude_characters="0123456789")), st.integers())
def test_a_number_that_ends_a_sentence_is_found(words, value) -> None:
    assert extract(f"{words} = {value}", "number") == str(value)


def test_an_unknown_way_names_those_there_are() -> None:
    with pytest.raises(ValueError, match="whole, number, tag, boxed, last_line"):
        check_extract("xml")
