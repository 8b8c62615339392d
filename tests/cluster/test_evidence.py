"""What reward workers found reaches one another and the next process, each observation once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from cluster.evidence import FILE, Evidence, found_in
from rewarders.channels import pooled
from swarm import checkpoints


def counts(num: float) -> dict[str, Any]:
    return {"exact": {"": {"wrong": num, "accepted_wrong": num / 2}}} if num else {}


def found(num: float, heard: bool = True) -> dict[str, Any]:
    return {"heard": heard, "channels": counts(num), "watches": {}}


def num(part: Any) -> float:
    return part["channels"].get("exact", {}).get("", {}).get("wrong", 0.0) if part else 0.0


class Worker:
    """As a reward worker: its own observations, and those of its predecessor from the first hearing on."""

    def __init__(self) -> None:
        self.own, self.heard = 0.0, False

    def hear(self, before: Any) -> None:
        self.own += 0.0 if self.heard else num(before)
        self.heard = True


@given(st.lists(st.tuples(st.sampled_from("ab"), st.booleans(), st.integers(0, 5)), max_size=12))
def test_every_observation_counts_once_whoever_dies(moves: list[tuple[str, bool, int]]) -> None:
    evidence, all_seen = Evidence(), 0
    workers = {"a": Worker(), "b": Worker()}
    for name, dies, more in moves:
        if dies:
            workers[name] = Worker()
        workers[name].own += more
        all_seen += more
        evidence.saw(name, found(workers[name].own, workers[name].heard))
        workers[name].hear(evidence.before(name))
        evidence.saw(name, found(workers[name].own, workers[name].heard))
        assert sum(num(evidence.before(place)) for place in "ab") == all_seen
        assert num(evidence.others(name)) == all_seen - workers[name].own


def test_the_next_driver_goes_on_with_it_and_live_workers_keep_their_own(tmp_path: Path) -> None:
    folder = checkpoints.begin(tmp_path, 3) / "learner"
    folder.mkdir()
    evidence = Evidence()
    evidence.save(folder)
    assert not list(folder.iterdir())
    assert found_in(tmp_path) == {"channels": {}, "watches": {}}
    evidence.saw("rewarder-0", found(4))
    evidence.saw("rewarder-1", found(2))
    evidence.save(folder)
    folder = checkpoints.finish(folder.parent, 2)[0] / "learner"
    assert found_in(tmp_path)["channels"] == pooled([counts(6)])
    after = Evidence()
    after.recall(folder)
    after.saw("rewarder-0", found(0, heard=False))
    assert (num(after.before("rewarder-0")), num(after.others("rewarder-0"))) == (4, 2)
    after.saw("rewarder-0", found(5))
    (folder / FILE).write_text(json.dumps({}))
    after.recall(folder)  # a learner died, and went back to the checkpoint
    assert num(after.before("rewarder-0")) == 5


def test_evidence_that_is_not_as_it_was_written_is_passed_over(tmp_path: Path) -> None:
    for step in (1, 2):
        partial = checkpoints.begin(tmp_path, step)
        (partial / "learner").mkdir()
        evidence = Evidence()
        evidence.saw("rewarder-0", found(step))
        evidence.save(partial / "learner")
        newest, _ = checkpoints.finish(partial, 2)
    other = json.dumps({"rewarder-0": found(7)})
    (newest / "learner" / FILE).write_text(other)
    assert found_in(tmp_path)["channels"] == pooled([counts(1)])
