"""Runs in the child processes of `pattern`, `json_schema` and `bleu`: rules that take too long on some texts."""

from __future__ import annotations

import importlib
import json
import re
from typing import Any

from rewarders.verdicts import number

Answer = tuple[float | None, str]
"""A value (None abstains) and why."""


class Matcher:
    """A regular expression over texts."""

    def __init__(self, pattern: str, how: str) -> None:
        self._match = getattr(re.compile(pattern), how)

    def __call__(self, text: str) -> Answer:
        return float(self._match(text) is not None), ""


class Schema:
    """JSON texts against schemas; nothing is fetched that a schema refers to."""

    def __init__(self) -> None:
        self._jsonschema: Any = importlib.import_module("jsonschema")
        self._registry = importlib.import_module("referencing").Registry()

    def __call__(self, job: dict[str, Any]) -> Answer:
        try:
            schema = json.loads(job["schema"]) if isinstance(job["schema"], str) else job["schema"]
            kind = self._jsonschema.validators.validator_for(schema)
            kind.check_schema(schema)
        except (ValueError, TypeError, self._jsonschema.SchemaError) as error:
            return None, f"not a JSON schema: {type(error).__name__}"
        try:
            found = read_json(job["text"])
        except (ValueError, RecursionError) as error:
            return 0.0, f"not JSON: {str(error)[:100]}"
        try:
            wrong = next(kind(schema, registry=self._registry).iter_errors(found), None)
        except RecursionError:
            return None, "nested too deeply to be compared with the schema"
        return (1.0, "") if wrong is None else (0.0, f"{wrong.json_path[:100]} does not meet {wrong.validator!r}")


def read_json(text: str) -> Any:
    """JSON as the standard has it: finite numbers, each key once. Raises ValueError or RecursionError."""
    return json.loads(text, parse_float=_finite, parse_int=_whole, parse_constant=_refuse, object_pairs_hook=_once)


def _finite(text: str) -> float:
    value = number(float(text))
    if value is None:
        raise ValueError("a number is not finite")
    return value


def _whole(text: str) -> int:
    _finite(text)  # multipleOf takes it as a float
    return int(text)


def _refuse(text: str) -> Any:
    raise ValueError(f"{text} is not JSON")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key stands twice")
    return found


class Bleu:
    """Sentence BLEU."""

    def __init__(self, tokenize: str) -> None:
        metrics: Any = importlib.import_module("sacrebleu.metrics")
        # Without the effective order a right answer of one word would get 0: it has no pairs of words.
        self._metric = metrics.BLEU(effective_order=True, tokenize=tokenize)

    def __call__(self, job: dict[str, Any]) -> Answer:
        score = number(self._metric.sentence_score(job["text"], job["references"]).score)
        return (None, "BLEU is not finite") if score is None else (min(score / 100, 1.0), "")
