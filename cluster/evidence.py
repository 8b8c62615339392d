"""What reward workers found of their rewarders' errors, shared among them and kept in checkpoints.

    each worker's own evidence --saw--> Evidence --others--> each worker hears what the others found
                                           |  file       '--before--> the process that takes a dead one's place
                                        checkpoint --recall--> the next run of the driver

Evidence belongs to a worker's place: a process goes on from what its predecessor was last seen with, so nothing is
counted twice, and what fades goes on fading; so is what it has spent of its judges' budgets. Lost is what a process
found, or spent, after it was last seen.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from rewarders import channels, sentinels
from rewarders.worker import Evidence as Found
from swarm.checkpoints import newest_good

FILE = "evidence.json"
"""In a checkpoint, beside the learner's files: by place, as `RewardWorker.evidence` gives it."""


class Evidence:
    """Of all reward workers of a node."""

    def __init__(self) -> None:
        self._places: dict[str, Found] = {}
        self._seen = False

    def saw(self, name: str, found: Found) -> None:
        """What is known in a worker's place now; a process that has not heard yet does not know what was before it."""
        if found["heard"]:
            self._places[name], self._seen = found, True

    def before(self, name: str) -> Found | None:
        """What was last seen in this place."""
        return self._places.get(name)

    def others(self, name: str) -> Found:
        """What was found in all other places."""
        return pooled([found for place, found in self._places.items() if place != name])

    def save(self, folder: Path) -> None:
        """Write it, where there is any."""
        if self._places:
            (folder / FILE).write_text(json.dumps(self._places), encoding="utf-8")

    def recall(self, folder: Path) -> None:
        """What an earlier driver saved. Live workers know more than the checkpoint that a dead learner went back to:
        then nothing happens."""
        path = folder / FILE
        if not self._seen and path.is_file():
            self._places = json.loads(path.read_text(encoding="utf-8"))


def pooled(found: Sequence[Found]) -> Found:
    """The sum of what several workers found."""
    return {
        "channels": channels.pooled([part["channels"] for part in found]),
        "watches": sentinels.pooled([part["watches"] for part in found]),
    }


def found_in(checkpoints: Path) -> Found:
    """What all workers had found at the newest checkpoint in which that is whole; nothing without any."""
    newest, _ = newest_good(checkpoints, only=f"learner/{FILE}")
    path = newest / "learner" / FILE if newest else None
    places = json.loads(path.read_text(encoding="utf-8")) if path and path.is_file() else {}
    return pooled(list(places.values()))
