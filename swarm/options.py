"""The options of a part as its signature states them."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any


def keywords_of(part: Callable[..., Any]) -> dict[str, tuple[Any, bool]]:
    """Keyword-only parameters of a class or function: name -> (type, whether it must be given)."""
    function = part.__init__ if inspect.isclass(part) else part
    return {
        p.name: (_resolved(p, function), p.default is inspect.Parameter.empty)
        for p in inspect.signature(function).parameters.values()
        if p.kind is inspect.Parameter.KEYWORD_ONLY
    }


def _resolved(parameter: inspect.Parameter, function: Callable[..., Any]) -> Any:
    """The annotation as a type; Any where it names something that is only there for type checkers."""
    holder = SimpleNamespace(__annotations__={parameter.name: parameter.annotation})
    names = getattr(function, "__globals__", {})
    try:
        return typing.get_type_hints(holder, globalns=names, include_extras=True)[parameter.name]
    except NameError:
        return Any
