"""Equal versions give equal verdicts: whatever a verdict depends on changes the version, and nothing else does."""

from __future__ import annotations

import importlib.metadata
import sys
import types
from pathlib import Path

import pytest

from rewarders import version as versions
from rewarders.judge_simulator import JudgeSimulator
from rewarders.math_verify import MathVerify
from rewarders.principles import Principles
from rewarders.registry import REWARDERS, build
from rewarders.version import present_version, version
from rewarders.yes_no import YesNo
from swarm.config import Spec


def test_options_and_judges_change_it_and_limits_do_not() -> None:
    plain = version("yes_no", YesNo, {"judge": "j"}, "j/m")
    assert plain == version("yes_no", YesNo, {"judge": "other name"}, "j/m")
    assert plain == version("yes_no", YesNo, {"timeout_s": 3.0}, "j/m")
    others = [
        version("yes_no", YesNo, {"question": True}, "j/m"),
        version("yes_no", YesNo, {}, "j/m2"),
        version("yes_no", Principles, {}, "j/m"),
    ]
    assert len({plain, *others}) == 4
    assert plain.startswith("yes_no@")


def test_every_rewarder_has_one_of_its_own() -> None:
    found = {version(name, kind, {}) for name, kind in REWARDERS.items()}
    assert len(found) == len(REWARDERS)


def test_the_versions_of_the_libraries_behind_it_change_it(monkeypatch: pytest.MonkeyPatch) -> None:
    before, real = version("math_verify", MathVerify, {}), importlib.metadata.version
    for library in ("sympy", "math_verify"):
        with monkeypatch.context() as patched:
            patched.setattr(
                versions.importlib.metadata, "version", lambda name, lib=library: "0" if name == lib else real(name)
            )
            assert version("math_verify", MathVerify, {}) != before
    assert version("math_verify", MathVerify, {}) == before


def test_source_changes_it_and_comments_and_layout_do_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def of(source: str) -> str:
        path = tmp_path / "mine.py"
        path.write_text(source)
        module = types.ModuleType("mine_for_versions")
        module.__file__ = str(path)
        monkeypatch.setitem(sys.modules, module.__name__, module)
        versions._read.cache_clear()
        exec(compile(source, str(path), "exec"), module.__dict__)
        return version("mine", module.__dict__["Mine"], {})

    plain = of("class Mine:\n    value = 1\n")
    assert of("# why\nclass Mine:\n\n    value = 1  # because\n") == plain
    assert of("class Mine:\n    value = 2\n") != plain


def test_it_covers_helpers_and_the_child_process() -> None:
    modules: dict[str, str] = {}
    libraries: set[str] = set()
    versions._collect("rewarders.math_verify", modules, libraries)
    assert {"rewarders.child_math_verify", "rewarders.killable", "rewarders.verdicts"} <= set(modules)
    assert {"math_verify", "sympy"} <= libraries
    assert all(modules.values())
    asking: dict[str, str] = {}
    versions._collect("rewarders.yes_no", asking, set())
    assert {"rewarders.asking", "rewarders.chat"} <= set(asking)
    assert "rewarders.registry" not in asking


def test_run_time_data_are_part_of_it(tmp_path: Path) -> None:
    file = tmp_path / "principles.txt"
    file.write_text("It is kind.\n")
    options = {"judge": "j", "path": str(file)}
    guarded = {"of": {"name": "principles", **options}}
    use = [Spec(name="principles", options=options), Spec(name="guard", options=guarded), Spec(name="exact")]
    *made, exact = build(use, 1.0, {"j": JudgeSimulator()})
    before = [present_version(each) for each in made]
    assert before == [present_version(each) for each in made]
    file.write_text("It is brief.\n")
    after = [present_version(each) for each in made]
    assert all(one != other for one, other in zip(before, after, strict=True))
    assert after == [present_version(each) for each in build(use, 1.0, {"j": JudgeSimulator()})[:2]]
    assert present_version(exact) == exact.version  # type: ignore[attr-defined]
