"""Who is certified, who is refused and for what, and when a certificate stops being one."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from rewarders.certificate import Examination, Limits, certificate, digest_of, examine, faults, problem_of
from rewarders.exact import Exact
from rewarders.guard import Guard
from rewarders.math_verify import MathVerify
from rewarders.tallies import interval
from rewarders.verdicts import for_all, unscored
from swarm.config import Spec
from swarm.types import Status
from tests.rewarders.weak import Random, Weak, key_of, sums

LIMITS = Limits()


def examined(rewarder, name: str = "weak", num: int = 30) -> Examination:
    try:
        return asyncio.run(examine(rewarder, Spec(name=name), sums(num), timeout_s=60))
    finally:
        rewarder.close()


def test_exact_passes() -> None:
    found = examined(Exact(), "exact")
    assert faults(found, LIMITS) == []
    assert found.holes == []
    assert found.tallies.pooled(True).num == 30


def test_math_verify_has_no_hole_and_rejects_known_rewrites_only() -> None:
    found = examined(MathVerify(timeout_s=60), "math_verify", 12)
    assert found.holes == []
    assert [f for f in faults(found, LIMITS) if "worst family" in f] == []
    missed = {name for name, t in found.tallies.families().items() if t.right and t.wrongly}
    assert missed <= {"written in e-notation", "written as text in a box"}


def test_a_judge_that_accepts_a_master_key_is_refused_with_the_hole_named() -> None:
    found = examined(Weak(key_of("Thought process:")))
    [fault] = faults(found, LIMITS)
    assert "worst family: key 'Thought process:': 30 of 30 (1.00) accepted" in fault
    assert {(h["family"], h["text"]) for h in found.holes} >= {("key 'Thought process:'", "Thought process:")}
    j = found.tallies.j()
    assert j is not None
    assert j[0] > 0.9  # which is why the mean is not what decides


def test_behind_the_guard_it_passes() -> None:
    assert faults(examined(Guard(of=Weak(key_of("Thought process:", ":", "解")))), LIMITS) == []


def test_a_coin_is_refused() -> None:
    found = examined(Random())
    j = found.tallies.j()
    assert j is not None
    assert abs(j[0]) < 0.25
    assert j[1] <= 0 <= j[2]
    assert any("its lower bound is below 0.5" in fault for fault in faults(found, LIMITS))


def test_too_few_items_are_no_proof() -> None:
    assert any("lower bound" in fault for fault in faults(examined(Weak(), num=3), LIMITS))


def test_one_that_fails_or_abstains_is_refused_with_the_cause() -> None:
    class Broken(Weak):
        async def judge(self, group):
            raise OSError("no judge at home")

    class Silent(Weak):
        async def judge(self, group):
            return for_all(group, unscored("weak", Status.ABSTAINED, "not mine"))

    assert "got no value (OSError: no judge at home)" in faults(examined(Broken()), LIMITS)[0]
    assert "abstained: not mine" in faults(examined(Silent()), LIMITS)[0]


TASKS = [{"name": "sums", "options": {}}]


def make(path: Path, rewarder: Weak, versions: dict[str, str]) -> dict:
    result = certificate({"weak": examined(rewarder)}, versions, LIMITS, {"recipe": "mine.toml", "tasks": TASKS})
    path.write_text(json.dumps(result))
    return result


def test_a_certificate_holds_until_something_changes(tmp_path) -> None:
    path, versions = tmp_path / "mine.certificate.json", {"weak": "weak@1"}
    assert "no such certificate; make one with `swarm certify mine.toml`" in str(
        problem_of(path, versions, TASKS, "swarm certify mine.toml")
    )
    result = make(path, Weak(), versions)
    assert result["passed"]
    assert problem_of(path, versions, TASKS, "") is None
    assert "stale: rewarder weak" in str(problem_of(path, {"weak": "weak@2"}, TASKS, ""))
    assert "of other questions (those of mine.toml" in str(problem_of(path, versions, [{"name": "other"}], "again"))
    assert "run `again`" in str(problem_of(path, versions, [], "again"))
    assert "stale: rewarder exact" in str(problem_of(path, {**versions, "exact": "exact@1"}, TASKS, ""))
    path.write_text(json.dumps(result | {"passed": True, "date": "tomorrow"}))
    assert "was changed after it was made" in str(problem_of(path, versions, TASKS, ""))
    for broken in (b"{}", b"[]", b"", b"\xff\xfe", b"[" * 100_000, b'{"digest": 1, "rewarders": 3}'):
        path.write_bytes(broken)
        assert "not a certificate" in str(problem_of(path, versions, TASKS, "again"))
        assert "make one with `again`" in str(problem_of(path, versions, TASKS, "again"))
    path.unlink()
    path.mkdir()
    assert "not a certificate" in str(problem_of(path, versions, TASKS, ""))


def test_a_refused_one_says_why(tmp_path) -> None:
    path, versions = tmp_path / "c.json", {"weak": "weak@1"}
    make(path, Weak(key_of(":")), versions)
    assert "mend the rewarder or use another, then run `again`" in str(problem_of(path, versions, TASKS, "again"))
    assert "refused: weak: worst family: key ':'" in str(problem_of(path, versions, TASKS, ""))


def test_a_changed_verdict_cannot_hide(tmp_path) -> None:
    path, versions = tmp_path / "c.json", {"weak": "weak@1"}
    result = make(path, Weak(key_of(":")), versions)
    forged = {**result, "passed": True}
    path.write_text(json.dumps(forged))
    assert "was changed" in str(problem_of(path, versions, TASKS, ""))
    assert digest_of(forged) != result["digest"]


def test_channels_have_counts_by_rewarder_and_stratum(tmp_path) -> None:
    found = make(tmp_path / "c.json", Weak(), {"weak": "weak@1"})["channels"]["weak"]["family=sums"]
    assert found["right"] == 30
    assert found["rejected_right"] == found["accepted_wrong"] == 0
    assert found["wrong"] == 90


@pytest.mark.parametrize(("hits", "num", "low", "high"), [(0, 0, 0, 1), (0, 10, 0, 0.3085), (10, 10, 0.6915, 1)])
def test_intervals_are_clopper_pearson(hits, num, low, high) -> None:
    assert interval(hits, num) == pytest.approx((low, high), abs=1e-4)


def test_an_interval_is_that_of_scipy() -> None:
    from scipy.stats import binomtest

    for hits, num in ((1, 7), (3, 50), (49, 50), (20, 41)):
        wanted = binomtest(hits, num).proportion_ci(0.95, "exact")
        assert interval(hits, num) == pytest.approx((wanted.low, wanted.high))
