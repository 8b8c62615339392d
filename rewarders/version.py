"""Which rewarder exactly: a digest of all that its verdicts can depend on beside prompt and response.

That is the source of its class's module and of every module of ours that this one imports or starts in a child process,
without comments and layout; its options as the recipe gives them, without time limits; the versions of the libraries
that these modules import; the judge that it asks. A rewarder whose verdicts depend on more has a method `data()`: text,
as it is now (a file's content). What a served model is behind its name, nobody but its server knows.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.metadata
import importlib.util
import json
import sys
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

OURS = "rewarders."
NOT_OURS = frozenset({*sys.stdlib_module_names, "rewarders", "swarm"})
WITHOUT_EFFECT = frozenset({"timeout_s", "memory_mb", "judge"})
"""Options that decide whether there is a verdict, not which; and what the recipe calls the judge."""


def version(name: str, kind: type, options: Mapping[str, Any], *judges: str) -> str:
    """`NAME@DIGEST` of a rewarder of this class, with these options, asking judges that are called so."""
    modules: dict[str, str] = {}
    libraries: set[str] = set()
    _collect(kind.__module__, modules, libraries)
    facts = {
        "class": kind.__qualname__,
        "modules": modules,
        "libraries": {library: found for library in sorted(libraries) if (found := _library_version(library))},
        "options": {key: value for key, value in options.items() if key not in WITHOUT_EFFECT},
        "judges": judges,
    }
    return f"{name}@{_digest(json.dumps(facts, sort_keys=True, default=str))}"


def present_version(rewarder: Any) -> str:
    """The version of a rewarder that the registry made, with its data and those of rewarders inside it, as they are
    now."""
    made, data = str(getattr(rewarder, "version", "")), _data(rewarder)
    return f"{made}+{_digest(chr(0).join(data))}" if made and data else made


def _data(rewarder: Any) -> list[str]:
    own = [rewarder.data()] if hasattr(rewarder, "data") else []
    return own + [text for inner in getattr(rewarder, "inner", ()) for text in _data(inner)]


def _collect(module: str, modules: dict[str, str], libraries: set[str]) -> None:
    """The digest of a module and, by name, of those of ours behind it; and the libraries they import."""
    if module in modules:
        return
    digest, imported = _read(module)
    modules[module] = digest
    for name in imported:
        if name.startswith(OURS):
            _collect(name, modules, libraries)
        elif (top := name.partition(".")[0]) not in NOT_OURS:
            libraries.add(top)


@cache
def _read(module: str) -> tuple[str, tuple[str, ...]]:
    """The digest of a module's source, and what it names in imports and as `module:class` of a child."""
    found = importlib.util.find_spec(module) if module.startswith(OURS) else None
    loaded = getattr(sys.modules.get(module), "__file__", None)
    path = found.origin if found else loaded
    if not path or not path.endswith(".py"):
        return "", ()
    tree = ast.parse(Path(path).read_bytes())
    return _digest(ast.dump(tree)), tuple(sorted(set(_named(tree))))


def _named(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            if node.module == OURS.rstrip("."):
                yield from (OURS + alias.name for alias in node.names)
        elif isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "import_module":
            yield from (arg.value for arg in node.args if isinstance(arg, ast.Constant) and isinstance(arg.value, str))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            module, colon, attribute = node.value.partition(":")
            if module.startswith(OURS) and colon and attribute.isidentifier():
                yield module


def _library_version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]
