from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rewarders.length import SHAPES, Length


@pytest.mark.parametrize(
    ("options", "values"),
    [
        ({"unit": "characters", "most": 4}, [1.0, 0.5, 0.0, 0.0]),
        ({"unit": "characters", "most": 4, "shape": "longer"}, [0.0, 0.5, 1.0, 1.0]),
        ({"unit": "characters", "most": 4, "shape": "within"}, [1.0, 1.0, 1.0, 0.0]),
        ({"most": 4}, [0.5] * 4),  # these have two tokens each
    ],
)
def test_the_count_is_shaped_as_the_recipe_says(make_group, options, values) -> None:
    group = make_group(["", "ab", "abcd", "abcde"])
    verdicts = asyncio.run(Length(**options).judge(group))
    assert [v.value for v in verdicts] == values
    unit = options.get("unit", "tokens")
    counts = [float(len(r.tokens) if unit == "tokens" else len(r.text)) for r in group.rollouts]
    assert [dict(v.parts) for v in verdicts] == [{unit: count} for count in counts]


@given(st.integers(0, 10**6), st.integers(1, 10**6), st.sampled_from(sorted(SHAPES)))
def test_every_shape_stays_in_0_to_1(count, most, shape) -> None:
    assert 0 <= SHAPES[shape](count, most) <= 1


@pytest.mark.parametrize("options", [{"most": 0}, {"most": 4, "shape": "log"}, {"most": 4, "unit": "words"}])
def test_bad_options_are_refused(options) -> None:
    with pytest.raises(ValueError, match="wanted"):
        Length(**options)
