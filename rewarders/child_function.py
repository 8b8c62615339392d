"""Runs in the child process of `function`: imports a user's function and calls it with the arguments it names."""

from __future__ import annotations

import asyncio
import importlib
import inspect
import math
from typing import Any


class Caller:
    """Called with a dict of columns, each a list of G: a list of G numbers, None, or {"error": what was wanted}."""

    def __init__(self, module: str, attribute: str) -> None:
        found: Any = importlib.import_module(module)
        for part in attribute.split("."):
            found = getattr(found, part)
        if not callable(found):
            raise TypeError(f"{module}:{attribute} is a {type(found).__name__}; wanted a function")
        self._function = found

    def __call__(self, columns: dict[str, list[Any]]) -> list[Any]:
        """Raises TypeError or ValueError that says what was wanted."""
        num = len(columns["completions"])
        result = self._function(**_named(self._function, columns))
        if inspect.isawaitable(result):
            result = asyncio.run(_finish(result))
        if hasattr(result, "tolist"):
            result = result.tolist()
        wanted = f"wanted a list of {num} numbers or None, one per completion"
        if not isinstance(result, (list, tuple)):
            raise TypeError(f"{wanted}; got {_show(result)}")
        if len(result) != num:
            raise ValueError(f"{wanted}; got {len(result)}")
        return [_plain(value) for value in result]


async def _finish(awaitable: Any) -> Any:
    return await awaitable


def _named(function: Any, columns: dict[str, list[Any]]) -> dict[str, list[Any]]:
    """The columns that the function takes. Raises TypeError naming what it wants and is not there."""
    parameters = inspect.signature(function).parameters.values()
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        given = columns
    else:
        given = {p.name: columns[p.name] for p in parameters if p.name in columns}
    missing = [
        p.name
        for p in parameters
        if p.default is p.empty and p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY) and p.name not in given
    ]
    if missing:
        raise TypeError(f"it asks for {', '.join(missing)}; there is {', '.join(sorted(columns))}")
    return given


def _plain(value: Any) -> Any:
    if value is None:
        return None
    if hasattr(value, "item"):
        value = value.item()
    if not isinstance(value, (int, float)):
        return {"error": f"wanted a number or None; got {_show(value)}"}
    try:
        as_float = float(value)
    except OverflowError:
        return {"error": "wanted a finite number or None; got an integer beyond float64"}
    if not math.isfinite(as_float):
        return {"error": f"wanted a finite number or None; got {as_float}"}
    return as_float


def _show(value: Any) -> str:
    return f"{repr(value)[:60]} ({type(value).__name__})"
