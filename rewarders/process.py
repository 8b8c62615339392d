"""One child process: its pipes, the talk over them, and its end. `killable` starts, times and replaces them."""

from __future__ import annotations

import contextlib
import json
import math
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from typing import Any

import psutil

BOOT = "import json, sys; s = json.loads(sys.argv[1]); sys.path[:] = s['path']; import rewarders.child as c; c.main(s)"
LONGEST_ANSWER = 16 * 2**20
"""Bytes of one answer line; a child that sends more is out of control."""
TAIL = 300
"""Bytes of what the child printed that are kept for the cause."""


class ChildFailure(RuntimeError):
    """The child gave no answer to a job."""


class ChildTimeout(ChildFailure, TimeoutError):
    """The job took longer than its limit; the child was killed and is being replaced."""


class ChildDied(ChildFailure):
    """The child ended while it had the job; it is being replaced."""


class ChildOverspent(ChildFailure):
    """The job used up its processor time and would again; the child was killed and is being replaced."""


class ChildError(ChildFailure):
    """The child could not start, its handler raised, or its answer was not plain data."""


class Process:
    """One process and its three pipes; of one thread, except `signal` and `cpu_s`. OSError where it cannot start."""

    def __init__(self, setup: Mapping[str, Any], env: Mapping[str, str]) -> None:
        self.ready = False
        self._answers, theirs = os.pipe()
        try:
            argument = json.dumps({**setup, "fd": theirs, "parent": os.getpid()})
            self.process = subprocess.Popen(
                [sys.executable, "-u", "-P", "-c", BOOT, argument],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                pass_fds=(theirs,),
                start_new_session=True,
                env=dict(env),
                bufsize=0,
            )
        except BaseException:
            os.close(self._answers)
            raise
        finally:
            os.close(theirs)
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self._jobs, self._printed = self.process.stdin.fileno(), self.process.stdout.fileno()
        for fd in (self._answers, self._jobs, self._printed):
            os.set_blocking(fd, False)
        self._line = bytearray()
        self._tail = b""
        self._printing = True

    def converse(self, data: bytes, limit_s: float) -> dict[str, Any]:
        """Write a job and read the answer line, draining what is printed meanwhile."""
        deadline = time.monotonic() + limit_s
        rest = memoryview(data)
        poll = select.poll()
        poll.register(self._answers, select.POLLIN)
        if self._printing:
            poll.register(self._printed, select.POLLIN)
        if rest:
            poll.register(self._jobs, select.POLLOUT)
        while b"\n" not in self._line:
            left = deadline - time.monotonic()
            if left <= 0:
                raise ChildTimeout(self.with_tail(f"no answer within {limit_s:.3g} s"))
            events = dict(poll.poll(math.ceil(left * 1000)))
            if self._printed in events and not self._drain():
                poll.unregister(self._printed)
            if self._answers in events:
                self._read()
            elif self._jobs in events:
                rest = rest[self._write(rest) :]
                if not rest:
                    poll.unregister(self._jobs)
        line, _, self._line = self._line.partition(b"\n")
        return _decode(bytes(line))

    def with_tail(self, cause: str) -> str:
        """A cause with the end of what the child printed, if it printed."""
        if self._printing:
            self._drain()
        printed = " ".join(self._tail.decode(errors="replace").split())
        return f"{cause}; it printed: ...{printed}" if printed else cause

    def signal(self) -> None:
        """Kill the child and everything it started. Safe from any thread while the child is not reaped."""
        if self.process.returncode is None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.process.pid, signal.SIGKILL)

    def end(self) -> None:
        """Kill, reap, close the pipes."""
        self.signal()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout):
            if stream:
                stream.close()
        os.close(self._answers)

    def cpu_s(self) -> float:
        """CPU seconds so far; 0 once it is gone."""
        try:
            times = psutil.Process(self.process.pid).cpu_times()
        except psutil.Error:
            return 0.0
        return float(times.user + times.system)

    def _write(self, data: memoryview) -> int:
        try:
            return os.write(self._jobs, data)
        except BlockingIOError:
            return 0
        except BrokenPipeError:
            return len(data)  # it is dying: the end of the answers says how

    def _read(self) -> None:
        data = os.read(self._answers, 2**16)
        if not data:
            self.signal()
            code = self.process.wait()
            if code == -signal.SIGPROF:
                raise ChildOverspent("it takes more processor time than a job may")
            how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"exited with code {code}"
            raise ChildDied(self.with_tail(f"the child process {how}"))
        self._line += data
        if len(self._line) > LONGEST_ANSWER:
            raise ChildDied(f"the child process answered more than {LONGEST_ANSWER} bytes")

    def _drain(self) -> bool:
        """Read what there is; False at the end of it."""
        for _ in range(64):  # bounded, so that a child which never stops printing still meets its time limit
            try:
                data = os.read(self._printed, 2**16)
            except BlockingIOError:
                return True
            if not data:
                self._printing = False
                return False
            self._tail = (self._tail + data)[-TAIL:]
        return True


def _decode(line: bytes) -> dict[str, Any]:
    try:
        answer = json.loads(line)
    except (ValueError, RecursionError):
        answer = None
    if not isinstance(answer, dict):
        raise ChildDied("the child broke the protocol")
    return answer
