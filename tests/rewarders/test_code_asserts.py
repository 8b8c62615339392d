"""Asserts taken apart agree with Python's own, and never let the expected value inside."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rewarders.child_sandbox import encoded
from rewarders.code_answers import Equal, Malformed, read_answers, same
from rewarders.code_asserts import read_asserts, read_question
from rewarders.code_tests import read_tests

FINITE_COMPLEX = st.complex_numbers(allow_nan=False, allow_infinity=False)
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary() | FINITE_COMPLEX
KEYS = st.none() | st.booleans() | st.integers() | st.text() | st.tuples(st.integers(), st.text())
DATA = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.sets(KEYS, max_size=4)
        | st.frozensets(KEYS, max_size=4)
        | st.dictionaries(KEYS, inner, max_size=4)
    ),
    max_leaves=12,
)


def answer(value: Any) -> Any:
    """As the parent reads what the program's side wrote."""
    return read_answers(encoded((value,)).encode(), 1)[0]


@given(DATA, DATA)
def test_equality_is_pythons(one, other) -> None:
    assert same(answer(one), other) == (answer_of_itself(one) == other)
    assert Equal(one).holds(answer(one)) == (one == answer_of_itself(one))


def answer_of_itself(value: Any) -> Any:
    """Another object of the same content, so that nan is not equal by identity."""
    return eval(repr(value), {"nan": float("nan"), "inf": float("inf")})


@given(st.recursive(st.none() | st.booleans() | st.floats() | st.text() | st.integers(), st.lists, max_leaves=20), DATA)
def test_no_json_does_more_than_fail(hostile, wanted) -> None:
    try:
        [found] = read_answers(json.dumps(["tuple", [hostile]]).encode(), 1)
        assert same(found, wanted) in (True, False)
    except Malformed:
        pass


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b"[1]",
        b'["tuple", []]',
        b'["tuple", [1, 2]]',
        b'["list", [1]]',
        b'{"tuple": [1]}',
        b'["tuple", [{"a": 1}]]',
        b"[" * 100_000,
        b"9" * 10_000,
        b"\xff",
        b'"forged"',
    ],
)
def test_what_is_no_answer_is_malformed(data) -> None:
    with pytest.raises(Malformed):
        read_answers(data, 1)


@pytest.mark.parametrize(
    "raw",
    [["int", "zz"], ["int", 5], ["bytes", "x"], ["float", "1"], ["what", []], [1, 2, 3], ["complex", ["a", 1]], [[]]],
)
def test_a_malformed_scalar_equals_nothing(raw) -> None:
    for wanted in (1, "x", None, 0.0):
        with pytest.raises(Malformed):
            same(raw, wanted)


def passes(script: str, value: Any) -> bool:
    """Whether every answer of the first assert, all of them `value`, holds."""
    [found] = read_asserts(script)
    answers = read_answers(encoded((value,) * len(found.checks)).encode(), len(found.checks))
    return all(check.holds(each) for check, each in zip(found.checks, answers, strict=True))


@pytest.mark.parametrize(
    ("script", "right", "wrong"),
    [
        ("assert f(2) == 4", 4, 5),
        ("assert 4 == f(2)", 4.0, "4"),
        ("assert f(2) == -4", -4, 4),
        ("assert f(2) == 'a'", "a", "b"),
        ("assert f(2) == None", None, 0),
        ("assert f(2) is None", None, 0),
        ("assert f(2) is not None", 0, None),
        ("assert f(2) is True", True, 1),
        ("assert f(2) != 4", 5, 4),
        ("assert f(2) != 4", 5, float("nan")),
        ("assert f(2) == [1, (2, 3)]", [1, (2, 3)], [1, [2, 3]]),
        ("assert f(2) == (1, 2)", (1, 2), [1, 2]),
        ("assert f(2) == {1, 2}", {2, 1}, {1}),
        ("assert f(2) == set([1, 2])", {2, 1}, [1, 2]),
        ("assert f(2) == set()", set(), []),
        ("assert f(2) == {'a': [1]}", {"a": [1]}, {"a": [2]}),
        ("assert f(2) == float('inf')", float("inf"), 1e308),
        ("assert f(2) == -float('inf')", -float("inf"), float("inf")),
        ("assert f(2) < 4", 3, 4),
        ("assert f(2) < 4", 3, float("-inf")),
        ("assert 4 < f(2)", 5, 4),
        ("assert f(2) >= 4", 4, float("inf")),
        ("assert f(2) > 'a'", "b", 5),
        ("assert f(2) in (1, 2)", 2, 3),
        ("assert f(2) in 'abc'", "b", 1),
        ("assert 3 in f(2)", [1, 3], [1]),
        ("assert 'a' in f(2)", "cat", "dog"),
        ("assert 'a' in f(2)", {"a": 1}, {"b": "a"}),
        ("assert f(2)", True, False),
        ("assert not f(2)", False, True),
        ("assert abs(f(2) - 1.5) < 1e-6", 1.5, 1.6),
        ("assert abs(f(2) - 1.5) < 1e-6", 1.5, float("nan")),
        ("assert abs(1.5 - f(2)) <= 0.5", 2, 2.1),
        ("import math\nassert math.isclose(f(2), 1.5, rel_tol=0.1)", 1.6, 1.8),
        ("from math import isclose\nassert isclose(1.5, f(2))", 1.5, "1.5"),
        ("assert f(1) == 4 and f(2) == 4", 4, 5),
        ("wanted = [1, 2]\nassert f(2) == wanted", [1, 2], [1]),
        ("assert f(2) == 4, 'a message'", 4, 5),
        ("assert round(f(2), 2) == 1.5", 1.5, 1.6),
        ("assert sorted(f(2)) == [1, 2]", [1, 2], [2, 1]),
        ("assert f(2)[0] == 1", 1, 2),
        ("assert Solution().f(2) == 1", 1, 2),
        ("assert f(2).next.val == 1", 1, 2),
        ("assert f(2).upper() == 'A'", "A", "a"),
        ("assert f(lambda x: x > 2, [1, 3]) == [3]", [3], [1]),
    ],
)
def test_an_assert_is_judged_as_python_would_judge_it_and_stricter_where_numbers_end(script, right, wrong) -> None:
    assert passes(script, right)
    assert not passes(script, wrong)


@pytest.mark.parametrize(
    "script",
    [
        "assert f(2) == g(4)",
        "assert (f(2) == 4) == True",
        "assert (f(2) == 4) is True",
        "assert not f(2) == 5",
        "assert f(2) == 4 or f(2) == 5",
        "assert f(2) - 4 == 0",
        "assert bool(f(2) == 4)",
        "assert int(f(2) == 4) == 1",
        "assert all(a == b for a, b in zip(f(2), [1, 2]))",
        "assert all(a == b for a, b in zip(f(2), [1, 2])) == True",
        "assert isinstance(f(2), int)",
        "assert f(2).issubset({1, 2})",
        "assert f(2).__eq__(4)",
        "assert f(2).__eq__(4) is True",
        "assert (f(2) if f(2) == 4 else 0) == 4",
        "assert [f(2) == 4][0] == True",
        "assert (x := f(2)) == 4",
        "assert 1 == 1",
        "assert True",
        "assert 1 < f(2) < 3",
        "assert f(2) == 9 ** 9 ** 9",
        "assert f(2) == [0] * 10 ** 12",
        "import operator\nassert operator.eq(f(2), 4)",
        "import numpy as np\nassert np.allclose(f(2), [1.0])",
        "for i in range(3):\n    assert f(i) == i",
        "x = f(2)\nassert x == 4",
        "def helper(x): return True\nassert helper(f(2))",
        "raise SystemExit",
        "def check(candidate):\n    assert candidate(2) == 4",
        "x = 1",
        "assert f(2) ==",
        "assert f(2) == 4\0",
        "assert " + "(" * 5000 + "f(2)" + ")" * 5000 + " == 4",
    ],
)
def test_what_the_program_could_decide_itself_is_refused(script) -> None:
    with pytest.raises(ValueError, match=r"."):
        read_asserts(script)


@pytest.mark.parametrize("source", ["f", "1", "f(2) == 4", "exit(0)", "f(2), 4", "", "print(", "(lambda: 4)()"])
def test_only_a_call_of_the_programs_is_a_question(source) -> None:
    with pytest.raises(ValueError, match=r"."):
        read_question(source)


def test_expected_values_never_go_inside() -> None:
    script = "import math\nwanted = 'MARK1'\nx = 'input'\nassert f(x) == wanted\nassert abs(f(3) - 7777.5) < 8888.5\n"
    script += "assert f(1) == 'MARK2' and 'MARK3' == f(2)\nassert math.isclose(f(4), 9999.5)\nassert 'MARK4' in f(5)\n"
    tests = [*read_tests(script), *read_tests([{"function": "f", "args": [1], "output": "MARK5"}])]
    tests += read_tests([{"input": "in", "output": "MARK6"}])
    assert len(tests) == 7
    inside = " ".join(str(test.job) for test in tests)
    for secret in ("MARK", "7777", "8888", "9999"):
        assert secret not in inside
    assert "x = 'input'" in tests[0].job.prepare
    assert "import math" in tests[0].job.prepare


def test_humanevals_check_is_read_with_the_function_that_it_is_given() -> None:
    body = '\n\nMETADATA = {"a": 1}\n\ndef check(candidate):\n    "doc"\n    assert candidate(2) == 4\n'
    body += "    assert True is candidate(3)\n"
    for script, entry in ((body, "square"), (body + "\ncheck(square)", "")):
        first, second = read_asserts(script, entry)
        assert first.prepare == "candidate = square"
        assert (first.ask, second.ask) == ("(candidate(2),)", "(candidate(3),)")


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (3, "wanted a list of tests"),
        ([], "wanted a list of tests"),
        ("[1, 2", "look like JSON"),
        ([{"in": 1}], "test 1 is"),
        ([{"input": 1, "output": "1"}], "test 1 has 1 as text"),
        ({"inputs": ["a"], "outputs": []}, "1 inputs and 0 outputs"),
        (["assert f(1) == 1", "assert f(2) == g(2)"], "test 2: line 1, `f.2. == g.2.` cannot be judged from outside"),
        ([{"function": "exit", "args": [], "output": 1}], "test 1: `exit` is not the program's"),
        ([{"function": "f", "args": [float("nan")], "output": 1}], "not finite"),
        (["assert f(1) == 1"] * 2000, "2000 tests"),
    ],
)
def test_tests_that_cannot_be_read_say_which_and_why(data, why) -> None:
    with pytest.raises(ValueError, match=why):
        read_tests(data)


def test_the_forms_of_tests_come_to_the_same() -> None:
    rows = [{"input": "1\n", "output": "2"}, {"input": "3\n", "output": "4"}]
    columns = {"inputs": ["1\n", "3\n"], "outputs": ["2", "4"]}
    assert read_tests(rows) == read_tests(columns) == read_tests(json.dumps(columns)) == read_tests(json.dumps(rows))
    calls = [{"function": "f", "args": [[1], "a"], "output": [1]}]
    assert read_tests(calls) == read_tests({"fn_name": "f", "inputs": [[[1], "a"]], "outputs": [[1]]})
    assert read_tests(calls)[0].job.ask == "(f([1], 'a'),)"
