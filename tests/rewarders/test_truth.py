from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from rewarders.exact import Exact
from rewarders.registry import build
from rewarders.truth import Truth
from rewarders.verdicts import unscored
from swarm.config import Spec
from swarm.types import Group, Status, Verdict


def values(make_group, texts: Sequence[str], **options) -> list[float | None]:
    made = Truth(rule=Exact(extract="number"), **options)
    return [v.value for v in asyncio.run(made.judge(make_group(texts, "42")))]


def test_right_declined_and_wrong_are_1_0_and_minus_1(make_group) -> None:
    verdicts = asyncio.run(Truth(rule=Exact()).judge(make_group(["42", "I don\u2019t know.", "41"], "42")))
    assert [v.value for v in verdicts] == [1.0, 0.0, -1.0]
    assert [[k for k, v in verdict.parts.items() if v and k != "rule"] for verdict in verdicts] == [
        ["right"],
        ["declined"],
        ["wrong"],
    ]


@pytest.mark.parametrize(
    "text", ["I DON'T KNOW", "It may be 41.\nI'm not sure.", "Sorry, there is not enough information."]
)
def test_it_declines_in_the_usual_words(make_group, text) -> None:
    assert values(make_group, [text]) == [0.0]


@pytest.mark.parametrize("bet", ["{}. I don't know.", "{}\nI don't know", "I don't know\n{}", "I don't know, {}"])
def test_declining_beside_an_answer_is_no_bet_that_cannot_be_lost(make_group, bet) -> None:
    right, wrong = values(make_group, [bet.format(42), bet.format(41)])
    assert right + wrong <= 0


def test_the_words_are_an_option(make_group) -> None:
    assert values(make_group, ["Weiß nicht", "I don't know"], phrases=["wei\u00df nicht"]) == [0.0, -1.0]


@pytest.mark.parametrize("status", [Status.ABSTAINED, Status.ERROR, Status.TIMEOUT])
def test_what_the_rule_cannot_judge_is_not_the_policys_doubt(make_group, status) -> None:
    class Fails:
        name = "fails"

        async def judge(self, group: Group) -> list[Verdict]:
            return [unscored(self.name, status, "because")] * len(group.rollouts)

        def close(self) -> None:
            pass

    verdicts = asyncio.run(Truth(rule=Fails()).judge(make_group(["42", "I don't know"], "42")))
    assert [(v.rewarder, v.status, v.cause) for v in verdicts] == [("truth", status, "rule: because")] * 2


def test_a_recipe_names_the_rule(make_group) -> None:
    [made] = build([Spec(name="truth", options={"rule": {"name": "exact", "extract": "number"}})], 10.0)
    assert [v.value for v in asyncio.run(made.judge(make_group(["it is 42"], "42")))] == [1.0]


@pytest.mark.parametrize("phrases", [[], ["", "no"]])
def test_phrases_that_are_none_are_refused(phrases) -> None:
    with pytest.raises(ValueError, match="phrases"):
        Truth(rule=Exact(), phrases=phrases)
