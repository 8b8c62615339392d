"""Scorers of reasoning-gym 0.1.25 that pay for text which is no answer, and those that raise on it.

    game_of_life_halting    `bool` of any text but the empty one is True, and so is that of "False"
    complex_arithmetic      nan passes for any number, since min(1, nan) is 1
    coin_flip               `0` is within its absolute tolerance of small probabilities, and a prefix of all of them
    polynomial_equations    without real roots any text is as good as the empty one that it asks for
    MALFORMED               raise where text has another shape than an answer: as wrong as any other malformed answer

`cascade_score`, which lets infinities and near misses pass, is not in this version; a test says so.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import Any

from rewarders.numeral import finite

MALFORMED = ("boxnet", "coin_flip", "complex_arithmetic", "game_of_life", "prime_factorization")
RELATIVE = 1e-3
"""Of a probability: as good as three digits."""


def score(family: str, dataset: Any, answer: str, entry: Mapping[str, Any]) -> Any:
    """The family's value of an answer, without the holes above."""
    try:
        if family in MENDED:
            return MENDED[family](dataset, answer, entry)
        return dataset.score_answer(answer, entry)
    except (TypeError, ValueError, AttributeError, LookupError, OverflowError, RecursionError):
        if family in MALFORMED:
            return 0.0
        raise


def _halting(_: Any, answer: str, entry: Mapping[str, Any]) -> float:
    return float(answer.strip().strip(".").casefold() == str(entry["answer"]).casefold())


def _complex(dataset: Any, answer: str, entry: Mapping[str, Any]) -> float:
    value = dataset.parse_string_to_complex(answer)
    if value is None or not (math.isfinite(value.real) and math.isfinite(value.imag)):
        return 0.0
    return float(dataset.score_answer(answer, entry))


def _coin(_: Any, answer: str, entry: Mapping[str, Any]) -> float:
    """All or nothing: the digits that an answer begins with, which are paid there, are zeros in most of them."""
    top, slash, bottom = answer.replace(",", "").strip().partition("/")
    found, below = finite(top), finite(bottom) if slash else Fraction(1)
    wanted = Fraction(entry["answer"])
    return float(found is not None and bool(below) and abs(found / (below or 1) - wanted) <= RELATIVE * wanted)


def _roots(dataset: Any, answer: str, entry: Mapping[str, Any]) -> float:
    if not entry["answer"]:
        return float(answer.strip() in ("", '""'))
    return float(dataset.score_answer(answer, entry))


MENDED: Mapping[str, Callable[[Any, str, Mapping[str, Any]], float]] = {
    "game_of_life_halting": _halting,
    "complex_arithmetic": _complex,
    "coin_flip": _coin,
    "polynomial_equations": _roots,
}
