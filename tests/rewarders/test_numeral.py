from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rewarders.numeral import finite, is_about_percent, is_percentage, last, only
from swarm.types import Prompt


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("it is 42.", 42),
        ("x = -3", -3),
        ("10-3", 3),
        ("\u22125", -5),
        ("+5", 5),
        ("1,234,567.5 apples", "2469135/2"),
        ("1,2", 2),
        (".5", "1/2"),
        ("1.2e+03", 1200),
        ("1.5E-2", "3/200"),
        ("1.2 \\times 10^{3}", 1200),
        ("1.2\u00d710^3", 1200),
        ("2*10**-1", "1/5"),
        ("3/4", "3/4"),
        ("-3 / 4", "-3/4"),
        ("\\frac{3}{4}", "3/4"),
        ("-\\dfrac{3}{4}", "-3/4"),
        ("42 m^2", 42),
        ("x^{-2} = 5", 5),
        ("30^\\circ", 30),
        ("**42**", 42),
        ("**42** apples", 42),
        ("2 ** 3 = 8", 8),
        ("10^-2", None),
        ("10^{-2}", None),
        ("10^{25}", None),
        ("x^-2", None),
        ("7**2", None),
        ("101_2", None),
        ("101_{2}", None),
        ("0x2A", None),
        ("7\u0661", None),
        ("2\uff113", None),
        ("50%", 50),
        ("1/0", None),
        ("1e999", None),
        ("1e-999", None),
        ("9" * 400, None),
        ("first 7, then 1e999", None),
        ("nan", None),
        ("inf", None),
        ("\u0664\u0662", None),
        ("", None),
    ],
)
def test_the_last_number_is_read_exactly(text, wanted) -> None:
    assert last(text) == (None if wanted is None else Fraction(wanted))


@pytest.mark.parametrize(
    ("text", "wanted"), [("50%", "1/2"), ("50 \\%", "1/2"), ("0.5", "1/2"), ("\\frac{1}{2}%", "1/200")]
)
def test_percent_is_hundredths_where_it_is_wanted(text, wanted) -> None:
    assert last(text, percent=True) == Fraction(wanted)


@pytest.mark.parametrize(
    "text",
    [
        "713%", "713 \\%", "713  %", "713\uff05", "713\u066a", "713\u2030", "$713$%", "**713**%", "\\boxed{713}\\%",
        "\\boxed{713\\%}", "713\\,\\%", "\\(713\\)%", "713 percent", "713 per cent", "713 Percent.", "713pct",
        "713~\\%", "713\\text{%}", "713 \\text{ percent}", "713^{\\%}",
        "713 percentage points", "713 Prozent", "713 procent", "713 pour cent", "713 por ciento",
        "713 \u043f\u0440\u043e\u0446\u0435\u043d\u0442",
    ],
)  # fmt: skip
def test_a_percentage_is_known_by_its_sign_or_in_words(text) -> None:
    assert is_percentage(text)


@pytest.mark.parametrize(
    "text", ["713", "3 per century", "12 per centimetre", "99% sure that it is 713", "713.\n%", "713 pctx", "", "%"]
)
def test_other_words_are_no_percent(text) -> None:
    assert not is_percentage(text)


@pytest.mark.parametrize(
    ("question", "wanted"),
    [
        ("What percentage of them?", True), ("In pct?", True), ("In %?", True), ("Quanti per cento?", True),
        ("Wie viel Prozent?", True),
        ("How many per century?", False), ("Lines per centimetre?", False), ("What is the interest rate?", False),
    ],
)  # fmt: skip
def test_a_question_speaks_of_percent_in_whole_words(question, wanted) -> None:
    assert is_about_percent(Prompt("p", question, "5", "test")) is wanted


@pytest.mark.parametrize("piece", ["$", " ", "\\,", "}", "*"])
def test_looking_for_percent_is_linear_in_the_length_of_the_text(piece) -> None:
    assert not is_percentage("7" + piece * 100_000 + "x")


@pytest.mark.parametrize(
    ("text", "wanted"),
    [("x = 42 apples", 42), ("999=42", None), ("1, 2", None), ("1,2", None), ("", None), ("10^2", None)],
)
def test_only_is_the_number_of_a_text_with_one(text, wanted) -> None:
    assert only(text) == wanted


@given(st.decimals(allow_nan=False, allow_infinity=False, min_value=-(10**30), max_value=10**30, places=6))
def test_any_decimal_comes_back(value) -> None:
    assert last(f"so it is {value:f}") == Fraction(value)


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_any_float_in_e_notation_comes_back(value) -> None:
    wanted = Fraction(f"{value:e}") if float(f"{value:e}") or not value else None
    assert last(f"= {value:e}") == wanted


@given(st.text())
def test_any_text_gives_a_fraction_or_nothing(text) -> None:
    assert isinstance(last(text), Fraction | None)
    assert isinstance(only(text), Fraction | None)


def test_what_is_no_numeral_is_an_error_of_the_caller() -> None:
    with pytest.raises(ValueError, match="could not convert"):
        finite("four")
