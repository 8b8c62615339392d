"""Rewarders inside rewarders, as recipes state them: built to any depth, limited, counted and closed."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from cluster.check import check
from rewarders.exact import Exact
from rewarders.gate import Gate
from rewarders.nested import places_of, processes
from rewarders.registry import REWARDERS, build, judges_truth
from rewarders.worker import RewardWorker
from swarm.config import Spec
from swarm.errors import ConfigError
from swarm.types import Status
from tests.minimal_recipe import MINIMAL
from tests.rewarders.scripted import Says

DEEP = {
    "name": "route",
    "options": {
        "to": {
            "test": {
                "name": "weighted",
                "of": ["exact", {"name": "gate", "when": "exact", "then": {"name": "limited", "timeout_s": 3.0}}],
                "weights": [1.0, 0.5],
            }
        },
        "timeout_s": 7.0,
        "otherwise": {"name": "limited"},
    },
}


class Limited(Says):
    """Limits itself, so it is given the recipe's limit."""

    made: list[Limited] = []  # noqa: RUF012 - a register of all, reset by the fixture

    def __init__(self, *, timeout_s: float = 1.0) -> None:
        super().__init__({"4": 1.0, "5": 0.25}, "limited")
        self.timeout_s = timeout_s
        self.made.append(self)


class Refuses:
    def __init__(self, *, of: Any = None) -> None:
        raise ValueError("never")


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    monkeypatch.setattr(Limited, "made", [])
    monkeypatch.setitem(REWARDERS, "limited", Limited)
    monkeypatch.setitem(REWARDERS, "refuses", Refuses)


def test_shapes_of_options_are_read_from_signatures() -> None:
    assert places_of(REWARDERS["gate"]) == {"when": "one", "then": "one"}
    assert places_of(REWARDERS["weighted"]) == {"of": "list"}
    assert places_of(REWARDERS["route"]) == {"to": "table", "otherwise": "one"}
    assert places_of(REWARDERS["exact"]) == {}


def test_a_deep_recipe_is_built_with_its_limits_scored_and_closed(make_group) -> None:
    worker = RewardWorker([Spec.model_validate(DEEP)], timeout_s=11.0, retries=0)
    scored = asyncio.run(worker.score(make_group(["4", "5"], "4")))
    assert [r.verdicts[0].value for r in scored.rollouts] == [1.5, 0.0]
    assert [r.verdicts[0].rewarder for r in scored.rollouts] == ["route", "route"]
    assert [made.timeout_s for made in Limited.made] == [3.0, 7.0]  # its own; else that of the rewarder around it
    worker.close()
    assert [made.closed for made in Limited.made] == [1, 1]


def test_the_same_in_python(make_group) -> None:
    made = Gate(when=Exact(), then=Limited())
    assert [v.value for v in asyncio.run(made.judge(make_group(["4", "5"], "4")))] == [1.0, 0.0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"when": "limited", "then": "exac"}, "no rewarder 'exac'; did you mean \"exact\""),
        ({"when": "limited", "then": "refuses"}, "never"),
        ({"when": "limited", "then": 3}, "wanted a rewarder"),
        ({"when": "limited", "then": {"name": "weighted", "of": "limited"}}, "wanted a list of rewarders"),
        ({"when": "limited", "then": {"name": "route", "to": {"name": "limited"}}}, "gives each key a rewarder"),
        (
            {"when": "limited", "then": {"name": "cascade", "rule": "limited", "appeal": "exact", "share": 2.0}},
            "share = 2",
        ),
    ],
)
def test_what_was_made_is_closed_where_the_rest_cannot_be(options, message) -> None:
    with pytest.raises(ValueError, match=message):
        build([Spec(name="limited"), Spec(name="gate", options=options)], 5.0)
    assert Limited.made
    assert all(made.closed == 1 for made in Limited.made)


def test_an_inner_timeout_is_a_timeout_of_the_whole_and_inner_children_are_counted_and_ended(make_group, gone) -> None:
    use = [{"name": "gate", "when": "exact", "then": {"name": "math_verify"}}]
    worker = RewardWorker([Spec.model_validate(each) for each in use], timeout_s=60.0, retries=0)
    scored = asyncio.run(worker.score(make_group(["4", "4"], "4")))
    assert [r.verdicts[0].value for r in scored.rollouts] == [1.0, 1.0]
    [child] = processes(worker._rewarders[0])
    assert worker.usage().cpu_s > child.cpu_s() > 0
    pid = child.pid
    worker.close()
    assert gone(pid)
    hangs = Gate(when=Exact(), then=Says({"4": "hang"}), timeout_s=0.05)
    assert asyncio.run(hangs.judge(make_group(["4"], "4")))[0].status is Status.TIMEOUT


@pytest.mark.parametrize(
    ("use", "said"),
    [
        ("{ name = 'gate', when = 'exact' }", ["0.then: missing; gate needs it"]),
        ("{ name = 'gate', when = 'exat', then = 'exact' }", ['0.when.name = "exat": no such part; did you mean']),
        (
            "{ name = 'gate', when = { name = 'exact', extrct = 'tag' }, then = { name = 'exact', extract = 'tg' } }",
            ["0.when.extrct: unknown option of exact", "0.then.extract = 'tg': "],
        ),
        ("{ name = 'gate', when = 7, then = 'exact' }", ["0.when: wanted a rewarder (a name, or a table with a name)"]),
        ("{ name = 'weighted', of = 'exact' }", ["0.of: wanted a list of rewarders, found 'exact'"]),
        ("{ name = 'weighted', of = [] }", ["0.of = []: wanted at least one rewarder"]),
        ("{ name = 'weighted', of = ['exact', { name = 'gate' }] }", ["0.of.1.when: missing", "0.of.1.then: missing"]),
        ("{ name = 'weighted', of = ['exact'], weights = [1.0, 2.0] }", ["0.weights = [1.0, 2.0]: wanted 1"]),
        ("{ name = 'route', to = 'exact' }", ["0.to: wanted a table that gives each key a rewarder"]),
        ("{ name = 'route', to = { a = 'exact', b = 'exat' } }", ['0.to.b.name = "exat"']),
        ("{ name = 'route', by = 'colour', to = { a = 'exact' } }", ["0.by = 'colour': "]),
        ("{ name = 'cascade', rule = 'exact', appeal = 'exact', share = 1.5 }", ["0.share = 1.5: "]),
        (
            "{ name = 'cascade', rule = 'exact', appeal = { name = 'function', path = 'no_such:f' } }",
            ["0.appeal.path = 'no_such:f'"],
        ),
    ],
)
def test_a_check_names_the_full_place_of_what_is_wrong_inside(tmp_path: Path, use: str, said: list[str]) -> None:
    recipe = tmp_path / "mine.toml"
    recipe.write_text(MINIMAL)
    with pytest.raises(ConfigError) as caught:
        check(recipe, [f"rewarders.use=[{use}]"])
    found = str(caught.value).splitlines()
    assert len(found) == len(said), found
    for line, part in zip(found, said, strict=True):
        assert line.startswith(f"{recipe}: rewarders.use.{part}")


def test_a_nested_recipe_reads_back_equal(tmp_path: Path) -> None:
    recipe = tmp_path / "mine.toml"
    recipe.write_text(MINIMAL)
    use = "{ name = 'route', to = { gcd = { name = 'gate', when = 'exact', then = { name = 'exact' } } } }"
    config = check(recipe, [f"rewarders.use=[{use}]"])
    recipe.write_text(config.to_toml())
    assert check(recipe) == config


@pytest.mark.parametrize(
    ("table", "judges"),
    [
        ("exact", True),
        ({"name": "length", "most": 3}, False),
        ({"name": "function", "path": "x:y"}, False),
        ({"name": "function", "path": "x:y", "about_truth": True}, True),
        ({"name": "gate", "when": {"name": "pattern", "pattern": "x"}, "then": "exact"}, False),
        ({"name": "truth", "rule": {"name": "route", "to": {"a": "exact"}, "otherwise": "code"}}, True),
        ({"name": "par", "of": "exact", "column": "answer"}, False),
        ({"name": "noisy", "of": "exact"}, True),
    ],
)
def test_who_judges_truth_is_told_from_the_recipe_as_from_what_it_makes(tmp_path, monkeypatch, table, judges) -> None:
    (tmp_path / "x.py").write_text("def y(completions, **columns): return [1.0 for _ in completions]")
    monkeypatch.chdir(tmp_path)
    spec = Spec.model_validate(table)
    assert judges_truth(spec) is judges
    [made] = build([spec], 5.0)
    made.close()
    assert getattr(made, "about_truth", True) is judges
