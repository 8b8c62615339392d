"""How large a sympy expression is, found out without computing it: 9^9^9 has more digits than any memory."""

from __future__ import annotations

import math
from typing import Any

MOST_DIGITS = 3000
"""Of a value that is computed; what is larger is not compared with anything."""


def digits(found: Any, sympy: Any) -> float:
    """At least as many digits as the value of `found`, and any value on the way to it, has. Infinite parts count 1."""
    if isinstance(found, sympy.Rational):
        return max(1.0, (abs(found.p).bit_length() + found.q.bit_length()) * math.log10(2))
    inner = [digits(part, sympy) for part in getattr(found, "args", ())]
    most = sum(inner, 1.0)
    if most > MOST_DIGITS:
        return most  # so that below every part is small enough to compute
    if isinstance(found, sympy.Pow):
        return max(most, inner[0] * _size(found.exp))
    if isinstance(found, sympy.factorial):
        size = _size(found.args[0])
        return max(most, size * math.log10(size + 1))
    if isinstance(found, sympy.binomial):
        return max(most, _size(found.args[0]))
    return most


def _size(found: Any) -> float:
    """The absolute value of a constant of few digits, 1 of what has symbols, infinity of what has no value."""
    if found.free_symbols:
        return 1.0
    try:
        return abs(complex(found.evalf(6, maxn=50)))
    except (TypeError, ValueError, OverflowError):
        return math.inf
