"""Which rewarder exactly: a digest of all that its verdicts depend on, as far as that can be known.

The source of its module and of the modules of this package that it uses (those of its child process too), its options,
those of rewarders inside it, the language model that it asks, the user's file behind `function`, and the versions of
the libraries. Nothing is imported: sources are read.
"""

from __future__ import annotations

import hashlib
import importlib.machinery
import importlib.metadata
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rewarders.function import split
from rewarders.registry import REWARDERS
from swarm.config import JudgeSection, Spec

HERE = Path(__file__).parent
USED = re.compile(r"\brewarders\.(\w+)")
LIBRARIES = {
    "math_verify": "math-verify",
    "sympy": "sympy",
    "latex2sympy2_extended": "latex2sympy2_extended",
    "reasoning_gym": "reasoning-gym",
    "sacrebleu": "sacrebleu",
    "jsonschema": "jsonschema",
}
"""Distribution of each module whose version changes verdicts."""
PLUMBING = frozenset({"registry", "worker", "killable", "process", "child", "verdicts"})
"""Modules that carry verdicts and do not make them."""


def version_of(spec: Spec, judges: Sequence[JudgeSection] = ()) -> str:
    """64 bits as hex, after the name: `exact@0f3a...`. Raises KeyError for a name that is not in the registry."""
    names = _names(spec)
    sources = _sources({REWARDERS[name].__module__.rpartition(".")[2] for name in names})
    text = "".join(sources.values())
    libraries = {name: _installed(name) for module, name in LIBRARIES.items() if re.search(rf"\b{module}\b", text)}
    facts = {
        "rewarder": spec.model_dump(exclude={"weight"}),
        "judges": [{"name": j.name, "model": j.model, "endpoint": j.endpoint} for j in judges if _asks(spec, j.name)],
        "sources": {module: hashlib.sha256(source.encode()).hexdigest() for module, source in sources.items()},
        "libraries": libraries,
        "files": [_file(path) for path in _paths(spec.options)],
    }
    digest = hashlib.blake2b(json.dumps(facts, sort_keys=True, default=str).encode(), digest_size=8).hexdigest()
    return f"{spec.name}@{digest}"


def _sources(modules: set[str]) -> dict[str, str]:
    """Of these modules of the package and all that they use, sorted by name."""
    found: dict[str, str] = {}
    left = sorted(modules)
    while left:
        module = left.pop()
        path = HERE / f"{module}.py"
        if module in found or module in PLUMBING or not path.is_file():
            continue
        found[module] = path.read_text(encoding="utf-8")
        left += USED.findall(found[module])
    return dict(sorted(found.items()))


def _names(spec: Spec) -> list[str]:
    from rewarders.suites import names_in

    return [name for name in names_in(spec) if name in REWARDERS] if spec.name in REWARDERS else [spec.name]


def _asks(spec: Spec, judge: str) -> bool:
    return any(value == judge for value in _values(spec.options))


def _values(options: Any) -> list[Any]:
    if isinstance(options, Spec):
        return _values(options.options)
    if isinstance(options, dict):
        return [found for value in options.values() for found in _values(value)]
    if isinstance(options, (list, tuple)):
        return [found for value in options for found in _values(value)]
    return [options]


def _paths(options: Any) -> list[str]:
    return [value for value in _values(options) if isinstance(value, str) and (":" in value or "." in value)]


def _file(path: str) -> str | None:
    """Digest of the Python file behind `package.module:function`, where there is one."""
    places: list[str] | None = [str(Path.cwd()), *sys.path]
    spec = None
    for part in split(path)[0].split("."):
        spec = importlib.machinery.PathFinder.find_spec(part, places) if part.isidentifier() else None
        if spec is None:
            return None
        places = list(spec.submodule_search_locations or [])
    if spec is None or not spec.origin or not spec.origin.endswith(".py"):
        return None
    return hashlib.sha256(Path(spec.origin).read_bytes()).hexdigest()


def _installed(distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
