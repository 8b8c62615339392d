from __future__ import annotations

import asyncio

import pytest

from rewarders.choice import Choice
from swarm.types import Status

CLAIMS_B = [
    "B", "b", "(B)", "(b)", "B.", "b)", "[B]", "**B**", "`B`", "$B$", "Option B", "B) Paris", "B. Paris", "B: Paris",
    r"\boxed{B}", r"\boxed{b}", r"\boxed{(B)}", r"\boxed{\text{B}}", r"$\boxed{\textbf{(B)}}$", r"\boxed{B. Paris}",
    "<answer>B</answer>", "<answer> (b) </answer>", "The answer is B.", "The answer is (b).", "The answer is **B**",
    "Answer: B", "answer = B", "The correct option is B because Lyon is smaller", "The correct choice must be B.",
    "I choose B", "I select option (B)", "B is correct", "(B) is the right one",
    "Paris is the capital of France.\n\nB", "A is wrong, since Lyon is smaller. The answer is B.",
    "A) Lyon\nB) Paris\n\nThe answer is B", "The answer is B. So: B",
]  # fmt: skip
CLAIMS_ANOTHER_OR_NONE = [
    "", "A", "C", "no idea", "The answer is A.", "The answer is a bird", "The answer is Bird",
    "the answer is not known",
    "A or B", "The answer is A or B", "The answer is B or A", "The answer is B, C", "The answer is B and C.",
    "The answer is (B) or (C)", "The answer is B/C", "The answer is B C", r"\boxed{B, C}", r"\boxed{A} \boxed{B}",
    "The answer is A. No: the answer is B.", "A\nB\nC\nD", "A B C D", "B\nA", "I choose B. A is correct.",
    "Paris", "plan B", "vitamin B is good", "B-52", "the answer is B's",
]  # fmt: skip


def value(make_group, text: str, answer: str = "B", **options: str) -> float | None:
    [verdict] = asyncio.run(Choice(**options).judge(make_group([text], answer)))
    return verdict.value


@pytest.mark.parametrize("text", CLAIMS_B)
def test_the_usual_ways_of_writing_a_letter_are_read(make_group, text) -> None:
    assert value(make_group, text) == 1.0


@pytest.mark.parametrize("text", CLAIMS_ANOTHER_OR_NONE)
def test_another_letter_two_letters_and_none_are_wrong(make_group, text) -> None:
    assert value(make_group, text) == 0.0


@pytest.mark.parametrize("answer", CLAIMS_B[:12])
def test_the_prompts_answer_may_be_written_so_too(make_group, answer) -> None:
    assert value(make_group, "B", answer) == 1.0


@pytest.mark.parametrize("answer", [None, "", "42", "A or B", "J"])
def test_an_answer_that_is_no_letter_is_an_abstention(make_group, answer) -> None:
    [verdict] = asyncio.run(Choice().judge(make_group(["B"], answer)))
    assert verdict.status is Status.ABSTAINED


def test_the_letters_are_an_option(make_group) -> None:
    assert value(make_group, "J", "J", letters="ABCDEFGHIJ") == 1.0


@pytest.mark.parametrize("letters", ["", "A", "AA", "abc", "AB1"])
def test_letters_that_are_none_are_refused(letters) -> None:
    with pytest.raises(ValueError, match="letters"):
        Choice(letters=letters)
