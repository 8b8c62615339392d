"""Runs in the child process of `reasoning_gym`: regenerates an entry and asks its family's own scorer.

Eight families hand the completion to Python's `eval` or to sympy's `parse_expr`, which evaluates too: text could read
files, start programs or rewrite its own grader. Here `eval` of answers takes literals only, and `parse_expr` takes
arithmetic and the usual functions only; anything else raises, as any malformed answer does there, and the scorers
give malformed answers their lowest value. `rewarders.child_gym_holes` mends scorers that other text fools or breaks.
"""

from __future__ import annotations

import ast
import importlib
import json
import re
from collections import OrderedDict
from typing import Any

from rewarders.child_gym_holes import score

LITERAL_FAMILIES = (
    "algorithmic.binary_matrix",
    "algorithmic.spiral_matrix",
    "algorithmic.string_insertion",
    "games.n_queens",
)
PARSING_FAMILIES = ("games.countdown", "games.puzzle24")

FUNCTIONS = "a?sinh? a?cosh? a?tanh? sec csc cot exp log ln sqrt Abs abs Rational Integer Float Integral pi"
NAME = re.compile(FUNCTIONS.replace(" ", "|") + "|[A-Za-z][0-9]*")
"""The usual functions, and symbols of one letter."""
CHARACTERS = frozenset("0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ+-*/^().,! \t\n")
WORD = re.compile(r"[A-Za-z][A-Za-z0-9]*")
TOWER = re.compile(r"(\*\*|\^)[\s(+-]*([0-9]{4}|[0-9.]+[\s)]*(\*\*|\^))|[0-9]{4}[\s)]*!")
"""Numbers too large to write down; what gets past this costs a time limit and a new child."""
ATTRIBUTE = re.compile(r"\.\s*[A-Za-z]")


class Scorer:
    """Keeps the data sets and entries that were asked for last."""

    def __init__(self) -> None:
        self._gym: Any = importlib.import_module("reasoning_gym")
        _disarm()
        self._datasets: OrderedDict[str, Any] = OrderedDict()
        self._entries: OrderedDict[str, Any] = OrderedDict()

    def __call__(self, job: dict[str, Any]) -> Any:
        """{"task", "answer"}: the scorer's value. {"task", "prepare": true}: the entry's question and answer."""
        dataset, entry = self._entry(job["task"])
        if job.get("prepare"):
            return {"question": str(entry["question"]), "answer": _text(entry.get("answer"))}
        value = score(job["task"]["family"], dataset, job["answer"], entry)
        if hasattr(value, "item"):
            value = value.item()
        return float(value) if isinstance(value, bool) else value

    def _entry(self, task: dict[str, Any]) -> tuple[Any, Any]:
        key = json.dumps([task["family"], task["seed"], task["size"], task["config"]], sort_keys=True)
        if key not in self._datasets:
            made = self._gym.create_dataset(task["family"], seed=task["seed"], size=task["size"], **task["config"])
            _remember(self._datasets, key, made, 16)
        dataset = self._datasets[key]
        place = f"{task['index']} {key}"
        if place not in self._entries:
            _remember(self._entries, place, dataset[task["index"]], 64)
        return dataset, self._entries[place]


def guard(text: str) -> None:
    """Raises SyntaxError unless `text` is arithmetic: no strings, attributes, keywords or other names."""
    if not set(text) <= CHARACTERS or ATTRIBUTE.search(text) or TOWER.search(text):
        raise SyntaxError("not arithmetic")
    for word in WORD.findall(text):
        if not NAME.fullmatch(word):
            raise SyntaxError(f"not arithmetic: {word[:20]}")


def _disarm() -> None:
    sympy: Any = importlib.import_module("sympy")
    parse_expr = sympy.parse_expr

    def guarded(text: str, *args: Any, **options: Any) -> Any:
        guard(text)
        return parse_expr(text, *args, **options)

    sympy.parse_expr = guarded
    for name in PARSING_FAMILIES:
        vars(importlib.import_module(f"reasoning_gym.{name}"))["parse_expr"] = guarded
    for name in LITERAL_FAMILIES:
        vars(importlib.import_module(f"reasoning_gym.{name}"))["eval"] = ast.literal_eval


def _text(answer: Any) -> str | None:
    return None if answer is None else str(answer)


def _remember(cache: OrderedDict[str, Any], key: str, value: Any, most: int) -> None:
    cache[key] = value
    if len(cache) > most:
        cache.popitem(last=False)
