from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from rewarders.math_verify import MathVerify
from swarm.types import Status

RIGHT = [
    ("42", "The answer is **42**."),
    ("42", r"\boxed{42.}"),
    ("42", r"\boxed{x = 42}"),
    ("42", "`42`"),
    ("42", r"we get $40$, so \boxed{42 \text{ apples}}"),
    ("1,000", "1000"),
    ("1200", r"\boxed{1.2\times 10^{3}}"),
    ("1/2", r"\boxed{\frac12}"),
    ("1/2", "0.5"),
    ("1/2", "50%"),
    ("-3/4", r"$-\frac{3}{4}$"),
    ("3/2", r"\boxed{1\frac{1}{2}}"),
    (r"\sqrt{2}", r"$2^{1/2}$"),
    ("x+1", "$1+x$"),
    ("So she has 6 * 7 = 42. #### 42", "42"),
]
WRONG = [
    ("42", "41"),
    ("42", "-42"),
    ("42", ""),
    ("42", "no idea"),
    ("42", "12+30"),
    ("42", r"\boxed{6\times 7}"),
    ("42", r"\boxed{84/2}"),
    ("42", r"\boxed{999=42}"),
    ("42", r"\boxed{\sqrt{1764}}"),
    ("5050", r"\boxed{\sum_{i=1}^{100} i}"),
    ("1/2", r"\boxed{\int_0^1 x\,dx}"),
    ("42", r"\boxed{42} or \boxed{43}"),
    ("42", "9^9^9"),
    ("42", "nan"),
    ("42", r"\boxed{}"),
]


@pytest.fixture(scope="module")
def verifier() -> Iterator[MathVerify]:
    made = MathVerify(timeout_s=60.0)
    yield made
    made.close()


@pytest.mark.parametrize(("gold", "text"), RIGHT)
def test_the_same_value_in_other_clothes_is_right(verifier, make_group, gold, text) -> None:
    [verdict] = asyncio.run(verifier.judge(make_group([text], gold)))
    assert verdict.value == 1.0, verdict


@pytest.mark.parametrize(("gold", "text"), WRONG)
def test_wrong_restated_and_hedged_answers_are_wrong(verifier, make_group, gold, text) -> None:
    [verdict] = asyncio.run(verifier.judge(make_group([text], gold)))
    assert verdict.value == 0.0, verdict


def test_an_answer_that_is_no_mathematics_is_an_abstention(verifier, make_group) -> None:
    [verdict] = asyncio.run(verifier.judge(make_group(["42"], "\\begin{")))
    assert verdict.status is Status.ABSTAINED, verdict


def test_a_tower_is_a_timeout_of_its_own_rollout(make_group) -> None:
    loose = MathVerify(written_out=False, timeout_s=12.0)
    try:
        group = make_group(["42", r"$9^{9^{9^{9}}}!$", "41"], "42")
        asyncio.run(loose.judge(make_group(["42"], "42")))
        right, tower, wrong = asyncio.run(loose.judge(group))
    finally:
        loose.close()
    assert (right.value, wrong.value) == (1.0, 0.0)
    assert tower.status is Status.TIMEOUT
