from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from rewarders.bleu import Bleu
from swarm.types import Status

REFERENCES = ["the cat is on the mat", "there is a cat on the mat"]


@pytest.fixture(scope="module")
def rewarder() -> Iterator[Bleu]:
    made = Bleu(timeout_s=30.0)
    yield made
    made.close()


def value(rewarder: Bleu, make_group: Any, text: str, references: Any) -> float | None:
    [verdict] = asyncio.run(rewarder.judge(make_group([text], task={"references": references})))
    return verdict.value


def slow_bleu(text: str, references: list[str]) -> float:
    """Papineni et al. 2002 for one text of at least four words that shares four in a row with a reference."""
    words, others = text.split(), [r.split() for r in references]

    def grams(sequence: list[str], n: int) -> Counter[tuple[str, ...]]:
        return Counter(tuple(sequence[i : i + n]) for i in range(len(sequence) - n + 1))

    logs = []
    for n in range(1, 5):
        most: Counter[tuple[str, ...]] = Counter()
        for other in others:
            most |= grams(other, n)
        found = grams(words, n)
        logs.append(math.log(sum((found & most).values()) / sum(found.values())))
    nearest = min((abs(len(o) - len(words)), len(o)) for o in others)[1]
    return min(1.0, math.exp(1 - nearest / len(words))) * math.exp(sum(logs) / 4)


@pytest.mark.parametrize("text", ["the cat is on the mat today", "there is a cat on the", "a cat is on the mat"])
def test_it_is_bleu(rewarder, make_group, text) -> None:
    assert value(rewarder, make_group, text, REFERENCES) == pytest.approx(slow_bleu(text, REFERENCES))


@pytest.mark.parametrize("text", ["the cat is on the mat", "cat", "713", "\u4f60\u597d"])
def test_a_reference_itself_has_the_highest_value(rewarder, make_group, text) -> None:
    assert value(rewarder, make_group, text, ["another", text]) == 1.0


def test_more_likeness_is_more_and_none_is_nothing(rewarder, make_group) -> None:
    texts = ["the cat is on the mat", "the cat sat on the mat", "the dog", "nothing here", ""]
    found = [value(rewarder, make_group, text, REFERENCES[0]) for text in texts]
    assert found == sorted(found, reverse=True)
    assert found[-2:] == [0.0, 0.0]


def test_the_answer_is_the_reference_where_there_are_no_others(rewarder, make_group) -> None:
    [verdict] = asyncio.run(rewarder.judge(make_group(["a b c d"], "a b c d")))
    assert verdict.value == 1.0


def test_a_column_of_a_table_may_be_an_array(rewarder, make_group) -> None:
    assert value(rewarder, make_group, "a b", np.array(["a b", ""], object)) == 1.0


@pytest.mark.parametrize("references", [None, "", [], [" "], 3])
def test_without_references_it_abstains(rewarder, make_group, references) -> None:
    [verdict] = asyncio.run(rewarder.judge(make_group(["a"], task={"references": references})))
    assert verdict.status is Status.ABSTAINED
