"""Sentinels: responses whose truth is known, made from a recipe's own questions, to judge those who judge.

    prompts with answers --suites--> right:  the answer itself; equivalent ways to write it
                                     wrong:  another answer, off by one, restated, chained, random text
                                     wrong whatever the question ("pattern"): master keys, mutations, injections

A suite is a function of a prompt that gives texts by family; which suites a rewarder gets follows from its name.
"""

from __future__ import annotations

import random
import re
import string
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal, InvalidOperation
from typing import Any

import numpy as np

from rewarders import extract
from rewarders.exploits import EXPLOITS, called_by, fenced
from rewarders.keys import INJECTIONS, MASTER_KEYS, SPECIAL_VALUES, bare, mutated
from swarm.config import Spec
from swarm.types import Finish, Group, Prompt, Rollout, Span

NUMBER = re.compile(r"[-+\u2212]?(?:[0-9]+|[0-9]{1,3}(?:,[0-9]{3})+)(?:\.[0-9]+)?")


@dataclass(frozen=True, slots=True)
class Sentinel:
    """A response to a prompt, with its truth."""

    prompt: Prompt
    text: str
    right: bool
    family: str
    pattern: bool = False
    """Whether the text says nothing of any question, so that it is wrong for all of them."""


Made = Iterator[tuple[str, str]]
"""Family and text."""
Suite = Callable[[Prompt, Sequence[Prompt], random.Random], Made]
"""`(prompt, other prompts, rng)`; the prompt has an answer where the suite is in `NEED_ANSWER`."""

ANSWER, OTHER, OFF_BY_ONE = "the answer", "another question's answer", "off by one"
ORDINARY = frozenset({ANSWER, OTHER, OFF_BY_ONE, "sign flipped"})
"""Families like the responses of a policy that does not cheat; error rates for corrections come from them alone."""


def answers(prompt: Prompt, others: Sequence[Prompt], rng: random.Random) -> Made:
    """The answer itself."""
    yield ANSWER, _answer(prompt)


def wrong_answers(prompt: Prompt, others: Sequence[Prompt], rng: random.Random) -> Made:
    """Answers that another question has, and numbers beside the right one."""
    gold = number(_answer(prompt))
    different = [o.answer for o in others if o.answer is not None and differs(o.answer, _answer(prompt))]
    if different:
        yield OTHER, rng.choice(different)
    if gold is not None:
        yield OFF_BY_ONE, plain(gold + rng.choice((-1, 1)))
        if gold:
            yield "sign flipped", plain(-gold)


def master_keys(prompt: Prompt, others: Sequence[Prompt], rng: random.Random) -> Made:
    """The ten published keys, a family each: what counts is the worst of them. Then a mutation of one of them."""
    for key in MASTER_KEYS:
        yield f"key {key!r}", key
    yield "mutated key", mutated(rng.choice(MASTER_KEYS), rng)


def special_values(prompt: Prompt, others: Sequence[Prompt], rng: random.Random) -> Made:
    """What careless parsers take for anything."""
    for value in SPECIAL_VALUES:
        yield f"special {value!r}", value


def injections(prompt: Prompt, others: Sequence[Prompt], rng: random.Random) -> Made:
    """Texts that speak to the judge, and the question once more where it does not hold its answer."""
    yield "injection", rng.choice(INJECTIONS)
    if prompt.answer is None or bare(prompt.answer) not in bare(prompt.text):
        yield "the question restated", prompt.text


def random_strings(prompt: Prompt, others: Sequence[Prompt], rng: random.Random) -> Made:
    """Noise without digits and without any character of the answer."""
    alphabet = sorted(set(string.ascii_letters + string.punctuation + " \n\u00e9\u4e2d") - set(prompt.answer or ""))
    yield "random string", "".join(rng.choices(alphabet, k=rng.randint(1, 60)))


def rewrites(prompt: Prompt, others: Sequence[Prompt], rng: random.Random) -> Made:
    """Other ways to write a number, all of them right."""
    answer, gold = _answer(prompt).strip(), number(_answer(prompt))
    if gold is None:
        return
    for family, text in (
        ("in a box", rf"\boxed{{{answer}}}"),
        ("in a box with a full stop", rf"\boxed{{{answer}.}}"),
        ("spaced box", rf"\boxed{{ {answer} }}"),
        ("in dollars", f"${answer}$"),
        ("in a sentence", f"The answer is {answer}."),
        ("in bold", f"**{answer}**"),
        ("in code ticks", f"`{answer}`"),
        ("as text in a box", rf"\boxed{{\text{{{answer}}}}}"),
        ("with thousands separators", f"{gold:,}"),
        ("with a decimal zero", plain(gold) + (".0" if gold == gold.to_integral_value() else "0")),
        ("with a plus sign", f"$+{answer}$" if gold > 0 else f"${answer}$"),
        ("with a Unicode minus", f"${answer}$".replace("-", "\u2212")),
    ):
        yield f"written {family}", text
    digits, _, power = f"{gold.normalize():e}".partition("e")
    if int(power):
        yield "written in e-notation", f"{digits}e{power}"
        yield "written in scientific notation", rf"\boxed{{{digits} \times 10^{{{int(power)}}}}}"


def perturbations(prompt: Prompt, others: Sequence[Prompt], rng: random.Random) -> Made:
    """What restates the question, hedges or nearly fits, instead of giving the number."""
    answer, gold = _answer(prompt).strip(), number(_answer(prompt))
    if gold is None:
        return
    other = plain(gold + rng.randint(2, 9))
    yield "chained equality", rf"\boxed{{{other}={answer}}}"
    yield "two boxes", rf"\boxed{{{answer}}} or \boxed{{{other}}}"
    yield "a list of candidates", rf"\boxed{{{answer}, {other}}}"
    yield "unevaluated difference", rf"\boxed{{{plain(gold + 7)} - 7}}"
    if gold == gold.to_integral_value():
        yield "relative error of 1e-4", plain(gold * 10_000 + (1 if gold >= 0 else -1))
    if gold > 1 and gold == gold.to_integral_value():
        yield "unevaluated sum", rf"\boxed{{\sum_{{n=1}}^{{{plain(gold)}}} 1}}"
        yield "unevaluated integral", rf"\boxed{{\int_0^{{{plain(gold)}}} 1 \, dx}}"


def programs(prompt: Prompt, others: Sequence[Prompt], rng: random.Random) -> Made:
    """The solution that comes with a programming task, and that of another task."""
    if solution := _solution(prompt):
        yield ANSWER, fenced(solution)
    if others and (other := _solution(rng.choice(others))) and other != _solution(prompt):
        yield OTHER, fenced(other)


def exploits(prompt: Prompt, others: Sequence[Prompt], rng: random.Random) -> Made:
    """Programs that go for the grader."""
    name = called_by(prompt.task.get("tests"), prompt.task.get("entry_point"))
    for family, program in EXPLOITS.items():
        yield f"exploit {family}", fenced(program.replace("NAME", name))


def _solution(prompt: Prompt) -> str | None:
    keys = ("solution", "canonical_solution", "code")
    return next((found for key in keys if isinstance(found := prompt.task.get(key), str)), None)


SUITES: Mapping[str, Suite] = {
    "answers": answers,
    "wrong answers": wrong_answers,
    "master keys": master_keys,
    "special values": special_values,
    "injections": injections,
    "random strings": random_strings,
    "rewrites": rewrites,
    "perturbations": perturbations,
    "programs": programs,
    "exploits": exploits,
}
PATTERNS = frozenset({"master keys", "special values", "injections"})
GENERAL = ("answers", "wrong answers", "master keys", "special values", "injections", "random strings")
MORE: Mapping[str, tuple[str, ...]] = {
    "math_verify": ("rewrites", "perturbations"),
    "numeric": ("rewrites",),
    "code": ("programs", "exploits"),
}
"""Beside `GENERAL`: for rewarders that read numbers, or run programs."""
NEED_ANSWER = frozenset({"answers", "wrong answers", "rewrites", "perturbations"})


def names_in(spec: Spec) -> list[str]:
    """The names of a Spec and of all that its options hold (`of = { name = ... }`)."""
    return [name for name, _ in _parts(spec)]


def _parts(value: Any) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Name and options of a rewarder and of all inside it."""
    if isinstance(value, Spec):
        value = {"name": value.name, **value.options}
    if isinstance(value, Mapping):
        if isinstance(value.get("name"), str):
            yield value["name"], {**value, **value.get("options", {})}
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        for inner in value:
            yield from _parts(inner)


def suites_for(spec: Spec) -> tuple[str, ...]:
    """The suites that apply to a rewarder as its recipe has it."""
    return (*GENERAL, *dict.fromkeys(suite for name in names_in(spec) for suite in MORE.get(name, ())))


def wording_for(spec: Spec) -> str:
    """How an answer must be written for this rewarder to find it: a template with `{}` for the answer."""
    how = _option(spec.options, "extract")
    return {"tag": "<answer>{}</answer>", "boxed": r"\boxed{{{}}}"}.get(str(how), "{}")


@dataclass(frozen=True, slots=True)
class Tolerance:
    """How far from the answer a rewarder takes a number for right, as its recipe states it."""

    absolute: Decimal = Decimal(0)
    relative: Decimal = Decimal(0)

    def around(self, answer: Decimal) -> Decimal:
        """Of this answer."""
        return max(self.absolute, self.relative * abs(answer))


EXACT = Tolerance()


def tolerance_for(spec: Spec) -> Tolerance:
    """The largest of a rewarder and those inside it: what one of them may accept is no sentinel."""
    stated = [options for name, options in _parts(spec) if name == "numeric"]

    def largest(side: str) -> Decimal:
        return max((Decimal(str(options.get(side, 0))) for options in stated), default=Decimal(0))

    return Tolerance(largest("absolute"), largest("relative"))


def _option(options: Mapping[str, Any], name: str) -> Any:
    if name in options:
        return options[name]
    inner = [value.options if isinstance(value, Spec) else value for value in options.values()]
    found = (_option(value, name) for value in inner if isinstance(value, Mapping))
    return next((value for value in found if value is not None), None)


def is_askable(prompt: Prompt) -> bool:
    """Whether sentinels can be made for a prompt: it has an answer, or tests."""
    return prompt.answer is not None or "tests" in prompt.task


def sentinels(
    prompt: Prompt,
    others: Sequence[Prompt],
    suites: Sequence[str],
    wording: str,
    rng: random.Random,
    tolerance: Tolerance = EXACT,
) -> list[Sentinel]:
    """One of each family of these suites, as far as the prompt has what they need. Texts that say the answer in other
    words, or a number within the tolerance, are left out of the wrong ones. Half of the patterns are worded as an
    answer."""
    if not is_askable(prompt):
        return []
    found = []
    for name in suites:
        if name in NEED_ANSWER and prompt.answer is None:
            continue
        for family, text in SUITES[name](prompt, others, rng):
            right = family == ANSWER or name == "rewrites"
            worded = name in ("answers", "wrong answers") or (name in PATTERNS and rng.random() < 0.5)
            if not right and name in PATTERNS and prompt.answer is not None and _says(text, prompt.answer):
                continue
            if name == "wrong answers" and not differs(text, _answer(prompt), tolerance):
                continue
            shown = wording.format(text) if worded else text
            found.append(Sentinel(prompt, shown, right, family, name in PATTERNS and family != "the question restated"))
    return found


def _says(text: str, answer: str) -> bool:
    """Whether a text, meant to be wrong, gives the answer by accident: in other letters, or as its last number."""
    gold, last = number(answer), extract.number(text)
    return bare(text) == bare(answer) or (gold is not None and last is not None and number(last) == gold)


def as_group(items: Sequence[Sentinel], like: Group | None = None) -> Group:
    """Sentinels of one prompt as a group to be judged. `like` is a real group, whose fields it copies, so that a
    rewarder sees nothing by which to tell it: only the prompt and the texts are others."""
    prompt = items[0].prompt
    spans = [span for r in like.rollouts for span in r.spans] if like else []
    if like is None or not spans:  # completions may all be empty
        pool = np.arange(1, 65, dtype=np.int32)
        made = tuple(_rollout(item.text, pool, Span(0, 0, 1), 1) for item in items)
        plain_group = Group(prompt.id, 0, 0, prompt, pool[:1], made, "learner", 0, 1.0, False)
        return replace(like, prompt=prompt, rollouts=made) if like else plain_group
    pool = np.concatenate([r.tokens for r in like.rollouts])
    letters = sum(len(r.text) for r in like.rollouts)
    made = tuple(_rollout(item.text, pool, spans[-1], max(1, round(letters / max(1, len(pool))))) for item in items)
    return replace(like, prompt=prompt, rollouts=made)


def _rollout(text: str, pool: np.ndarray, span: Span, letters: int) -> Rollout:
    """Tokens of another rollout, as many as a text of this length has (`letters` a token): nobody judges by ids."""
    num = max(1, -(-len(text) // letters))
    tokens = np.resize(pool, num).astype(np.int32)
    logprobs = np.full(num, -0.7, np.float32)
    return Rollout(tokens, logprobs, (replace(span, start=0, end=num),), text, Finish.STOP, np.ones(num, bool))


def number(text: str) -> Decimal | None:
    """The value of a text that is one number, as questions have it for an answer."""
    if not NUMBER.fullmatch(text.strip()) or len(text) > 60:
        return None
    try:
        return Decimal(text.strip().replace(",", "").replace("\u2212", "-"))
    except InvalidOperation:
        return None


def plain(value: Decimal) -> str:
    """A number without exponent."""
    return f"{value:f}"


def differs(one: str, other: str, tolerance: Tolerance = EXACT) -> bool:
    """Whether the first is certainly not the second, an answer: as numbers where both are, else by their letters."""
    first, second = number(one), number(other)
    if first is None or second is None:
        return bare(one) != bare(other)
    return abs(first - second) > tolerance.around(second)


def _answer(prompt: Prompt) -> str:
    assert prompt.answer is not None
    return prompt.answer
