"""Numbers out of text, exactly, and the one check that every number read out of text passes: `finite`.

    42   -3   1,234.5   .5   1.2e+03   1.2 x 10^3 (\\times, \\cdot, *)   3/4   \\frac{3}{4}   50%

Powers but those of ten in the above (10^-2), numbers with a base (101_2, 0x2A) and those with digits of other scripts
are no numbers: what is left of one would be another. Linear in the length of the text. `nan` and `inf` are words here,
and what overflows float64 is no number.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from decimal import Decimal
from fractions import Fraction

from rewarders.verdicts import number
from swarm.types import Prompt

LONGEST = 1000
"""Characters of one numeral; longer ones are no numbers."""
SIGN = r"[-+\u2212]"
# One run of digits and commas is taken whole, so that no part of a long run is looked at twice.
PLAIN = r"(?:[0-9]++(?:,[0-9]+)*+(?:\.[0-9]+)?|\.[0-9]++)"
THOUSANDS = re.compile(r"[0-9]{1,3}(?:,[0-9]{3})+")
# A sign counts only where it cannot be a minus between two terms: "x = -3" ends in -3, "10-3" ends in 3.
EXPONENT = rf"\s?(?:\^|\*\*)\s?[{{(]?\s?{SIGN}?[0-9]"
OTHER = rf"{EXPONENT}|\s?_\s?\{{?\s?[0-9]|(?<=0)[xX][0-9a-fA-F]|\d"
"""What makes another number of the digits before it: a power, a base, a hexadecimal numeral, another script's digit."""
NUMERAL = re.compile(
    rf"(?P<sign>(?<![\w.)\]}}^])(?<!\^\{{){SIGN})?"
    rf"(?:\\[dt]?frac\s?\{{\s?(?P<top>{SIGN}?{PLAIN})\s?\}}\s?\{{\s?(?P<under>{PLAIN})\s?\}}"
    rf"|(?<![\w^])(?<!\^\{{)(?<!\^{SIGN})(?<!\^\{{{SIGN})(?P<value>{PLAIN})"
    rf"(?:[eE](?P<e>{SIGN}?[0-9]+)|\s?(?:[*x\u00d7]|\\times|\\cdot)\s?10\s?(?:\^|\*\*)\s?\{{?(?P<ten>{SIGN}?[0-9]+)\}}?)?"
    rf"(?:\s?/\s?(?P<over>{PLAIN}))?)"
    rf"(?P<percent>\s?\\?%)?(?P<other>{OTHER})?"
)
SIGNS = r"[%\uff05\u066a\u2030]"
WORDS = (
    r"(?<![a-z])(?:(?:per|pour)\s?cent(?:s|o|ages?)?\b|pct\b|pro[cz]ent|por\s?cien|porcent|percentu)"
    r"|\u043f\u0440\u043e\u0446\u0435\u043d\u0442|\u767e\u5206"
)
PERCENT = re.compile(rf"(?:[\s$*_`~^(){{}}]|\\[,;:! )\]]|\\(?:text|mathrm)\b)*+(?:\\?{SIGNS}|{WORDS})", re.IGNORECASE)
"""After a number, past what closes a formula, a box or bold type, and what begins a text in a formula."""
ABOUT_PERCENT = re.compile(rf"{SIGNS}|{WORDS}", re.IGNORECASE)
"""No list of all languages: where it overlooks one, a right answer in percent is abstained from."""
NOT_ASKED = (
    "a percentage, and neither question nor answer speaks of percent: it cannot be told whether it is meant; give the "
    "prompt's answer with a % where it is"
)


def finite(text: str) -> Fraction | None:
    """The exact value of a decimal numeral, or None where it is too long, not finite, or out of float64's range.

    Raises ValueError where `text` is no numeral.
    """
    nearest = number(float(text)) if len(text) <= LONGEST else None
    if nearest is None:
        return None
    exact = Decimal(text)
    return None if exact and not nearest else Fraction(exact)


def last(text: str, *, percent: bool = False) -> Fraction | None:
    """The last number in a text; None where there is none, or where it is not finite."""
    found = _last_match(text)
    return None if found is None else list(_values(found, percent))[-1]


def only(text: str, *, percent: bool = False) -> Fraction | None:
    """The number in a text that holds exactly one; None otherwise."""
    values: list[Fraction | None] = []
    for match in NUMERAL.finditer(text):
        values += _values(match, percent)
        if len(values) > 1:
            return None
    return values[0] if values else None


def is_about_percent(prompt: Prompt) -> bool:
    """Whether a prompt's answer or question speaks of percent. To such a one 60% and 60 are the same answer; to others
    60% is abstained from where 60 is right."""
    return bool(ABOUT_PERCENT.search(prompt.text) or ABOUT_PERCENT.search(prompt.answer or ""))


def is_percentage(text: str) -> bool:
    """Whether the last number in a text is one, by its sign or in words."""
    found = _last_match(text)
    return found is not None and bool(found["percent"] or PERCENT.match(text, found.end()))


def _last_match(text: str) -> re.Match[str] | None:
    found = None
    for match in NUMERAL.finditer(text):
        found = match
    return found


def _values(match: re.Match[str], percent: bool) -> Iterator[Fraction | None]:
    """Of one match: one number, or several where its commas separate."""
    plain = match["value"] or match["top"]
    whole, _, rest = plain.partition(".")
    if "," in whole and not THOUSANDS.fullmatch(whole.lstrip("-+\u2212")):
        for piece in whole.split(",")[:-1][-2:]:  # more than two are not told apart by anyone
            yield _read(piece)
        yield _read(whole.rpartition(",")[2] + (f".{rest}" if rest else ""))
        return
    value = _read((match["sign"] or "") + plain) if match["value"] else _read(plain)
    over = match["over"] or match["under"]
    power = match["e"] or match["ten"]
    if power and match["value"]:
        value = _read(f"{match['sign'] or ''}{plain}e{power}")
    if over and value is not None:
        below = _read(over)
        value = value / below if below else None
    if match["top"] and (match["sign"] or "")[:1] in ("-", "\u2212") and value is not None:
        value = -value
    if percent and match["percent"] and value is not None:
        value /= 100
    yield None if match["other"] else value


def _read(text: str) -> Fraction | None:
    return finite(text.replace(",", "").replace("\u2212", "-"))
