"""A folder in shared memory that goes with its process: where published weights lie."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from pathlib import Path

_PREFIX = "swarm-weights-"


class RamFolder:
    """A new folder in /dev/shm (where there is none, among the temporary files), of mode 700 and an unguessable name.

    It is locked while this process lives; making one removes those of killed processes.
    """

    def __init__(self) -> None:
        shared = Path("/dev/shm")  # noqa: S108 - RAM-backed
        parent = shared if os.access(shared, os.W_OK) else Path(tempfile.gettempdir())
        for left in parent.glob(_PREFIX + "*"):
            _remove_if_dead(left)
        hidden = Path(tempfile.mkdtemp(prefix="." + _PREFIX, dir=parent))
        self._lock: int | None = os.open(hidden / "lock", os.O_CREAT | os.O_RDWR)
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        self.path = parent / hidden.name.removeprefix(".")
        hidden.rename(self.path)  # seen by others only when locked

    def close(self) -> None:
        """Remove it with what is in it; mappings that others hold stay valid. Twice is fine."""
        if self._lock is not None:
            shutil.rmtree(self.path, ignore_errors=True)
            os.close(self._lock)
            self._lock = None


def _remove_if_dead(folder: Path) -> None:
    try:
        lock = os.open(folder / "lock", os.O_RDWR)
    except OSError:
        return  # another user's, or just being made
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(folder, ignore_errors=True)
    except OSError:
        pass  # its owner lives
    finally:
        os.close(lock)
