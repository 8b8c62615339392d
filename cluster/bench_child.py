"""A process of its own for what a bench measures: fixed threads, its own memory, libraries' messages out of the way.

`Child` is the parent's side, `serve` the child's: a line of JSON for each request, a line for each answer. Called as
`python -m cluster.bench_child NAME` it serves `run` of the bench with that name: what the frame does with a bench that
is `apart`.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self

from cluster.child import own_stdout
from cluster.environment import of_worker

LAST_LINES = 8
"""Of a child's messages, how many an error repeats."""
_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


class Child:
    """A running `python -m MODULE ARGS`; ends with the `with` block."""

    def __init__(self, module: str, *args: object, threads: int) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", module, *map(str, args)],
            env=os.environ | of_worker(threads, gpus=0) | {"PYTHONHASHSEED": "0"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._messages: deque[str] = deque(maxlen=LAST_LINES)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        self._reader.join()
        for pipe in (self._process.stdin, self._process.stdout, self._process.stderr):
            if pipe is not None:
                pipe.close()

    def _read(self) -> None:
        assert self._process.stderr is not None
        self._messages.extend(self._process.stderr)

    def ask(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """The answer to one request. Raises RuntimeError with the child's last messages where it died."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # what it said before it died follows
        line = self._process.stdout.readline()
        if not line:
            code = self._process.wait()
            self._reader.join()
            raise RuntimeError(f"the bench's process ended with {code}; its last messages:\n{''.join(self._messages)}")
        answer: dict[str, Any] = json.loads(line)
        return answer


def serve(answer: Callable[[Mapping[str, Any]], Mapping[str, Any]]) -> None:
    """Answer requests from stdin until it ends. What anything else prints goes to stderr."""
    with own_stdout() as out:
        for line in sys.stdin:
            print(json.dumps(answer(json.loads(line))), file=out, flush=True)


def resident_bytes() -> int:
    """Of this process now, after memory that the allocator keeps for nobody was given back."""
    if sys.platform == "linux":
        ctypes.CDLL(None).malloc_trim(0)
        return _field("VmRSS")
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def start_peak() -> None:
    """Forget the largest resident size so far: the kernel counts it, so no sampling can miss it. It stays where the
    system has no such thing, and a peak is then that of the process's whole life."""
    resident_bytes()
    try:
        _CLEAR.write_text("5")
    except OSError:
        return


def stop_peak() -> int:
    """Largest resident bytes since `start_peak`."""
    if _STATUS.exists():
        return _field("VmHWM")
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _field(name: str) -> int:
    line = next(line for line in _STATUS.read_text().splitlines() if line.startswith(name + ":"))
    return int(line.split()[1]) * 1024


if __name__ == "__main__":
    from cluster.benches import BENCHES

    serve(BENCHES[sys.argv[1]]().run)
