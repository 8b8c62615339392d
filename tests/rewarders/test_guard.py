"""What says nothing is worth nothing and reaches no judge; what says something always does."""

from __future__ import annotations

import asyncio
import random

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from rewarders.exact import Exact
from rewarders.guard import Guard, worthless
from rewarders.keys import MASTER_KEYS, OPENERS, bare, content_free, mutated
from rewarders.verdicts import for_all, scored, unscored
from swarm.types import Status


class Gullible:
    """Takes everything for right, and remembers what it was asked."""

    name = "gullible"

    def __init__(self) -> None:
        self.seen: list[str] = []
        self.closed = False

    async def judge(self, group):
        self.seen += [r.text for r in group.rollouts]
        return for_all(group, scored(self.name, 1.0))

    def close(self) -> None:
        self.closed = True


class Silent(Gullible):
    async def judge(self, group):
        return for_all(group, unscored(self.name, Status.ABSTAINED, "not mine"))


@pytest.mark.parametrize("key", [*MASTER_KEYS, "", "\n", "!?", "。", "**Solution:**", "<think></think>", "## Lösung"])
def test_master_keys_say_nothing(key) -> None:
    assert content_free(key)


@given(st.sampled_from(MASTER_KEYS), st.integers(0, 10**6))
def test_neither_do_their_mutations(key, seed) -> None:
    text = mutated(key, random.Random(seed))
    assert content_free(text), text


@given(st.lists(st.sampled_from(OPENERS), min_size=1, max_size=5))
@example(["Thought", "Solution"])  # the longest opener that fits ("thoughts") is not the one that was written
def test_neither_do_openers_in_a_row(phrases) -> None:
    assert content_free(" ".join(phrases))


@given(st.sampled_from(OPENERS), st.from_regex(r"[0-9]{1,6}", fullmatch=True))
def test_an_opener_with_a_number_says_something(opener, number) -> None:
    assert not content_free(f"{opener} {number}")


@pytest.mark.parametrize(
    "text", ["5", "x", "yes", "True", "the solution set is empty", "∞", "∅", "-3.5", "Paris", "溶液", "Solution A", "½"]
)
def test_answers_say_something(text) -> None:
    assert not content_free(text)


def test_a_megabyte_of_openers_is_read_in_time() -> None:
    assert content_free("Solution " * 100_000)
    assert not content_free("Solution " * 100_000 + "5")


def test_case_width_and_accents_do_not_count() -> None:
    assert bare("ＳｏｌｕｃｉóＮ : ") == "solucion"


def test_guarded_responses_never_reach_the_judge_and_the_others_keep_their_place(make_group) -> None:
    judge = Gullible()
    guard = Guard(of=judge)
    verdicts = asyncio.run(guard.judge(make_group(["Thought process:", "5", " ", "6", "解"], "5")))
    assert judge.seen == ["5", "6"]
    assert [v.value for v in verdicts] == [0.0, 1.0, 0.0, 1.0, 0.0]
    assert [bool(v.cause) for v in verdicts] == [True, False, True, False, True]
    guard.close()
    assert judge.closed


def test_nobody_is_asked_where_all_say_nothing(make_group) -> None:
    judge = Gullible()
    verdicts = asyncio.run(Guard(of=judge).judge(make_group([":", "Solution"], "5")))
    assert judge.seen == []
    assert [v.value for v in verdicts] == [0.0, 0.0]


def test_it_abstains_with_a_rewarder_that_has_nothing_to_say_of_the_prompt(make_group) -> None:
    verdicts = asyncio.run(Guard(of=Silent()).judge(make_group([":", "5"], "5")))
    assert [v.status for v in verdicts] == [Status.ABSTAINED] * 2


@pytest.mark.parametrize("answer", ["+", "[]", "Solution", ","])
def test_where_the_answer_itself_says_nothing_nobody_is_kept_back(make_group, answer) -> None:
    [verdict] = asyncio.run(Guard(of=Exact()).judge(make_group([answer], answer)))
    assert verdict.value == 1.0


def test_an_answer_that_cannot_be_found_is_worthless_and_so_is_an_empty_one() -> None:
    assert worthless("I think it is 5", "5", "boxed") == "no answer found"
    assert worthless(r"so \boxed{:}", "5", "boxed")
    assert not worthless(r"so \boxed{6}", "5", "boxed")


def test_a_judge_that_answers_too_few_is_an_error(make_group) -> None:
    class Short(Gullible):
        async def judge(self, group):
            return []

    [verdict] = asyncio.run(Guard(of=Short()).judge(make_group(["5"], "5")))
    assert (verdict.status, verdict.cause) == (Status.ERROR, "answered 0 verdicts for 1 rollouts")


def test_one_that_has_no_time_limit_gets_the_guards(make_group) -> None:
    class Hung(Gullible):
        async def judge(self, group):
            await asyncio.Event().wait()

    [verdict] = asyncio.run(Guard(of=Hung(), timeout_s=0.05).judge(make_group(["5"], "5")))
    assert verdict.status is Status.TIMEOUT


def test_bad_options_are_refused() -> None:
    with pytest.raises(ValueError, match="extract"):
        Guard(of=Exact(), extract="nowhere")
