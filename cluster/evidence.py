"""What reward workers know of their rewarders' errors, shared among them and kept in checkpoints.

    each worker's own evidence --saw--> Evidence --of_others--> each worker hears what the others saw
                                           |  file, total
                                        checkpoint --recall--> the next process

A worker's evidence is a sum of its own since it started: what is seen of it again takes the place of what was seen
before, and only that of a worker that died is added up. So nothing is counted twice.
"""

from __future__ import annotations

import json
from pathlib import Path

from rewarders.channels import State, pooled

FILE = "channels.json"
"""In a checkpoint, beside the learner's files."""


class Evidence:
    """Of all reward workers of a node."""

    def __init__(self) -> None:
        self._ended: State = {}
        self._last: dict[str, tuple[str, State]] = {}

    @property
    def total(self) -> State:
        """All of it, as far as workers were seen."""
        return pooled([self._ended, *(state for _, state in self._last.values())])

    def saw(self, name: str, process: str, state: State) -> None:
        """What a worker has seen itself since its process began; `process` tells it from the one before."""
        before = self._last.get(name)
        if before is not None and before[0] != process:
            self._ended = pooled([self._ended, before[1]])
        self._last[name] = process, state

    def of_others(self, name: str) -> State:
        """What a worker has not seen itself."""
        return pooled([self._ended, *(state for other, (_, state) in self._last.items() if other != name)])

    def save(self, folder: Path) -> None:
        """Write the total, where there is any."""
        if total := self.total:
            (folder / FILE).write_text(json.dumps(total), encoding="utf-8")

    def recall(self, folder: Path) -> None:
        """What an earlier process saved; workers hear of it with the rest. Live workers know more than the checkpoint
        that a dead learner went back to: then nothing happens."""
        path = folder / FILE
        if not self._last and not self._ended and path.is_file():
            self._ended = json.loads(path.read_text(encoding="utf-8"))
