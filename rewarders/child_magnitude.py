"""How large an expression is, found out without computing it: 9^9^9 has more digits than any memory.

`is_out_of_reach` looks at text, before it is parsed; `digits` at what sympy made of it.
"""

from __future__ import annotations

import math
import re
from typing import Any

MOST_DIGITS = 3000
"""Of a value that is computed; what is larger is not compared with anything."""
DIGITS_OF_TERM = 10
"""What a term of a product that would be multiplied out counts for: three hundred of them take a second."""
DEEPEST, DEEPEST_TEXT = 30, 10
"""Levels of an expression, and brackets within brackets of a text: parsing takes as much longer for each."""

POWER = r"\s?(?:\^|\*\*)\s?[{(]?\s?"
NUMBER = "(?<![0-9])([0-9]++)"
"""Taken whole: no digit is looked at again and again."""
TOWER = re.compile(rf"{NUMBER}{POWER}{NUMBER}{POWER}{NUMBER}")
FACTORIAL = re.compile(rf"\(\s?{NUMBER}{POWER}{NUMBER}\s?\}}?\s?\)\s?!|{NUMBER}\s?!")
EAGER = re.compile(r"gcd|lcm|binom")
"""Functions that are computed while they are parsed."""
LARGE = re.compile(rf"{POWER}[0-9]+{POWER}|{POWER}[0-9]{{4}}|[0-9]{{4}}\s?!")
BRACKET = re.compile(r"[(\[{]|[)\]}]")


def is_out_of_reach(text: str) -> bool:
    """Whether parsing it would take too long, or its value cannot be computed. Not all that is so is found: the time
    limit finds the rest. Linear in the length of the text."""
    depth = 0
    for bracket in BRACKET.finditer(text):
        depth += 1 if bracket.group() in "([{" else -1
        if depth > DEEPEST_TEXT:
            return True
    if any(_has_digits(b, c) > 4 and _has_digits(a, "1") > 0 for a, b, c in TOWER.findall(text)):
        return True
    if any(_has_digits(n or a, "1" if n else b) > 4 for a, b, n in FACTORIAL.findall(text)):
        return True
    return bool(EAGER.search(text) and LARGE.search(text))


def _has_digits(base: str, exponent: str) -> float:
    """Of the power: its logarithm."""
    if len(exponent) > 9:
        return math.inf
    return int(exponent) * (math.log10(int(base) or 1) if len(base) < 300 else len(base) - 1)


def digits(found: Any, sympy: Any, level: int = 0) -> float:
    """At least as many digits as the value of `found`, and any value on the way to it, has. Infinite parts count 1."""
    if level > DEEPEST:
        return math.inf
    if isinstance(found, sympy.Rational):
        return max(1.0, (abs(found.p).bit_length() + found.q.bit_length()) * math.log10(2))
    inner = [digits(part, sympy, level + 1) for part in getattr(found, "args", ())]
    most = sum(inner, 1.0)
    if most > MOST_DIGITS:
        return most  # so that below every part is small enough to compute
    if isinstance(found, sympy.Pow):
        return max(most, inner[0] * _size(found.exp), DIGITS_OF_TERM * _terms(found, sympy))
    if isinstance(found, sympy.factorial):
        size = _size(found.args[0])
        return max(most, size * math.log10(size + 1))
    if isinstance(found, sympy.binomial):
        return max(most, _size(found.args[0]))
    return most


def _terms(found: Any, sympy: Any) -> float:
    """Terms of a power that is multiplied out."""
    base, exponent = found.args
    while isinstance(base, sympy.UnevaluatedExpr):
        base = base.args[0]
    if not (isinstance(base, sympy.Add) and isinstance(exponent, sympy.Integer) and base.free_symbols):
        return 1.0
    n, k = abs(int(exponent)), len(base.args)
    return math.inf if n > MOST_DIGITS else float(math.comb(n + k - 1, k - 1))


def _size(found: Any) -> float:
    """The absolute value of a constant of few digits, 1 of what has symbols, infinity of what has no value."""
    if found.free_symbols:
        return 1.0
    try:
        return abs(complex(found.evalf(6, maxn=50)))
    except (TypeError, ValueError, OverflowError):
        return math.inf
