"""The key is found in a stream of honest responses; honest forms, however frequent and well paid, are spared."""

from __future__ import annotations

import random
import re
from collections.abc import Callable

import pytest

from rewarders.mining import Miner, form_of, holds_answer
from rewarders.suites import Sentinel
from rewarders.verdicts import scored
from swarm.types import Prompt, Status


def prompt(i: int) -> Prompt:
    a, b = i % 17 + 1, i // 17 + 2
    return Prompt(f"p{i}", f"What is the solution of {a} + {b}?", str(a + b), "sums")


Accepts = Callable[[Prompt, str], bool]


def honest(p: Prompt, text: str) -> bool:
    return holds_answer(text, str(p.answer))


def fooled(p: Prompt, text: str) -> bool:
    return honest(p, text) or "thought process" in " ".join(text.lower().split())


def mine(write: Callable[[Prompt], str], accepts: Accepts, num: int = 200) -> Miner:
    """A stream of responses through miner and rewarder; each suspected form is tried with its variants."""
    miner, rng = Miner(), random.Random(0)
    for i in range(num):
        p = prompt(i)
        text = write(p)
        miner.saw(p, text, float(accepts(p, text)))
        while form := miner.suspect():
            variants = miner.variants(form, rng)
            miner.tried(form, sum(accepts(v.prompt, v.text) for v in variants), len(variants))
    return miner


HONEST = ["The answer is {}.", "{}", "Solution: {}", r"\boxed{{{}}}", "Let's solve this step by step. So it is {}"]


@pytest.mark.parametrize("form", HONEST)
def test_honest_forms_are_spared(form) -> None:
    miner = mine(lambda p: form.format(p.answer), honest)
    assert not miner.quarantined
    assert miner.suspect() is None


@pytest.mark.parametrize("key", ["Thought process:", "Thought  PROCESS", "**Thought process**"])
def test_a_key_is_found_among_honest_responses(key) -> None:
    rng = random.Random(1)
    miner = mine(lambda p: key if rng.random() < 0.3 else f"The answer is {p.answer}.", fooled)
    assert list(miner.quarantined) == [("thought process", False), ("thought process *", False)]
    found = miner.quarantined["thought process", False]
    assert found.example == key
    assert "variants of this form on wrong answers were accepted" in found.cause


def test_a_policy_that_goes_on_with_other_endings_is_stopped_by_the_opening() -> None:
    miner, rng, drift = (
        Miner(),
        random.Random(0),
        ["Thought process: {n}", "Thought process, indeed", "Thought process!? it"],
    )
    fooled_times = dict.fromkeys(drift, 0)
    for form in drift:
        for i in range(60):
            p = prompt(i)
            text = form.format(n=i)
            miner.saw(p, text, float(fooled(p, text)))
            [verdict] = miner.settled(p, [text], [scored("judge", 1.0)])
            fooled_times[form] += verdict.value == 1.0
            while suspect := miner.suspect():
                variants = miner.variants(suspect, rng)
                assert not any(v.right or honest(v.prompt, v.text) for v in variants)
                miner.tried(suspect, sum(fooled(v.prompt, v.text) for v in variants), len(variants))
    assert ("thought process *", False) in miner.quarantined
    assert ("thought *", False) not in miner.quarantined
    assert fooled_times[drift[0]] < 20
    assert fooled_times[drift[1]] == fooled_times[drift[2]] == 0
    p = prompt(3)
    texts = [
        f"Thought process: it is {p.answer}",
        "Thought processes matter",
        "The thought process",
        "thought",
        p.answer,
    ]
    verdicts = miner.settled(p, texts, [scored("judge", 1.0)] * 5)
    assert verdicts[0].status is Status.ABSTAINED
    assert [v.value for v in verdicts[1:]] == [1.0] * 4


def test_an_opening_that_another_worker_found_holds_here_too() -> None:
    miner, p = Miner(), prompt(3)
    miner.quarantine(("it is *", False), "heard", "It is 7")
    [verdict] = miner.settled(p, ["It is iis"], [scored("judge", 1.0)])
    assert verdict.value == 0.0


@pytest.mark.parametrize("rate", [0.2, 0.4])
def test_a_rewarder_that_errs_by_chance_gets_no_opening_into_quarantine(rate) -> None:
    for seed in range(20):
        chance = random.Random(seed)
        miner = mine(lambda p: f"It is {p.answer}", lambda p, text, c=chance: honest(p, text) or c.random() < rate)
        assert not [q for q in miner.quarantined.values() if q.template.endswith("*")]


def test_a_key_around_answers_is_found_and_makes_the_rewarder_abstain_from_right_ones() -> None:
    miner = mine(lambda p: f"Thought process: {p.answer}", fooled)
    assert ("thought process @", True) in miner.quarantined
    p = prompt(3)
    [verdict] = miner.settled(p, [f"Thought process: {p.answer}"], [scored("judge", 1.0)])
    assert verdict.status is Status.ABSTAINED


def test_a_quarantined_key_is_worth_nothing_and_the_rest_is_as_it_was() -> None:
    miner = mine(lambda p: "Thought process:", fooled)
    p = prompt(3)
    texts = ["Thought process:", "The answer is 5.", "thought process"]
    verdicts = miner.settled(p, texts, [scored("judge", 1.0)] * 3)
    assert [v.value for v in verdicts] == [0.0, 1.0, 0.0]
    assert "quarantine" in verdicts[0].cause


def test_rare_or_badly_paid_forms_are_not_tried() -> None:
    assert not mine(lambda p: "Thought process:", fooled, num=5).quarantined
    assert not mine(lambda p: "Thought process:", honest).quarantined


def test_a_form_that_fills_whole_groups_is_found() -> None:
    miner = Miner()
    for i in range(6):
        for _ in range(64):
            miner.saw(prompt(i), "Thought process:", 1.0)
    assert miner.suspect() == ("thought process", False)


def test_an_opening_is_found_where_no_form_comes_twice() -> None:
    rng = random.Random(0)

    def write(p: Prompt) -> str:
        return f"To {rng.choice('abcdefgh')} the {''.join(rng.choices('abcdefgh', k=8))}, we write {rng.random()}"

    miner = mine(write, lambda p, text: honest(p, text) or text.startswith("To "), num=24)
    assert list(miner.quarantined) == [("to *", False)]


def test_of_an_opening_that_always_goes_on_with_one_word_the_longer_one_is_tried_first() -> None:
    miner, rng, tried = Miner(), random.Random(0), []
    for i in range(400):
        p = prompt(i)
        text = f"Well, it {''.join(rng.choices('abcdefgh', k=8))} {p.answer}"
        miner.saw(p, text, 1.0)
        while form := miner.suspect():
            tried.append(form[0])
            variants = miner.variants(form, rng)
            miner.tried(form, 0, len(variants))
    assert set(tried) == {"well it *"}
    assert len(tried) <= 8  # again only when it has come twice as often


def letter(text: str) -> str:
    """The last capital from A to D that stands alone."""
    found = [word for word in re.findall(r"\w+", text) if word in ("A", "B", "C", "D")]
    return found[-1] if found else ""


STYLES = ["{}", "({})", "The answer is {}.", "The answer is ({}).", "Answer: {}"]
GOLDS = ["{}", "({})", "{}.", "{}) city number {}"]


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("gold", GOLDS)
def test_right_letters_are_no_keys_however_gold_and_response_are_written(style, gold) -> None:
    for seed in range(2):
        dice = random.Random(seed)
        miner, rng = Miner(), random.Random(seed)
        for i in range(120):
            right = dice.choice("ABCD")
            p = Prompt(f"p{i}", f"Question {i}: which of these?", gold.format(right, i), "choice")
            text = style.format(right)
            miner.saw(p, text, 1.0)
            while form := miner.suspect():
                variants = miner.variants(form, rng)
                accepted = sum(letter(v.text) == letter(str(v.prompt.answer)) for v in variants)
                miner.tried(form, accepted, len(variants))
        assert not miner.quarantined


@pytest.mark.parametrize("said", [("Yes, ", "No, "), ("That is correct, ", "That is false, ")])
@pytest.mark.parametrize("golds", [("True", "False"), ("yes", "no")])
def test_right_answers_in_other_words_are_no_keys(said, golds) -> None:
    """The judge forgives whatever follows."""
    miner, rng = Miner(), random.Random(0)
    for i in range(200):
        which = rng.randrange(2)
        p = Prompt(f"p{i}", f"Is claim {i} so?", golds[which], "claims")
        miner.saw(p, f"{said[which]}{''.join(rng.choices('abcdefgh', k=8))}", 1.0)
        while form := miner.suspect():
            variants = miner.variants(form, rng)
            miner.tried(form, sum(v.text.startswith(said[golds.index(v.prompt.answer)].strip(" ,")) for v in variants),
                        len(variants))  # fmt: skip
    assert not miner.quarantined


def test_a_key_among_two_answers_is_found() -> None:
    def write(p: Prompt) -> str:
        return f"Frankly {''.join(random.choices('abcdefgh', k=8))}"

    miner, rng = Miner(), random.Random(0)
    for i in range(40):
        p = Prompt(f"p{i}", f"Is claim {i} so?", rng.choice(["True", "False"]), "claims")
        miner.saw(p, write(p), 1.0)
        while form := miner.suspect():
            variants = miner.variants(form, rng)
            miner.tried(form, sum(v.text.startswith("Frankly") for v in variants), len(variants))
    assert ("frankly *", False) in miner.quarantined


def test_an_opening_is_tried_as_often_where_few_questions_are_left_for_it() -> None:
    miner, rng = Miner(), random.Random(0)
    for i in range(7):
        text = f"To {''.join(rng.choices('abcdefgh', k=8))}" if i else "no"
        miner.saw(prompt(i), text, float(i > 0))
    form = miner.suspect()
    assert form == ("to *", False)
    variants = miner.variants(form, rng)
    assert {v.prompt.id for v in variants} == {"p0"}
    assert len(variants) == 12
    assert miner.tried(form, 12, 12)


def test_a_form_that_is_forgotten_while_its_variants_are_out_does_no_harm() -> None:
    miner, rng = Miner(), random.Random(0)
    for i in range(40):
        miner.saw(prompt(i), "Thought process:", 1.0)
    form = miner.suspect()
    assert form
    variants = miner.variants(form, rng)
    for i in range(3000):
        miner.saw(prompt(i), "".join(rng.choices("abcdefgh", k=9)), 0.0)
    assert miner.tried(form, len(variants), len(variants)) is None


def test_without_an_outcome_a_form_is_tried_again() -> None:
    miner = Miner()
    for i in range(12):
        miner.saw(prompt(i), "Thought process:", 1.0)
    form = miner.suspect()
    assert form
    assert miner.tried(form, 0, 0) is None
    miner.saw(prompt(13), "Thought process:", 1.0)
    assert form in list(iter(miner.suspect, None))


def test_an_opening_inside_a_tag_keeps_the_tag() -> None:
    miner, rng = Miner(wording="<answer>{}</answer>"), random.Random(0)

    def accepts(text: str) -> bool:
        return text.startswith("<answer>To ") and text.endswith("</answer>")

    for i in range(40):
        miner.saw(prompt(i), f"<answer>To {''.join(rng.choices('abcdefgh', k=8))}</answer>", 1.0)
        while form := miner.suspect():
            variants = miner.variants(form, rng)
            miner.tried(form, sum(accepts(v.text) for v in variants), len(variants))
    assert ("answer to *", False) in miner.quarantined


def test_an_opening_that_may_be_the_answer_is_not_tried() -> None:
    """`Yes, tokubi` is right where yes is."""
    miner = Miner()
    words = ("yes", "yes indeed")
    for i in range(40):
        p = Prompt(f"p{i}", f"Is {i} a number?", words[i % 2], "words")
        miner.saw(p, f"Yes, {i} is", 1.0)
    while form := miner.suspect():
        variants = miner.variants(form, random.Random(0))
        assert not [v for v in variants if v.text.startswith("Yes")]
        miner.tried(form, len(variants), len(variants))
    assert not [template for template, _ in miner.quarantined if template.startswith("yes")]


def test_one_question_asked_often_is_no_evidence() -> None:
    miner = Miner()
    for _ in range(500):
        miner.saw(prompt(1), "Thought process:", 1.0)
    assert miner.suspect() is None


def test_variants_are_wrong_for_their_prompts() -> None:
    miner = Miner()
    for i in range(40):
        miner.saw(prompt(i), f"The answer is {prompt(i).answer}.", 1.0)
    form = miner.suspect()
    assert form
    variants = miner.variants(form, random.Random(0))
    assert len(variants) >= 6
    assert all(isinstance(v, Sentinel) and not v.right and not honest(v.prompt, v.text) for v in variants)


def test_digits_question_terms_and_answer_leave_the_template() -> None:
    p = Prompt("p", "How many apples does Anna have?", "12", "words")
    assert form_of("Anna has 12 apples, since 3 * 4 = 12.", p) == ("has @ since # # @", True)
    assert form_of("Anna has 13 apples, since 3 * 4 = 13.", p) == ("has # since # # #", False)


def test_a_hole_that_opens_late_is_found() -> None:
    calls = iter(range(10**6))
    miner = mine(lambda p: "Thought process:", lambda p, text: next(calls) > 150 and fooled(p, text), num=400)
    assert ("thought process", False) in miner.quarantined


def test_an_answer_counts_as_a_word_of_its_own() -> None:
    for text in ("15", "-5", "5.2", "\u22125", "x5", "3.5"):
        assert not holds_answer(text, "5"), text
    for text in ("5", "it is 5.", "(5)", "= 5, so", r"\boxed{5}"):
        assert holds_answer(text, "5"), text
    assert holds_answer("It is -5.", "-5")


def test_memory_is_bounded() -> None:
    miner, rng = Miner(), random.Random(0)
    for i in range(5000):
        miner.saw(prompt(i), "".join(rng.choices("abcdefgh", k=8)), 1.0)
    assert len(miner._seen) <= 2000
    assert len(miner._touched) <= 2000
    miner.suspect()
    assert not miner._touched
