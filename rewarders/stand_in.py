"""A small scorer that stands in while a judge is down, learned online from the judge's own verdicts.

    judge answers ----> its verdicts, from which the scorer learns      (test first, then train)
    judge fails on the whole group --> scorer, if it agrees with the judge on unseen answers; else the failure

As ONI's classifier (arXiv 2410.23022) distils labels of a language model. Differs: the judge stays the judge, and the
scorer answers only in its absence, only while it has proved itself, and every such verdict says so. A logistic
regression over hashed features of (reference, response), trained one group at a time by stochastic gradient descent.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from scipy import stats

from rewarders.verdicts import scored
from swarm.types import Group, Status, Verdict

STAND_IN = "stand_in"
"""The part, of value 1, that marks its verdicts."""
CAUSE = "stand-in, while the judge is down"
FAILURES = (Status.TIMEOUT, Status.ERROR)
WINDOW = 400
"""Unseen answers, newest of each kind, on which agreement is measured."""
SEEN = 20_000
"""Answers that are remembered as seen: agreement on them would be agreement with memory."""
FEATURES = 2**18
LONGEST = 4_000
"""Characters from the end of a response that are looked at."""
WORD = re.compile(r"\d+(?:\.\d+)?|\w+|[^\w\s]")
NUMBER = re.compile(r"-?\d+(?:\.\d+)?")


Ask = Callable[[Group], Awaitable[Sequence[Verdict]]]
"""Asks a rewarder for its verdicts on a group."""


class StandIn:
    """The understudy of a judging rewarder."""

    def __init__(self, name: str, ask: Ask, *, agreement: float) -> None:
        """`agreement` in (0.5, 1): of the unseen answers that the judge accepts, and of those that it rejects (value
        below 0.5), at least this share must be judged alike. Both lower ends of 95 % Wilson intervals must be above
        it, so nothing is claimed of a kind that was rarely seen: 0.9 takes 35 of each without a single difference.
        `name` is the rewarder's, `ask` asks it and limits its own time."""
        if not 0.5 < agreement < 1:
            raise ValueError(f"stand_in = {agreement}: wanted an agreement between 0.5 and 1, or 0 for none")
        from sklearn.feature_extraction.text import HashingVectorizer
        from sklearn.linear_model import SGDClassifier

        self._name, self._ask, self._bound = name, ask, agreement
        self._features = HashingVectorizer(analyzer=features, n_features=FEATURES, norm="l2", alternate_sign=False)
        self._model: Any = SGDClassifier(loss="log_loss", alpha=1e-6, random_state=0)
        self._alike: dict[bool, deque[bool]] = {True: deque(maxlen=WINDOW), False: deque(maxlen=WINDOW)}
        self._seen: OrderedDict[bytes, None] = OrderedDict()
        self._groups = 0  # that it has learned from

    @property
    def agreement(self) -> float:
        """With the judge on unseen answers: the smaller of two lower ends, see above; 0 before there are any."""
        lows = [
            float(stats.binomtest(sum(found), len(found)).proportion_ci(0.95, method="wilson").low) if found else 0.0
            for found in self._alike.values()
        ]
        return min(lows)

    async def judge(self, group: Group) -> Sequence[Verdict]:
        """The judge's verdicts; the scorer's where the judge failed on every rollout and the scorer may answer.

        A group is never shared between the two: their values are not on one scale.
        """
        failure: Exception | None = None
        verdicts: Sequence[Verdict] = ()
        try:
            verdicts = await self._ask(group)
        except Exception as error:  # noqa: BLE001 - raised again where nobody stands in
            failure = error
        if failure is None and any(v.status not in FAILURES for v in verdicts):
            self._learn(group, verdicts)
            return verdicts
        if self.agreement <= self._bound:
            if failure:
                raise failure
            return verdicts
        return self._stand_in(group, str(failure) if failure else verdicts[0].cause)

    def _learn(self, group: Group, verdicts: Sequence[Verdict]) -> None:
        known = {}
        for rollout, verdict in zip(group.rollouts, verdicts, strict=False):
            if verdict.value is not None:
                known[rollout.text] = (_pair(group, rollout.text), verdict.value >= 0.5)
        fresh = {text: known[text] for text in known if self._is_new(known[text][0])}
        if not fresh:
            return
        rows = self._features.transform([pair for pair, _ in fresh.values()])
        accepted = [label for _, label in fresh.values()]
        if self._groups:
            for guess, label in zip(self._model.predict(rows), accepted, strict=True):
                self._alike[label].append(bool(guess) == label)
        self._model.partial_fit(rows, accepted, classes=[False, True])
        self._groups += 1

    def _is_new(self, pair: tuple[str, str]) -> bool:
        key = hashlib.blake2b("\0".join(pair).encode("utf-8", "surrogatepass"), digest_size=16).digest()
        new = key not in self._seen
        self._seen[key] = None
        self._seen.move_to_end(key)
        if len(self._seen) > SEEN:
            self._seen.popitem(last=False)
        return new

    def _stand_in(self, group: Group, why: str) -> list[Verdict]:
        began, agreement = time.monotonic(), self.agreement
        rows = self._features.transform([_pair(group, rollout.text) for rollout in group.rollouts])
        chances = self._model.predict_proba(rows)[:, 1]
        seconds = (time.monotonic() - began) / len(group.rollouts)
        return [
            replace(
                scored(self._name, float(chance >= 0.5), seconds, f"{CAUSE} ({why})"),
                version=f"{STAND_IN}@{self._groups}",  # its verdicts must not pass for the judge's
                parts={STAND_IN: 1.0, "p_accept": float(chance), "agreement": agreement},
            )
            for chance in chances
        ]


def _pair(group: Group, text: str) -> tuple[str, str]:
    return group.prompt.answer or "", text[-LONGEST:]


def features(pair: tuple[str, str]) -> Iterator[str]:
    """What the scorer sees of (reference, response): words and pairs of them, and how the response meets the reference.

    What is said of the meeting is repeated: it must outweigh single words of long responses.
    """
    reference, response = (text.casefold().strip() for text in pair)
    words = WORD.findall(response)
    yield from (f"w {word}" for word in words[-200:])
    yield from (f"b {a} {b}" for a, b in zip(words[-200:], words[-199:], strict=False))
    wanted, found = set(WORD.findall(reference)), set(words)
    numbers, references = NUMBER.findall(response), NUMBER.findall(reference)
    meeting = {
        "equal": reference == response,
        "inside": bool(reference) and reference in response,
        "ends": bool(reference) and response.rstrip(" .!").endswith(reference),
        "last number": bool(numbers and references) and float(numbers[-1]) == float(references[-1]),
        "shared": round(4 * len(wanted & found) / len(wanted)) if wanted else -1,
        "length": len(words).bit_length(),
    }
    for _ in range(1 + len(words) // 4):
        yield from (f"{name} {value}" for name, value in meeting.items())
