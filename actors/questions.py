"""What a question is: its normal form, its id, the template around it, and the side of the split that it lies on.

The split is a keyed hash of the question's text before any template. It depends on nothing else: not on the seed, the
order or the source, so a question that two sources share, or two templates wrap, lies on one side only.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

from swarm.config import nearest
from swarm.errors import ConfigError
from swarm.types import Prompt

HELD_OUT_SHARE = 0.1
"""Share of all distinct questions that is kept for evaluation."""

HELD_OUT_ROWS = 20
"""Tables that would have fewer held-out questions than this get a larger share."""

MOST_HELD_OUT_SHARE = 0.5

FIELD = "{question}"


@dataclass(frozen=True, slots=True)
class Item:
    """A question as its source gives it."""

    question: str
    """Before the template; what the split and the search for repeats look at."""
    prompt: Prompt


def normal(question: str) -> str:
    """Unicode NFC with runs of white space as one space: questions with the same normal form are the same."""
    return " ".join(unicodedata.normalize("NFC", question).split())


def keyed(key: str, text: str) -> int:
    """A 64-bit hash, equal in every process."""
    # Surrogates can't be encoded as such, but come out of JSON files.
    data = text.encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(data, digest_size=8, key=key.encode()).digest(), "big")


def digest(question: str) -> int:
    """64 bits of the normal form. The split and the search for repeats use the same ones."""
    return keyed("swarm held-out split", normal(question))


def make_id(identity: str, question: str) -> str:
    """The prompt id: 96 bits of the normal form and of what the source is, as hex."""
    data = f"{identity}\0{normal(question)}".encode("utf-8", "surrogatepass")
    return hashlib.blake2b(data, digest_size=12).hexdigest()


def share_for(num_rows: Sequence[int | None]) -> float:
    """The held-out share of a run, from the sizes of its sources (None: as many as wanted).

    10 %, unless the smallest table would then hold out fewer than `HELD_OUT_ROWS` questions; never above one half.
    All sources of a run have one share, since they may share questions.
    """
    smallest = min((n for n in num_rows if n), default=None)
    if smallest is None:
        return HELD_OUT_SHARE
    return min(MOST_HELD_OUT_SHARE, max(HELD_OUT_SHARE, HELD_OUT_ROWS / smallest))


def check_template(template: str) -> None:
    """Raises ConfigError where a template has no place for the question. Other braces stay as they are."""
    if FIELD not in template:
        words = [w.strip("{}") for w in template.split() if w.startswith("{")]
        near = nearest(words[0], ["question"]) if words else ""
        raise ConfigError(f"template = {template!r}: wanted a text with {FIELD} in it{near}")


def fill(template: str, question: str) -> str:
    """The template with the question in its place. Plain replacement, so that `\\boxed{}` may stand in a template."""
    return template.replace(FIELD, question)
