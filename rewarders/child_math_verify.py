"""Runs in the child process of `math_verify`: parses and compares, on the main thread and without its own time limits.

math-verify's limits are SIGALRM handlers that fail off the main thread and are blind inside C code; the parent's kill
is neither. No sympy object leaves this process, not even as text: printing some of them does not end.
"""

from __future__ import annotations

import importlib
import logging
import re
from decimal import Decimal
from fractions import Fraction
from functools import lru_cache
from typing import Any

from rewarders.child_magnitude import MOST_DIGITS, digits, is_out_of_reach
from rewarders.numeral import NOT_ASKED

LONGEST_TEXT = 20_000
"""Characters from the end that are searched for an answer; math-verify takes seconds for a megabyte."""
FULL_STOP_IN_BOX = re.compile(r"\.(\s*\})")
E_NOTATION = re.compile(r"(?<![\w.,])([0-9]{1,30}(?:\.[0-9]{1,30})?|\.[0-9]{1,30})[eE]([-+]?[0-9]{1,2})(?![\w.]*[0-9])")
SCIENTIFIC = re.compile(
    r"(?<![\w.,^{}/\\])(?<!/ )([0-9]{1,30}(?:\.[0-9]{1,30})?)\s*(?:\\times|\\cdot|[*\u00d7\u00b7])\s*"
    r"10\s*(?:\^|\*\*)\s*(?:\{\s*([-+]?[0-9]{1,2})\s*\}|([0-9]))(?!\s*[\w.^!*{])"
)
"""math-verify multiplies in binary, so that -8.80901 x 10^5 is not -880901."""
AS_TEXT = re.compile(r"\\(?:text|textbf|mathrm|mathbf|mbox)\s*\{\s*([-+]?[0-9][0-9.,/]*)\s*\}")
REPEATING = re.compile(r"(?<![\w.,])([0-9]{0,30})\.([0-9]{0,30})\\(?:overline|bar)\s?\{([0-9]{1,30})\}")
THIN_SPACE = re.compile(r"(?<=[0-9])\\[,;:! ](?=[0-9]{3}(?![0-9]))")
"""Between thousands."""
BASE = re.compile(r"[0-9A-Za-z]\s?_\s?\{?\s?([0-9]{1,9})")
RELATIVE = 1e-4
"""Two numbers of which one is a decimal differ where they differ by more than this share of the answer. math-verify
compares six decimal places, so that 0 and 4e-7 are one."""


class Verifier:
    """Parses and compares."""

    def __init__(self, written_out: bool) -> None:
        logging.getLogger("math_verify").setLevel(logging.ERROR)
        self._written_out = written_out
        self._library: Any = importlib.import_module("math_verify")
        self._sympy: Any = importlib.import_module("sympy")
        latex = self._library.LatexExtractionConfig(boxed_match_priority=0)
        self._hundredth = self._sympy.UnevaluatedExpr(self._sympy.Rational(1, 100))  # what it reads "%" as
        self._targets = [latex, self._library.ExprExtractionConfig()]
        self._gold = lru_cache(64)(self._read_gold)
        self._out_of_reach: Any = self._sympy.Dummy("out_of_reach")
        parser: Any = importlib.import_module("math_verify.parser")
        for name in ("parse_latex_cached", "parse_expr_cached"):
            setattr(parser, name, self._within_reach(getattr(parser, name)))
        # Its first parses build tables for up to a second: do that before anyone's time runs.
        for warm in ("1/2", "(1,2)", "\\sqrt{2}", "3!", "2^{3^{2}}", "(2^3)!"):
            self._library.verify(self._gold(warm)[0], self._gold(warm)[0], timeout_seconds=None)

    def __call__(self, job: dict[str, Any]) -> Any:
        """{"gold"}: whether it reads as mathematics. {"gold", "text", "percent"}: [value, why]; without
        `percent` 713% is 7.13, and abstained from where it is 713 that is right."""
        gold, gold_text = self._gold(job["gold"])
        if "text" not in job:
            return gold is not None
        found, text = self._parse(written(job["text"][-LONGEST_TEXT:]))
        if found is None:
            return [0.0, "no answer found"]
        if self._written_out and not self._is_worked_out(gold, found, text):
            return [0.0, "an expression that is not worked out"]
        if found.has(self._out_of_reach) or digits(found, self._sympy) > MOST_DIGITS:
            return [None, "too large to compute"]
        if (bases := _bases(text)) and bases != _bases(gold_text):
            return [0.0, "a number in another base"]
        try:
            if not job["percent"] and isinstance(found, self._sympy.Mul) and self._hundredth in found.args:
                if self._is_same(gold, found.doit()):
                    return [1.0, ""]
                return [None, NOT_ASKED] if self._is_same(gold, found) else [0.0, ""]
            return [float(self._is_same(gold, found)), ""]
        except (MemoryError, RecursionError):
            raise
        except Exception:  # noqa: BLE001 - two things of kinds that cannot be compared are not equal
            return [0.0, "cannot be compared with the answer"]

    def _read_gold(self, answer: str) -> Any:
        # GSM8K's answer column ends in "#### 42".
        parsed, text = self._parse(written("\\boxed{" + answer.rpartition("####")[2].strip() + "}"))
        return (None if parsed is None or parsed.has(self._out_of_reach) else parsed), text

    def _within_reach(self, parse: Any) -> Any:
        """Its parser, and a name for what it would not come back from."""
        return lambda text: self._out_of_reach if is_out_of_reach(text) else parse(text)

    def _parse(self, text: str) -> tuple[Any, str]:
        """The parsed expression (None where there is none) and its normalised text."""
        try:
            found = self._library.parse(text, self._targets, parsing_timeout=None, raise_on_error=True)
        except (MemoryError, RecursionError):
            raise
        except Exception:  # noqa: BLE001 - it raises all kinds of errors on text that is not mathematics
            return None, ""
        parsed = next((f for f in found if not isinstance(f, str)), None)
        return parsed, next((f for f in found if isinstance(f, str)), "")

    def _is_worked_out(self, gold: Any, found: Any, text: str) -> bool:
        """Whether `found` states a value instead of restating the question.

        For a rational gold it must be a number as one writes it: decimal, fraction (not for an integer), percentage,
        scientific, or `x =` such a number. For others it must not hold a sum, integral or the like that gold lacks.
        """
        s = self._sympy
        if isinstance(found, s.Equality):
            if not found.lhs.free_symbols:
                return False  # "999 = 42" must not count as 42
            found = found.rhs
        if len(getattr(found, "args", ())) == 1 and type(found).__name__ == "FiniteSet":
            found = found.args[0]
        if isinstance(gold, (s.Integer, s.Rational, s.Float)):
            if isinstance(gold, s.Integer) and ("/" in text or "\\frac" in text):
                return False
            return self._is_plain(found)
        unevaluated = (s.Sum, s.Product, s.Integral, s.Derivative, s.Limit)
        return not found.has(*unevaluated) or gold.has(*unevaluated)

    def _is_plain(self, found: Any) -> bool:
        s = self._sympy
        if isinstance(found, s.Number):
            return True
        if isinstance(found, s.UnevaluatedExpr):
            return self._is_plain(found.args[0])
        if not isinstance(found, s.Mul):
            return False
        rest = [f for f in found.args if f != -1 and not isinstance(f, s.UnevaluatedExpr)]
        powers = [f for f in rest if isinstance(f, s.Pow)]
        plain = [f for f in rest if isinstance(f, s.Number)]
        simple = all(p.args[1] == -1 or p.args[0] == 10 for p in powers)
        simple = simple and all(isinstance(a, s.Number) for p in powers for a in p.args)
        return simple and len(powers) <= 1 and len(plain) <= 1 and len(powers) + len(plain) == len(rest)

    def _is_same(self, gold: Any, found: Any) -> bool:
        """To the library 713% is both 7.13 and 713 until it is worked out."""
        same = self._library.verify(gold, found, timeout_seconds=None, raise_on_error=True)
        return bool(same) and self._is_near(gold, found)

    def _is_near(self, gold: Any, found: Any) -> bool:
        """Whether two numbers of which one is a decimal are near, as gold's size goes; other things are."""
        s = self._sympy
        if not all(isinstance(x, s.Number) for x in (gold, found)) or not (gold.is_Float or found.is_Float):
            return True
        return abs(float(found) - float(gold)) <= RELATIVE * abs(float(gold))


def written(text: str) -> str:
    """A text in which math-verify reads what people write: no code ticks, no full stop that ends a box, no thin spaces
    between thousands, numbers as text, 1.2e+03, 1.2 \\times 10^{3} and 0.\\overline{3} as a decimal and a fraction."""
    text = THIN_SPACE.sub("", AS_TEXT.sub(r"\1", FULL_STOP_IN_BOX.sub(r"\1", text.replace("`", " "))))
    text = E_NOTATION.sub(lambda m: f"{Decimal(m[1]).scaleb(int(m[2])):f}", text)
    text = SCIENTIFIC.sub(lambda m: f"{Decimal(m[1]).scaleb(int(m[2] or m[3])):f}", text)
    return REPEATING.sub(lambda m: _fraction(*m.groups()), text)


def _bases(text: str) -> set[str]:
    """The bases that numbers in a text are given in, beside ten: math-verify passes over them."""
    return set(BASE.findall(text)) - {"10"} if "_" in text else set()


def _fraction(whole: str, fixed: str, repeating: str) -> str:
    nines = Fraction(int(repeating), 10 ** len(repeating) - 1) / 10 ** len(fixed)
    value = Fraction(int((whole + fixed) or "0"), 10 ** len(fixed)) + nines
    return str(value)
