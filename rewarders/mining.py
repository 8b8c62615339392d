"""New keys, mined from what a policy is paid for: a frequent form of response that is paid whatever the question.

    response -> template -> frequent, highly paid, over many questions? -> its variants on wrong answers -> paid too?
                                                                                 no: an honest form      yes: quarantine

`The answer is 5.` is frequent and paid as well once a policy is good; its variants (another number in it, the same text
under another question) are not paid, and that spares it. What a quarantined form is worth depends on the response: one
without the prompt's answer is worth 0; one that holds it may be right, and the rewarder cannot tell: it abstains.
"""

from __future__ import annotations

import random
import re
import unicodedata
from collections import OrderedDict, deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from rewarders.suites import EXACT, Sentinel, Tolerance, differs, number, plain
from rewarders.tallies import ACCEPT, interval
from rewarders.verdicts import scored, unscored
from swarm.types import Prompt, Status, Verdict

LONGEST_TEXT = 2_000
"""Characters of a response that its template is made from."""
MOST_TEMPLATES = 2_000
"""Kept at once; the one seen longest ago goes first."""
EXAMPLES = 6
"""Kept of a form, of different questions."""
NEWEST = 48
"""Responses of a form that count: what was not paid long ago may be paid now."""
WORD = re.compile(r"[^\W\d_]+")
DIGITS = re.compile(r"[0-9]+(?:[.,][0-9]+)*")
SHORT = 3
"""Letters of a word of the question that is too common to be a term of it."""

Form = tuple[str, bool]
"""A template, and whether the responses hold the answers of their prompts."""


def form_of(text: str, prompt: Prompt) -> Form:
    """The form of a response: lower case, words and numbers only; the answer is `@`, any other number `#`, and terms of
    the question are gone."""
    text = _normal(text[:LONGEST_TEXT])
    holds = prompt.answer is not None and holds_answer(text, prompt.answer)
    if prompt.answer is not None and holds:
        text = _place_of(_normal(prompt.answer)).sub(" @ ", text)
    text = DIGITS.sub(" # ", text)
    terms = {word for word in WORD.findall(_normal(prompt.text)) if len(word) > SHORT}
    words = re.findall(r"@|#|[^\W\d_]+", text)
    return " ".join(word for word in words if word not in terms), holds


def holds_answer(text: str, answer: str) -> bool:
    """Whether the answer stands in the text, as words of its own."""
    return bool(_normal(answer)) and bool(_place_of(_normal(answer)).search(_normal(text)))


def _normal(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def _place_of(answer: str) -> re.Pattern[str]:
    return re.compile(rf"(?<![\w.+\-\u2212]){re.escape(answer)}(?!\w|\.\d)")


@dataclass(slots=True)
class Seen:
    """What is known of a form."""

    num: int = 0
    newest: deque[tuple[str, bool]] = field(default_factory=lambda: deque(maxlen=NEWEST))
    """Prompt id, and whether it was paid."""
    examples: dict[str, tuple[Prompt, str]] = field(default_factory=dict)
    """By prompt id, paid ones."""
    tried_at: int = 0
    """`num` when its variants were last tried."""


@dataclass(frozen=True, slots=True)
class Quarantined:
    """A form that is not paid any more, and why."""

    template: str
    holds_answer: bool
    cause: str
    example: str


class Miner:
    """Of one rewarder. A form is tried when of the newest nine of ten were paid, under `questions` different questions,
    and again each time that it has come twice as often."""

    def __init__(self, *, questions: int = 12, limit: float = 0.2, tolerance: Tolerance = EXACT) -> None:
        """`tolerance`: the rewarder's; a number within it is no wrong one."""
        self._questions, self._limit, self._tolerance = questions, limit, tolerance
        self._seen: OrderedDict[Form, Seen] = OrderedDict()
        self.quarantined: dict[Form, Quarantined] = {}

    def saw(self, prompt: Prompt, text: str, value: float, accept: float = ACCEPT) -> None:
        """A response that was judged. Prompts without an answer teach nothing: no wrong variant can be made of them."""
        if prompt.answer is None:
            return
        form = form_of(text, prompt)
        seen = self._seen.pop(form, None) or Seen()
        self._seen[form] = seen
        seen.num += 1
        seen.newest.append((prompt.id, value > accept))
        if value > accept and len(seen.examples) < EXAMPLES:
            seen.examples[prompt.id] = (prompt, text)
        if len(self._seen) > MOST_TEMPLATES:
            self._seen.popitem(last=False)

    def suspect(self) -> Form | None:
        """The form that is next to be tried, if there is one."""
        for form, seen in self._seen.items():
            questions = len({prompt for prompt, paid in seen.newest if paid})
            often = seen.num >= max(self._questions, 2 * seen.tried_at) and questions >= self._questions
            paid = sum(paid for _, paid in seen.newest) >= 0.9 * len(seen.newest)
            if often and paid and form not in self.quarantined:
                seen.tried_at = seen.num
                return form
        return None

    def variants(self, form: Form, rng: random.Random) -> list[Sentinel]:
        """Wrong responses of this form: under the question of another example, and with another answer in it."""
        examples = list(self._seen[form].examples.values())
        family, found = f"mined {form[0]!r}", []
        for prompt, text in examples:
            others = [p for p, _ in examples if p.answer is not None and not holds_answer(text, p.answer)]
            others = [p for p in others if differs(str(prompt.answer), str(p.answer), self._tolerance)]
            if others:
                found.append(Sentinel(rng.choice(others), text, False, family))
            if form[1] and others and prompt.answer is not None:
                wrong = _wrong_for(prompt.answer, others, rng, self._tolerance)
                changed = _place_of(_normal(prompt.answer)).sub(lambda _, w=wrong: w, _normal(text))  # type: ignore[misc]
                found.append(Sentinel(prompt, changed, False, family))
        return found

    def tried(self, form: Form, accepted: int, num: int) -> Quarantined | None:
        """The outcome of a form's variants; what was quarantined by it. Three of three are enough at 0.2, two not: one
        may be an answer that is right in other words."""
        low = interval(accepted, num)[0] if num else 0.0
        if low <= self._limit:
            return None
        cause = f"{accepted} of {num} variants of this form on wrong answers were accepted too"
        return self.quarantine(form, cause, next(iter(self._seen[form].examples.values()))[1])

    def quarantine(self, form: Form, cause: str, example: str) -> Quarantined | None:
        """Pay this form no more; None where it is so already."""
        if form in self.quarantined:
            return None
        found = self.quarantined[form] = Quarantined(*form, cause, example)
        return found

    def settled(self, prompt: Prompt, texts: Iterable[str], verdicts: Iterable[Verdict]) -> list[Verdict]:
        """The verdicts, but those on quarantined forms."""
        if not self.quarantined:
            return list(verdicts)
        return [self._settled(prompt, text, verdict) for text, verdict in zip(texts, verdicts, strict=True)]

    def _settled(self, prompt: Prompt, text: str, verdict: Verdict) -> Verdict:
        form = form_of(text, prompt)
        if form not in self.quarantined:
            return verdict
        cause = f"its form is in quarantine: {self.quarantined[form].cause}"
        if form[1]:
            return unscored(verdict.rewarder, Status.ABSTAINED, cause, verdict.seconds)
        return scored(verdict.rewarder, 0.0, verdict.seconds, cause)


def _wrong_for(answer: str, others: list[Prompt], rng: random.Random, tolerance: Tolerance) -> str:
    value = number(answer)
    if value is None:
        return str(rng.choice(others).answer)
    return plain(value + (2 * tolerance.around(value)).to_integral_value() + rng.randint(2, 9))
