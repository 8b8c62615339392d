"""One started sandbox: its pipes, one job after the other, and its end. `sandbox` says how it is started."""

from __future__ import annotations

import contextlib
import marshal
import math
import os
import select
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import psutil

from rewarders.process import ChildDied, ChildError, ChildTimeout

START_S = 30.0
"""Seconds in which the first process must be there; nobody is charged for them."""
GONE_S = 5.0
"""Seconds in which the kernel must have taken down what was killed."""
BLOCK = 2**16
TAIL = 2000
"""Bytes of standard error that are kept."""
LOOK_S = 0.2
"""How often a run looks whether it is to stop."""


@dataclass(frozen=True, slots=True)
class Job:
    """One run of the program: what it reads, and what is asked of it afterwards."""

    stdin: bytes = b""
    prepare: str = ""
    """Statements that run after the program, before it is asked."""
    ask: str = ""
    """An expression in the program's names; empty where only its output counts."""


@dataclass(frozen=True, slots=True)
class Run:
    """What a program did in one job. Everything here may be hostile."""

    failed: str = ""
    """How it ended where it did not end well: exit code, signal, limit."""
    stdout: bytes = b""
    stderr: bytes = b""
    """The end of it."""
    answer: bytes = b""
    """JSON as `child_sandbox.encoded` writes it, where something was asked."""
    seconds: float = 0.0
    cpu_s: float = 0.0
    """Of the program and the children it waited for; 0 where it was killed."""


class Pipes(NamedTuple):
    """Ends that a sandbox inherits: for what is told, for answers, and one to read its filter of calls from (or -1)."""

    told: int
    answers: int
    refusals: int


@dataclass(slots=True)
class _Kept:
    """What came out of the pipes during one job."""

    most: int
    stdout: bytearray = field(default_factory=bytearray)
    stderr: bytearray = field(default_factory=bytearray)
    answer: bytearray = field(default_factory=bytearray)
    told: bytearray = field(default_factory=bytearray)
    num: int = 0

    @property
    def full(self) -> bool:
        return self.num > self.most

    def run(self, failed: str, seconds: float, cpu_s: float = 0.0) -> Run:
        return Run(failed, bytes(self.stdout), bytes(self.stderr[-TAIL:]), bytes(self.answer), seconds, cpu_s)


class Box:
    """A sandbox that waits for jobs; of one thread. Raises ChildError where it does not start.

    `command` makes the command line from the pipes that it inherits. With an `inbox`, a folder that is there inside as
    well, the jobs' input goes there; a process without one is a plain one, and gets it through its pipe.
    """

    def __init__(
        self,
        command: Callable[[Pipes], list[str]],
        setup: Mapping[str, object],
        most: int,
        cpu_s: float,
        *,
        inbox: Path | None,
        refusals: bytes = b"",
        tidy: Callable[[], None] = lambda: None,
    ) -> None:
        self.killed = False
        """The last job met a limit."""
        self._most, self._cpu_limit, self._inbox, self._tidy = most, cpu_s, inbox, tidy
        # The first process of a namespace takes all others with it; a plain one must be left the time to do so.
        self._signal = signal.SIGKILL if inbox else signal.SIGTERM
        self._told, told = os.pipe()
        self._answers, answers = os.pipe()
        pipes = Pipes(told, answers, _filled(refusals) if refusals else -1)
        theirs = [fd for fd in pipes if fd >= 0]
        try:
            self._process = subprocess.Popen(
                command(pipes),
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                pass_fds=theirs, start_new_session=True, bufsize=0,
                env={"PYTHONHASHSEED": "0", "LANG": "C.UTF-8"},
            )  # fmt: skip
        except OSError as error:
            os.close(self._told)
            os.close(self._answers)
            tidy()
            raise ChildError(f"the sandbox did not start: {error}") from error
        finally:
            for fd in theirs:
                os.close(fd)
        streams = (self._process.stdin, self._process.stdout, self._process.stderr)
        self._jobs, self._stdout, self._stderr = (stream.fileno() for stream in streams if stream)
        for fd in (self._jobs, self._stdout, self._stderr, self._told, self._answers):
            os.set_blocking(fd, False)
        try:
            self._wait_until_ready(setup)
        except BaseException:
            self.end()
            raise

    def run(self, job: Job, wall_s: float, stop: Callable[[], bool] = lambda: False) -> Run:
        """Run the program on one job. Raises ChildDied, ChildTimeout or ChildError where the sandbox failed."""
        began = time.monotonic()
        kept = _Kept(self._most)
        frame = {"stdin": b"" if self._inbox else job.stdin, "prepare": job.prepare, "ask": job.ask}
        if self._inbox:
            try:
                (self._inbox / "stdin").write_bytes(job.stdin)
            except OSError as error:
                raise ChildError(f"the sandbox got no input: {error}") from error
        if not self._talk(frame, began + wall_s, kept, stop):
            if kept.full:
                failed = f"wrote more than {kept.most} bytes"
            elif stop():
                raise ChildDied("the sandbox was closed")
            else:
                self._check_that_it_could_run(wall_s)
                failed = f"took longer than {wall_s:.3g} s"
            self.kill()
            return kept.run(failed, time.monotonic() - began)
        match kept.told.split():
            case [b"ended", code, cpu_s]:
                return kept.run(_how(int(code)), time.monotonic() - began, float(cpu_s))
        raise ChildError(f"the sandbox could not run the program: {kept.told.decode(errors='replace').strip()}")

    def kill(self) -> None:
        """All of it."""
        self.killed = True
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, self._signal)

    def end(self) -> None:
        """Kill it, and wait until the last process of it is gone."""
        with contextlib.suppress(OSError):
            if self._process.stdin:
                self._process.stdin.close()
        self.kill()
        self._wait_until_gone()
        self._signal = signal.SIGKILL
        self.kill()
        self._process.wait()
        for stream in (self._process.stdout, self._process.stderr):
            if stream:
                stream.close()
        os.close(self._told)
        os.close(self._answers)
        self._tidy()

    def _wait_until_ready(self, setup: Mapping[str, object]) -> None:
        kept = _Kept(self._most)
        try:
            ready = self._talk(setup, time.monotonic() + START_S, kept)
        except ChildDied as died:
            raise ChildError(f"the sandbox did not start: {died}") from died
        if not ready or kept.told != b"ready\n":
            raise ChildError(f"the sandbox did not start within {START_S:.0f} s")

    def _talk(self, frame: Any, deadline: float, kept: _Kept, stop: Callable[[], bool] = lambda: False) -> bool:
        """Send a frame and read until something is told; False at the deadline, a stop, or with too much output."""
        data = marshal.dumps(frame)
        rest = memoryview(len(data).to_bytes(4, "big") + data)
        into = {self._stdout: kept.stdout, self._stderr: kept.stderr, self._answers: kept.answer}
        poll = select.poll()
        for fd in (self._told, *into):
            poll.register(fd, select.POLLIN)
        poll.register(self._jobs, select.POLLOUT)
        while not kept.told.endswith(b"\n"):
            left = deadline - time.monotonic()
            if left <= 0 or kept.full or stop():
                return False
            for fd, _ in poll.poll(math.ceil(min(left, LOOK_S) * 1000)):
                if fd == self._jobs:
                    rest = rest[self._write(rest) :]
                    if not rest:
                        poll.unregister(fd)
                elif fd == self._told:
                    self._listen(kept)
                elif not _read(fd, into[fd], kept):
                    poll.unregister(fd)
        _drain(into, kept)
        return not kept.full

    def _listen(self, kept: _Kept) -> None:
        told = os.read(self._told, BLOCK)
        if told:
            kept.told += told
            return
        self._process.wait()
        _read(self._stderr, kept.stderr, kept)
        said = " ".join(bytes(kept.stderr[-TAIL:]).decode(errors="replace").split())
        raise ChildDied(f"the sandbox died{': ' + said if said else ''}")

    def _write(self, data: memoryview) -> int:
        try:
            return os.write(self._jobs, data)
        except BlockingIOError:
            return 0
        except BrokenPipeError:
            return len(data)  # it is dying: the end of what it tells says so

    def _check_that_it_could_run(self, wall_s: float) -> None:
        """Raise ChildTimeout where the program got no processor, through no fault of its own."""
        used, waited = [0.0], [0.0]
        with contextlib.suppress(psutil.Error, OSError, ValueError, IndexError):
            for process in psutil.Process(self._process.pid).children(recursive=True):
                queued = Path(f"/proc/{process.pid}/schedstat").read_text().split()[1]
                used.append(sum(process.cpu_times()[:4]))  # with its children that have ended
                waited.append(int(queued) / 1e9)
        if is_starved(used, waited, wall_s, self._cpu_limit):
            self.kill()
            text = f"in {wall_s:.3g} s the program waited {max(waited):.3g} s for a processor: too busy here"
            raise ChildTimeout(text)

    def _wait_until_gone(self) -> None:
        """Read until the last holder of the pipe is gone."""
        deadline = time.monotonic() + GONE_S
        poll = select.poll()
        poll.register(self._answers, select.POLLIN)
        while (left := deadline - time.monotonic()) > 0:
            if poll.poll(math.ceil(left * 1000)):
                with contextlib.suppress(BlockingIOError):
                    if not os.read(self._answers, BLOCK):
                        return


def _filled(data: bytes) -> int:
    """A pipe to read this from."""
    ours, theirs = os.pipe()
    os.write(theirs, data)  # less than a pipe holds
    os.close(theirs)
    return ours


def is_starved(used_s: Sequence[float], waited_s: Sequence[float], wall_s: float, cpu_limit_s: float) -> bool:
    """Whether a program that met its wall limit had too little of the processors, rather than slept or span, by what
    each of its processes used and how long it waited for a processor.

    One of them must have waited most of the time: several that wake together all wait for one another, whatever is
    free, and a program could otherwise make its failure look like ours. What waits for processes that never sleep does
    so too, but then they use up the CPU limit together.
    """
    return max(waited_s, default=0.0) > wall_s / 2 and sum(used_s) < cpu_limit_s


def _drain(into: Mapping[int, bytearray], kept: _Kept) -> None:
    """Take the rest, after the last writer's death."""
    for fd, data in into.items():
        while not kept.full and _read(fd, data, kept, drain=True):
            pass


def _read(fd: int, into: bytearray, kept: _Kept, drain: bool = False) -> bool:
    """Take what is there, and count it; False at the end of the pipe, or, to `drain`, where nothing more is there."""
    try:
        data = os.read(fd, BLOCK)
    except BlockingIOError:
        return not drain
    into += data
    kept.num += len(data)
    return bool(data)


def _how(code: int) -> str:
    if code == 0:
        return ""
    return f"exited with code {code}" if code > 0 else f"was killed by {signal.Signals(-code).name}"
