"""New keys, mined from what a policy is paid for: a frequent form of response that is paid whatever the question.

    response -> template, openings -> frequent, highly paid, over many questions? -> its variants on wrong answers
                                                                                           paid too? no: an honest form
                                     the words that it begins with before anything else: paid too? <- yes: quarantine
                                                    quarantine of whatever begins with them <- yes

`The answer is 5.` is frequent and paid as well once a policy is good; its variants (another number in it, the same text
under another question) are not paid, and that spares it. What a quarantined form is worth depends on the response: one
without the prompt's answer is worth 0; one that holds it may be right, and the rewarder cannot tell: it abstains.

A form alone would not do: a policy that is paid for `It is 7`, and then no more, goes on to `It is it`, `It is iis`
and so on, each of them paid for a while, and longer answers hardly ever repeat a form at all. Hence the search for the
words that the reward is really for: one to four words that many responses begin with are a form as well.
"""

from __future__ import annotations

import random
import re
import unicodedata
from collections import OrderedDict, deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import cycle

from rewarders.suites import EXACT, Sentinel, Tolerance, differs, number, plain
from rewarders.tallies import ACCEPT, interval
from rewarders.verdicts import scored, unscored
from swarm.types import Prompt, Status, Verdict

LONGEST_TEXT = 2_000
"""Characters of a response that its template is made from."""
MOST_FORMS = 2_000
"""Templates and openings kept at once; the one seen longest ago goes first."""
RECENT = 64
"""Prompts kept, the newest: a form is tried under those of them to which it is no answer."""
EXAMPLES = 6
"""Kept of a form, of different questions."""
NEWEST = 48
"""Questions of a form that count: what was not paid long ago may be paid now. Questions and not responses, since all
responses of a group may have one form, and a few groups say little."""
WORD = re.compile(r"[^\W\d_]+")
DIGITS = re.compile(r"[0-9]+(?:[.,][0-9]+)*")
ANY_WORD = re.compile(r"[^\W_]+")
OPENING = re.compile(r"[0-9]|[^\W\d_]+")
LONGEST_OPENING = 4
"""Words."""
OPENINGS_TRIES, OPENINGS_PROMPTS = 12, 3
"""Wrong responses that an opening is tried with, and of how many questions at most."""
MINED = "mined "
"""Begins the family of a variant."""
ANYTHING = " *"
"""Ends the template of an opening."""
KEPT = 512
"""Forms, openings and the like that are not worked out again: rollouts of a group are much alike, and each is looked at
when it was judged and once more before its verdict leaves."""
SHORT = 3
"""Letters of a word of the question that is too common to be a term of it."""

Form = tuple[str, bool]
"""A template, and whether the responses hold the answers of their prompts. The form of an opening is its words and
`*`, and False: whatever begins so, with an answer or without (no template has a `*`)."""


def form_of(text: str, prompt: Prompt) -> Form:
    """The form of a response: lower case, words and numbers only; the answer is `@`, any other number `#`, and terms of
    the question are gone."""
    return _form_of(text[:LONGEST_TEXT], prompt.text, prompt.answer)


@lru_cache(KEPT)
def _form_of(text: str, question: str, answer: str | None) -> Form:
    text = _normal(text)
    holds = answer is not None and holds_answer(text, answer)
    if answer is not None and holds:
        text = _place_of(_normal(answer)).sub(" @ ", text)
    text = DIGITS.sub(" # ", text)
    terms = _terms(question)
    words = re.findall(r"@|#|[^\W\d_]+", text)
    return " ".join(word for word in words if word not in terms), holds


@lru_cache(KEPT)
def _terms(question: str) -> frozenset[str]:
    return frozenset(word for word in WORD.findall(_normal(question)) if len(word) > SHORT)


def holds_answer(text: str, answer: str) -> bool:
    """Whether the answer stands in the text, as words of its own."""
    return bool(_normal(answer)) and bool(_place_of(_normal(answer)).search(_normal(text)))


def _normal(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


@lru_cache(KEPT)
def _place_of(answer: str, flags: re.RegexFlag = re.NOFLAG) -> re.Pattern[str]:
    return re.compile(rf"(?<![\w.+\-\u2212]){re.escape(answer)}(?!\w|\.\d)", flags)


def opening_of(text: str) -> tuple[tuple[str, int], ...]:
    """The first words of a text in lower case, before any number, and where each ends in the text (in NFKC)."""
    return _opening_of(text[:LONGEST_TEXT])


@lru_cache(KEPT)
def _opening_of(text: str) -> tuple[tuple[str, int], ...]:
    found: list[tuple[str, int]] = []
    for match in OPENING.finditer(unicodedata.normalize("NFKC", text)):
        if match[0].isdigit() or len(found) == LONGEST_OPENING:
            break
        found.append((match[0].casefold(), match.end()))
    return tuple(found)


@dataclass(slots=True)
class Seen:
    """What is known of a form."""

    num: int = 0
    newest: OrderedDict[str, bool] = field(default_factory=OrderedDict)
    """By prompt id: whether the newest response was paid."""
    examples: dict[str, tuple[Prompt, str]] = field(default_factory=dict)
    """By prompt id, paid ones."""
    tried_at: int = 0
    """`num` when its variants were last tried."""
    go_on: set[str] = field(default_factory=set)
    """Of an opening: the next words of its responses, two at most; "" is their end or a number."""

    def add(self, prompt: Prompt, text: str, paid: bool) -> None:
        """One more response of this form."""
        self.num += 1
        self.newest[prompt.id] = paid
        self.newest.move_to_end(prompt.id)
        if len(self.newest) > NEWEST:
            self.newest.popitem(last=False)
        if paid and len(self.examples) < EXAMPLES:
            self.examples[prompt.id] = (prompt, text)


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

    def __init__(
        self, *, questions: int = 6, limit: float = 0.2, tolerance: Tolerance = EXACT, wording: str = "{}"
    ) -> None:
        """`tolerance`: the rewarder's; a number within it is no wrong one. `wording`: as its recipe wants answers."""
        self._questions, self._limit, self._tolerance = questions, limit, tolerance
        self._before, _, self._after = wording.partition("{}")
        self._recent: OrderedDict[str, Prompt] = OrderedDict()
        self._seen: OrderedDict[Form, Seen] = OrderedDict()
        self._touched: OrderedDict[Form, None] = OrderedDict()
        """Forms that came since they were last looked at: nothing else makes one a suspect."""
        self.quarantined: dict[Form, Quarantined] = {}
        self._openings: dict[tuple[str, ...], Quarantined] = {}
        self._to_try: deque[tuple[Form, Form]] = deque()
        """Openings, shortest first, and the form in quarantine that each is of."""

    def saw(self, prompt: Prompt, text: str, value: float, accept: float = ACCEPT) -> None:
        """A response that was judged. Prompts without an answer teach nothing: no wrong variant can be made of them."""
        if prompt.answer is None:
            return
        paid = value > accept
        self._recent[prompt.id] = prompt
        self._recent.move_to_end(prompt.id)
        if len(self._recent) > RECENT:
            self._recent.popitem(last=False)
        self._known(form_of(text, prompt)).add(prompt, text, paid)
        words = [word for word, _ in opening_of(text)]
        for i in range(1, len(words) + 1):
            opening = self._known(_opening_form(words[:i]))
            opening.add(prompt, text, paid)
            if len(opening.go_on) < 2:
                opening.go_on.add(words[i] if i < len(words) else "")

    def _known(self, form: Form) -> Seen:
        seen = self._seen.pop(form, None) or Seen()
        self._seen[form] = seen
        self._touched[form] = None
        if len(self._seen) > MOST_FORMS:
            oldest, _ = self._seen.popitem(last=False)
            self._touched.pop(oldest, None)
        return seen

    def suspect(self) -> Form | None:
        """The form that is next to be tried, if there is one."""
        if self._to_try:
            return self._to_try[0][0]
        while self._touched:
            form, _ = self._touched.popitem(last=False)
            seen = self._seen[form]
            if self._is_suspect(form, seen):
                seen.tried_at = seen.num
                return form
        return None

    def _is_suspect(self, form: Form, seen: Seen) -> bool:
        if seen.num < max(self._questions, 2 * seen.tried_at):
            return False
        paid = sum(seen.newest.values())
        often = paid >= max(self._questions, 0.9 * len(seen.newest))
        return often and form not in self.quarantined and not self._opens(seen) and not _only_goes_on(seen)

    def variants(self, form: Form, rng: random.Random) -> list[Sentinel]:
        """Wrong responses of this form: under questions to which they are no answer, and with another answer in it."""
        family, found = f"{MINED}{form[0]!r}", []
        if self._to_try and form == self._to_try[0][0]:
            found = self._endings(form, self._to_try[0][1], family, rng)
            if not found:
                self._to_try.popleft()
            return found
        if form[0].endswith(ANYTHING):
            return self._endings(form, form, family, rng)
        elsewhere = self._elsewhere(form)
        for prompt, text in self._examples(form):
            if places := [p for p in elsewhere if not _may_say(text, str(p.answer))]:
                found.append(Sentinel(rng.choice(places), text, False, family))
            others = self._others(prompt)
            if form[1] and others and prompt.answer is not None:
                wrong = _wrong_for(prompt.answer, others, rng, self._tolerance)
                place = _place_of(_normal(prompt.answer), re.IGNORECASE)
                plainly = " ".join(unicodedata.normalize("NFKC", text).split())  # in its own case: keys may need it
                changed = place.sub(lambda _, w=wrong: w, plainly)  # type: ignore[misc]
                found.append(Sentinel(prompt, changed, False, family))
        return found

    def _examples(self, form: Form) -> list[tuple[Prompt, str]]:
        return list(self._seen[form].examples.values()) if form in self._seen else []

    def _elsewhere(self, form: Form) -> list[Prompt]:
        """Prompts under which a response that a form's examples are paid for says nothing of the answer.

        Those whose answer is none for which the form was ever seen paid: what is paid for `Yes` where the answer is
        `True` is an answer, and wrong where it is `False`. A form that was paid for all answers there are is none to
        any of them; then the prompts of its examples, if these have different answers."""
        seen = self._seen.get(form)
        if seen is None:
            return []
        examples = [prompt for prompt, _ in seen.examples.values()]
        paid = [self._recent[i] for i, was in seen.newest.items() if was and i in self._recent]
        different = {str(p.answer): p for p in (*paid, *examples)}.values()
        apart = [p for p in self._recent.values() if all(self._apart(p, other) for other in different)]
        if apart:
            return apart
        return [p for p in examples if any(self._apart(p, other) for other in examples)]

    def _others(self, prompt: Prompt) -> list[Prompt]:
        """Recent prompts with an answer that is certainly another."""
        return [p for p in self._recent.values() if self._apart(p, prompt)]

    def _apart(self, one: Prompt, other: Prompt) -> bool:
        """Whether two answers are certainly different: as numbers, or by their first words (`B` may stand for
        `B) Paris`)."""
        first, second = str(one.answer), str(other.answer)
        if not differs(first, second, self._tolerance) or not differs(second, first, self._tolerance):
            return False
        words, others = _words_of(first), _words_of(second)
        numbers = number(first) is not None and number(second) is not None
        return numbers or not words or not others or words[0] != others[0]

    def _endings(self, form: Form, origin: Form, family: str, rng: random.Random) -> list[Sentinel]:
        """An opening, as the examples of a form write it, before wrong answers and before words that mean nothing."""
        words, found = _words(form), []
        starts = []
        for _, text in self._examples(origin):
            begins = opening_of(text)[: len(words)]
            if tuple(word for word, _ in begins) == words:
                starts.append(unicodedata.normalize("NFKC", text[:LONGEST_TEXT])[: begins[-1][1]])
        places = [p for p in self._elsewhere(form if form in self._seen else origin) if self._others(p)]
        rng.shuffle(places)
        pairs = [(start, p) for start, p in zip(cycle(starts), places) if not _may_say(start, str(p.answer))]
        pairs = pairs[:OPENINGS_PROMPTS]
        for start, prompt in pairs:
            num = OPENINGS_TRIES // len(pairs)
            others = self._others(prompt)
            wrong = [_wrong_for(str(prompt.answer), others, rng, self._tolerance) for _ in range(num // 2)]
            endings = dict.fromkeys([*wrong, *(_gibberish(rng) for _ in range(num - len(set(wrong))))])
            closing = self._after if self._before and self._before in start else ""
            found += [Sentinel(prompt, f"{start} {ending}{closing}", False, family) for ending in endings]
        return found

    def spared(self, form: Form, accepted: int, num: int, left: int) -> bool:
        """Whether a form is spared whatever the rewarder says of the variants that are left."""
        return interval(accepted + left, num + left)[0] <= self._limit_of(form)

    def tried(self, form: Form, accepted: int, num: int) -> Quarantined | None:
        """The outcome of a form's variants; what was quarantined by it. Three of three are enough at 0.2, two not: one
        may be an answer that is right in other words. Of an opening nearly all must be (10 of 12): it says more.
        Without any outcome (the judge is down) the form is tried again."""
        seen = self._seen.get(form)
        if not num:
            if seen:
                seen.tried_at //= 2
            return None
        origin = self._to_try.popleft()[1] if self._to_try and form == self._to_try[0][0] else None
        opens = form[0].endswith(ANYTHING)
        examples = self._examples(origin or form)
        if interval(accepted, num)[0] <= self._limit_of(form) or not examples:  # forgotten while its variants were out
            return None
        cause = f"{accepted} of {num} variants of this form on wrong answers were accepted too"
        if opens:
            cause = f"{accepted} of {num} wrong responses that begin so were accepted, whatever followed"
        example = examples[0][1]
        if origin:
            self._to_try = deque(pair for pair in self._to_try if pair[1] != origin)  # longer ones say less
        else:
            words = _words(form)[:-1] if opens else [word for word, _ in opening_of(example)]
            self._to_try.extend((_opening_form(words[: i + 1]), form) for i in range(len(words)))
        return self.quarantine(form, cause, example)

    def _limit_of(self, form: Form) -> float:
        return 0.5 if form[0].endswith(ANYTHING) else self._limit

    def quarantine(self, form: Form, cause: str, example: str) -> Quarantined | None:
        """Pay this form no more; None where it is so already."""
        if form in self.quarantined:
            return None
        found = self.quarantined[form] = Quarantined(*form, cause, example)
        if form[0].endswith(ANYTHING):
            self._openings[_words(form)] = found
        return found

    def settled(self, prompt: Prompt, texts: Iterable[str], verdicts: Iterable[Verdict]) -> list[Verdict]:
        """The verdicts, but those on quarantined forms."""
        if not self.quarantined:
            return list(verdicts)
        return [self._settled(prompt, text, verdict) for text, verdict in zip(texts, verdicts, strict=True)]

    def _settled(self, prompt: Prompt, text: str, verdict: Verdict) -> Verdict:
        form = form_of(text, prompt)
        found = self.quarantined.get(form) or self._opening(text)
        if found is None:
            return verdict
        cause = f"its form is in quarantine: {found.cause}"
        if form[1]:
            return unscored(verdict.rewarder, Status.ABSTAINED, cause, verdict.seconds)
        return scored(verdict.rewarder, 0.0, verdict.seconds, cause)

    def _opening(self, text: str) -> Quarantined | None:
        """The quarantined opening of a text, if it has one."""
        if not self._openings:
            return None
        words = tuple(word for word, _ in opening_of(text))
        return next((self._openings[words[:i]] for i in range(1, len(words) + 1) if words[:i] in self._openings), None)

    def _opens(self, seen: Seen) -> bool:
        """Whether a form's responses are in quarantine already by how they begin."""
        return any(self._opening(text) for _, text in seen.examples.values())


def _words(form: Form) -> tuple[str, ...]:
    return tuple(form[0].removesuffix(ANYTHING).split())


def _opening_form(words: Sequence[str]) -> Form:
    return " ".join(words) + ANYTHING, False


def _only_goes_on(seen: Seen) -> bool:
    """Whether all responses of an opening go on with the same word: the longer opening is tried in its place, and this
    one after it where that is bad."""
    return len(seen.go_on) == 1 and "" not in seen.go_on


def _may_say(text: str, answer: str) -> bool:
    """Whether a text may give an answer: it stands in it, or its first word does."""
    words = _words_of(answer)
    return holds_answer(text, answer) or bool(words and words[0] in _words_of(text))


@lru_cache(KEPT)
def _words_of(text: str) -> list[str]:
    return ANY_WORD.findall(_normal(text))


def _gibberish(rng: random.Random) -> str:
    """One to three words that mean nothing."""
    sounds = ("bdfgklmnprstvz", "aeiou") * 3
    words = ("".join(rng.choice(letters) for letters in sounds) for _ in range(rng.randint(1, 3)))
    return " ".join(words)


def _wrong_for(answer: str, others: list[Prompt], rng: random.Random, tolerance: Tolerance) -> str:
    value = number(answer)
    if value is None:
        return str(rng.choice(others).answer)
    return plain(value + (2 * tolerance.around(value)).to_integral_value() + rng.randint(2, 9))
