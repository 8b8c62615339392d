from __future__ import annotations

import asyncio
from typing import Any

import pytest

from rewarders.pattern import Pattern
from swarm.types import Status


def verdicts(group: Any, **options: Any) -> list[Any]:
    made = Pattern(**options)
    try:
        return asyncio.run(made.judge(group))
    finally:
        made.close()


def test_the_whole_text_or_a_part_must_match(make_group) -> None:
    group = make_group(["<think>\n</think>4", "so <think></think>", "4"])
    form = "(?s)<think>.*</think>.*"
    assert [v.value for v in verdicts(group, pattern=form)] == [1.0, 0.0, 0.0]
    assert [v.value for v in verdicts(group, pattern=form, how="search")] == [1.0, 1.0, 0.0]


def test_a_text_on_which_the_pattern_explodes_is_a_timeout_of_its_own(make_group) -> None:
    first, bomb, last = verdicts(make_group(["ab", "a" * 60, "aab"]), pattern="(a+)+b", timeout_s=6.0)
    assert (first.value, last.value) == (1.0, 1.0)
    assert bomb.status is Status.TIMEOUT


@pytest.mark.parametrize("options", [{"pattern": "("}, {"pattern": "a", "how": "match"}])
def test_what_is_no_pattern_is_refused(options) -> None:
    with pytest.raises(ValueError, match=r"pattern|how"):
        Pattern(**options)
