"""What reward workers saw reaches one another and the next process, each observation once."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from cluster.evidence import Evidence
from rewarders.channels import State


def saw(num: float) -> State:
    return {"exact": {"": {"wrong": num, "accepted_wrong": num / 2}}} if num else {}


def num(state: State) -> float:
    return state.get("exact", {}).get("", {}).get("wrong", 0.0)


@given(st.lists(st.tuples(st.sampled_from("ab"), st.booleans(), st.integers(0, 5)), max_size=12))
def test_every_observation_counts_once_whoever_dies(moves: list[tuple[str, bool, int]]) -> None:
    evidence, all_seen = Evidence(), 0
    own = {"a": (0, 0), "b": (0, 0)}  # process, observations
    for name, dies, more in moves:
        process, before = own[name]
        own[name] = (process + 1, more) if dies else (process, before + more)
        all_seen += more
        evidence.saw(name, str(own[name][0]), saw(own[name][1]))
        assert num(evidence.total) == all_seen
        others = num(evidence.of_others(name))
        assert others == all_seen - own[name][1]


def test_the_next_process_goes_on_with_it_and_a_live_one_keeps_its_own(tmp_path: Path) -> None:
    evidence = Evidence()
    evidence.save(tmp_path)
    assert not list(tmp_path.iterdir())
    evidence.saw("rewarder-0", "first", saw(4))
    evidence.save(tmp_path)
    after = Evidence()
    after.recall(tmp_path)
    after.saw("rewarder-0", "second", saw(1))
    assert (num(after.total), num(after.of_others("rewarder-0"))) == (5, 4)
    after.recall(tmp_path)  # a learner died, and went back to the checkpoint
    assert num(after.total) == 5
