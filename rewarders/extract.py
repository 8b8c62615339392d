"""How an answer is taken from a completion. Every way is linear in the length of the text: completions are hostile.

    whole      the text without surrounding white space
    number     the last number, without thousands separators
    tag        what stands between the last <answer> and </answer>
    boxed      what stands in the last \\boxed{...}, braces balanced
    last_line  the last line that is not blank
    fenced     what stands in the last ``` code fence, without its language; the whole text where there is none

Always the last: taking any of several candidates would pay for listing them.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Literal

Extract = Literal["whole", "number", "tag", "boxed", "last_line", "fenced"]

# A sign counts only where it cannot be a minus between two terms: "x = -3" ends in -3, "10-3" ends in 3.
# A run of digits and commas is taken whole: looking for thousands from each of its digits would take quadratic time.
NUMBER = re.compile(r"((?<![\w.)\]}])[-+\u2212])?([0-9]+(?:,[0-9]+)*+)(\.[0-9]+)?")
THOUSANDS = re.compile(r"[0-9]{1,3}(?:,[0-9]{3})+")

BRACE = re.compile(r"[{}]")


def extract(text: str, how: Extract) -> str | None:
    """The answer in `text`, or None where there is none (an empty answer is none)."""
    return EXTRACTORS[how](text) or None


def whole(text: str) -> str:
    """Everything, stripped."""
    return text.strip()


def number(text: str) -> str | None:
    """The last number, without separators or plus sign."""
    last = None
    for match in NUMBER.finditer(text):
        last = match
    if last is None:
        return None
    sign, whole, rest = last.groups(default="")
    if "," in whole and not THOUSANDS.fullmatch(whole):
        sign, whole = "", whole.rpartition(",")[2]  # commas between numbers
    return sign.replace("\u2212", "-").lstrip("+") + whole.replace(",", "") + rest


def tag(text: str) -> str | None:
    """Inside the last pair of answer tags."""
    end = text.rfind("</answer>")
    start = text.rfind("<answer>", 0, max(end, 0))
    return text[start + len("<answer>") : end].strip() if start >= 0 else None


def boxed(text: str) -> str | None:
    """Inside the last box; None where its braces do not balance."""
    start = text.rfind("\\boxed{")
    if start < 0:
        return None
    begin = start + len("\\boxed{")
    depth = 1
    for match in BRACE.finditer(text, begin):
        depth += 1 if match.group() == "{" else -1
        if depth == 0:
            return text[begin : match.start()].strip()
    return None


def last_line(text: str) -> str:
    """The last line that is not blank."""
    return text.strip().rpartition("\n")[2].strip()


def fenced(text: str) -> str:
    """Inside the last pair of fences."""
    end = text.rfind("```")
    start = text.rfind("```", 0, max(end, 0))
    if start < 0:
        return text.strip()
    first, newline, rest = text[start + 3 : end].partition("\n")
    return (rest if newline else first).strip()


EXTRACTORS: dict[str, Callable[[str], str | None]] = {
    "whole": whole,
    "number": number,
    "tag": tag,
    "boxed": boxed,
    "last_line": last_line,
    "fenced": fenced,
}


def check_extract(how: str) -> None:
    """Raises ValueError naming the ways there are."""
    if how not in EXTRACTORS:
        raise ValueError(f"extract = {how!r}: wanted one of {', '.join(EXTRACTORS)}")
