"""How much memory a run takes: the proportional set size (PSS) of this process and everything below it, summed.

PSS divides a page that n processes map by n, so libraries, Ray's object store and mapped weights count once. Ray's
daemons are children of the driver and its workers are children of the raylet; a process that outlives its parent (and
so leaves the tree) is remembered and still counted. Files in /dev/shm that nobody has mapped are in no process.
"""

from __future__ import annotations

import threading
import time

import psutil

SERIES = 600
"""Points kept at most; when full, every second one is dropped and the spacing doubles."""


class MemorySampler:
    """Samples on a thread of its own. `start`, then `stop` gives the peak; both can be called at any time."""

    def __init__(self, every_s: float = 1.0, root: int | None = None) -> None:
        """`root` is the process at the top of the tree; default: this one."""
        self.peak_bytes = 0
        self.now_bytes = 0
        self.series: list[tuple[float, int]] = []
        """(seconds since the start, bytes), thinned to the larger of two neighbours."""
        self.spent_s = 0.0
        """What sampling itself has cost."""
        self._every_s = every_s
        self._root = psutil.Process(root)
        self._seen: dict[int, psutil.Process] = {}
        self._began = time.monotonic()
        self._spacing, self._next = 0.0, 0.0
        self._enough = threading.Event()
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()

    def start(self) -> None:
        """Sample from now on."""
        self._began = time.monotonic()
        self._thread = threading.Thread(target=self._run, name="memory", daemon=True)
        self._thread.start()

    def stop(self) -> int:
        """The peak in bytes, with a last sample."""
        self._enough.set()
        if self._thread is not None:
            self._thread.join()
        self.sample()
        return self.peak_bytes

    def sample(self) -> int:
        """Bytes now. A process that ends meanwhile counts as nothing."""
        began = time.monotonic()
        with self._lock:
            for process in self._tree():
                self._seen.setdefault(process.pid, process)
            total = 0
            for pid, process in list(self._seen.items()):
                size = _pss(process)
                if size is None:
                    del self._seen[pid]
                else:
                    total += size
            self.now_bytes, self.peak_bytes = total, max(total, self.peak_bytes)
            self._keep(began - self._began, total)
            self.spent_s += time.monotonic() - began
        return total

    def _run(self) -> None:
        while not self._enough.is_set():
            began = time.monotonic()
            self.sample()
            self._enough.wait(max(0.0, self._every_s - (time.monotonic() - began)))

    def _tree(self) -> list[psutil.Process]:
        try:
            return [self._root, *self._root.children(recursive=True)]
        except psutil.Error:
            return []

    def _keep(self, at: float, total: int) -> None:
        """Within the spacing the largest value stays, so that thinning never hides a peak."""
        if self.series and at < self._next:
            last, largest = self.series[-1]
            self.series[-1] = (last, max(largest, total))
            return
        self.series.append((round(at, 2), total))
        if len(self.series) > SERIES:
            pairs = zip(self.series[::2], [*self.series[1::2], (0.0, 0)], strict=False)
            self.series = [(first[0], max(first[1], second[1])) for first, second in pairs]
            self._spacing = 2 * self._spacing or 2 * self._every_s
        self._next = at + self._spacing


def _pss(process: psutil.Process) -> int | None:
    """Bytes; None where the process is gone. Without smaps_rollup (not Linux) the resident size stands in.

    The file is read here, since psutil's `memory_full_info` may parse every single mapping, which takes far longer.
    """
    try:
        if not process.is_running():  # also false where the number was given to another process
            return None
        with open(f"/proc/{process.pid}/smaps_rollup", "rb") as file:
            for line in file:
                if line.startswith(b"Pss:"):
                    return int(line.split()[1]) * 1024
        return 0
    except ProcessLookupError:
        return None  # ended while it was read
    except (FileNotFoundError, PermissionError):
        pass  # gone, not Linux, or not ours to look at: the next call tells
    try:
        return int(process.memory_info().rss)
    except psutil.Error:
        return None
