"""Who may import whom (see CONTRIBUTING): read from the source, and seen in a fresh interpreter."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("swarm", "actors", "rewarders", "learners", "cluster")
MAY_IMPORT = {
    "swarm": {"swarm"},
    "actors": {"actors", "swarm"},
    "rewarders": {"rewarders", "swarm"},
    "learners": {"learners", "swarm"},
    "cluster": set(PACKAGES),
}
ONLY_IN = {
    "ray": "cluster/",
    "vllm": "actors/engine_vllm.py",
    "deepspeed": "learners/engine_deepspeed.py",
    "grpc": "swarm/",
}
HEAVY = ("torch", "ray", "vllm", "deepspeed", "transformers")
TOO_HEAVY_FOR_SWARM = set(HEAVY)


def sources(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def imported(source: str) -> Iterator[str]:
    """Every module that a source names in an import, wherever in it, also by `import_module` with a literal."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield node.module or ""
        elif isinstance(node, ast.Call):
            name = getattr(node.func, "attr", getattr(node.func, "id", ""))
            if name in ("import_module", "__import__") and node.args and isinstance(node.args[0], ast.Constant):
                yield str(node.args[0].value)


def violations(path: str, source: str) -> list[str]:
    """What a file imports against the rules; `path` is relative to the repository."""
    package, found = path.partition("/")[0], []
    for module in imported(source):
        top = module.split(".")[0]
        if top in PACKAGES and top not in MAY_IMPORT[package]:
            found.append(f"{path} imports {module}: {package} may import {sorted(MAY_IMPORT[package])} only")
        if top in ONLY_IN and not path.startswith(ONLY_IN[top]):
            found.append(f"{path} imports {module}: only {ONLY_IN[top]} may")
        if package == "swarm" and top in TOO_HEAVY_FOR_SWARM:
            found.append(f"{path} imports {module}: swarm imports nothing heavy")
        if top == "tests":
            found.append(f"{path} imports {module}: tests are not shipped")
    return found


@pytest.mark.parametrize("package", PACKAGES)
def test_packages_import_only_what_the_design_allows(package: str) -> None:
    assert sources(package)
    found = [v for p in sources(package) for v in violations(p.relative_to(ROOT).as_posix(), p.read_text("utf-8"))]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ("swarm/x.py", "import torch.nn"),
        ("swarm/x.py", "from cluster import run"),
        ("actors/x.py", "from learners.losses import grpo"),
        ("rewarders/x.py", "def f():\n    import ray"),
        ("learners/x.py", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from vllm import LLM"),
        ("actors/x.py", "import importlib\nimportlib.import_module('deepspeed.ops')"),
        ("cluster/x.py", "import grpc"),
        ("cluster/x.py", "import vllm"),
        ("learners/x.py", "import tests.fake_crew"),
    ],
)
def test_a_planted_import_is_found(path: str, line: str) -> None:
    assert violations(path, line)


def modules_after(*names: str) -> set[str]:
    """What a fresh interpreter has loaded after importing these modules."""
    code = (
        "import importlib, json, sys\n"
        f"for name in {list(names)!r}: importlib.import_module(name)\n"
        "print(json.dumps(sorted(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout))


def test_importing_all_of_swarm_and_the_registries_loads_nothing_heavy() -> None:
    swarm = [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in sources("swarm")]
    swarm = [name.removesuffix(".__init__") for name in swarm]
    loaded = modules_after(*swarm)
    assert set(swarm) <= loaded
    assert not loaded & {*HEAVY, *(set(PACKAGES) - {"swarm"})}
    assert not modules_after("cluster.registries", "cluster.check") & set(HEAVY)
