from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import pytest

from rewarders.json_schema import JsonSchema
from swarm.types import Status

SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "number", "minimum": 0}},
    "required": ["name"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def rewarder() -> Iterator[JsonSchema]:
    made = JsonSchema(timeout_s=30.0)
    yield made
    made.close()


def judge(rewarder: JsonSchema, group: Any) -> list[Any]:
    return asyncio.run(rewarder.judge(group))


@pytest.mark.parametrize(
    ("text", "value", "cause"),
    [
        ('{"name": "x", "age": 3}', 1.0, ""),
        ('Here:\n```json\n{"name": "x"}\n```\nDone.', 1.0, ""),
        ('```{"name": "x"}```', 1.0, ""),
        ('{"age": 3}', 0.0, "required"),
        ('{"name": "x", "age": -1}', 0.0, "$.age does not meet 'minimum'"),
        ('{"name": "x", "more": 1}', 0.0, "additionalProperties"),
        ('{"name": "x", "age": NaN}', 0.0, "NaN is not JSON"),
        ('{"name": "x", "age": Infinity}', 0.0, "Infinity is not JSON"),
        ('{"name": "x", "age": 1e999}', 0.0, "not finite"),
        ('{"name": "x", "age": 1' + "0" * 400 + "}", 0.0, "not finite"),
        ('{"name": "x", "name": "y"}', 0.0, "twice"),
        ('{"name": "x"', 0.0, "not JSON"),
        ("[" * 100_000, 0.0, "not JSON"),
        ("", 0.0, "no answer"),
    ],
)
@pytest.mark.parametrize("schema", [SCHEMA, json.dumps(SCHEMA)], ids=["table", "text"])
def test_valid_json_and_nothing_else_is_right(rewarder, make_group, text, value, cause, schema) -> None:
    [verdict] = judge(rewarder, make_group([text], task={"schema": schema}))
    assert verdict.value == value, verdict
    assert cause in verdict.cause


@pytest.mark.parametrize("task", [{}, {"schema": 3}, {"schema": "{"}, {"schema": {"type": "thing"}}, {"schema": "3"}])
def test_without_a_schema_it_abstains(rewarder, make_group, task) -> None:
    [verdict] = judge(rewarder, make_group(["1"], task=task))
    assert verdict.status is Status.ABSTAINED, verdict


def test_what_a_schema_refers_to_elsewhere_is_not_fetched(rewarder, make_group) -> None:
    [verdict] = judge(rewarder, make_group(["1"], task={"schema": {"$ref": "http://127.0.0.1:9/x"}}))
    assert verdict.status is Status.ERROR
    assert "Unresolvable" in verdict.cause


def test_the_schema_of_the_recipe_goes_before_the_prompts(make_group) -> None:
    made = JsonSchema(schema={"const": 1}, timeout_s=30.0)
    try:
        assert [v.value for v in judge(made, make_group(["1", "2"], task={"schema": {"const": 2}}))] == [1.0, 0.0]
    finally:
        made.close()


def test_a_schema_of_a_recipe_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="not a JSON schema"):
        JsonSchema(schema={"type": "thing"})


def test_text_deeper_than_can_be_compared_and_numbers_beyond_a_float_break_nothing(rewarder, make_group) -> None:
    nested = {"$ref": "#/$defs/a", "$defs": {"a": {"type": "array", "items": {"$ref": "#/$defs/a"}}}}
    fine, deep = judge(rewarder, make_group(["[" * 20 + "]" * 20, "[" * 400 + "]" * 400], task={"schema": nested}))
    assert fine.value == 1.0
    assert (deep.status, deep.cause) == (Status.ABSTAINED, "nested too deeply to be compared with the schema")
    [large] = judge(rewarder, make_group(["1" + "0" * 400], task={"schema": {"multipleOf": 0.1}}))
    assert large.value == 0.0, large
