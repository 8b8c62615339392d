"""Runs programs that nobody trusts: Python text in, what it printed and answered out, and nothing of it stays.

    event loop -- run(program, jobs) --> one thread of `parallel` --> Box: bubblewrap --> first process --> the program
                                                                          (child_sandbox)     a fork per job

In bubblewrap a program sees the standard library, read only, and an empty /tmp; no network, no other process, no
environment, no /proc; and the kernel refuses it what gets round limits (`sandbox_calls`). Where bubblewrap is absent or
the kernel refuses it namespaces, a plain process with the same limits runs it, and a warning says once what is missing
then. Limits: wall and CPU seconds, memory, processes, bytes of files and of output. As root the program runs as a user
that owns nothing.

What a program does is a `Run`, a crash or a time limit too. What happens to the sandbox is a `ChildFailure`: it could
not start, was killed from outside, or the machine was too busy to run it.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import resource
import shutil
import sys
import sysconfig
import tempfile
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rewarders.process import ChildDied, ChildError, ChildFailure
from rewarders.sandbox_box import Box, Job, Pipes, Run
from rewarders.sandbox_calls import refusals

INSIDE = Path(__file__).with_name("child_sandbox.py")
UNUSED_USERS = range(1_500_000_000, 1_900_000_000)
"""Nobody has these numbers; each sandbox takes another, so that the limit of processes is its own."""
HOME = "/tmp"  # noqa: S108 - a file system of the sandbox's own
SYSTEM = ("/usr/lib", "/usr/lib64", "/lib", "/lib64", "/etc/ld.so.cache", "/usr/share/zoneinfo")
FIRST_TO_GO = ("/bin/sh", "-c", 'echo 1000 > /proc/self/oom_score_adj; exec "$@"', "sh")
"""Where memory runs out, the kernel takes the sandbox before it takes us."""
INBOX = "/inbox"
"""Where a job's input lies, read only."""
UNFILTERED = "this kernel filters no system calls: programs in bubblewrap can take more memory than their limit"
OPEN_FILES = 64
SECONDS_TO_TRY = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Of one program. Memory is of each process; files are all together in bubblewrap, each alone without."""

    cpu_s: int = 2
    """Processor seconds of one job."""
    wall_s: float = 5.0
    """Seconds of one job."""
    memory_mb: int = 512
    processes: int = 8
    """Processes and threads; without bubblewrap there can be no more than one."""
    file_mb: int = 16
    output_kb: int = 1024
    """Printed and answered, in one job; the sandbox is killed at the next byte."""

    def __post_init__(self) -> None:
        for name in ("cpu_s", "wall_s", "memory_mb", "processes", "file_mb", "output_kb"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} = {getattr(self, name)!r}: wanted more than 0")
        if self.memory_mb < 64:
            raise ValueError(f"memory_mb = {self.memory_mb}: an interpreter needs 64 to start")


@dataclass(frozen=True, slots=True)
class Way:
    """How programs are run here."""

    bubblewrap: str = ""
    """The executable; empty for a plain process."""
    other_user: bool = False
    """Whether we are root, so that the program is made to run as somebody else."""
    lacks: str = ""
    """Why it is no better way, and what is missing; empty in bubblewrap with its filter."""
    filtered: bool = True
    """Whether the kernel filters the calls of programs in bubblewrap."""

    def command(self, script: str, pipes: Pipes, limits: Limits, folder: str) -> list[str]:
        """What starts the first process with this source and its two pipes."""
        fds = (str(pipes.told), str(pipes.answers))
        python = [os.path.realpath(sys.executable), "-s", "-S", "-P", "-B", "-c", script, *fds]
        if not self.bubblewrap:
            return python
        return [*FIRST_TO_GO, *self._contained(limits, pipes.refusals, folder), *python]

    def setup(self, program: str, limits: Limits, folder: str) -> dict[str, object]:
        """What the first process is told, see `child_sandbox`. `folder` is ours, for this sandbox alone."""
        most = limits.processes + (not self.other_user) if self.bubblewrap else 0
        memory, files = limits.memory_mb * 2**20, limits.file_mb * 2**20
        return {
            "program": program,
            "parent": 0 if self.bubblewrap else os.getpid(),
            "home": HOME if self.bubblewrap else folder,
            "inbox": INBOX if self.bubblewrap else "",
            "user": random.choice(UNUSED_USERS) if self.other_user else None,
            "limits": {
                resource.RLIMIT_CPU: (limits.cpu_s, limits.cpu_s + 1),
                resource.RLIMIT_AS: (memory, memory),
                resource.RLIMIT_NPROC: (most, most),
                resource.RLIMIT_FSIZE: (files, files),
                resource.RLIMIT_NOFILE: (OPEN_FILES, OPEN_FILES),
                resource.RLIMIT_CORE: (0, 0),
            },
        }

    def _contained(self, limits: Limits, refusals: int, folder: str) -> list[str]:
        """Bubblewrap with a root of its own in which there is only what the interpreter needs."""
        filtered = ("--seccomp", str(refusals)) if refusals >= 0 else ()
        unshared = [f"--unshare-{what}" for what in ("pid", "net", "ipc", "uts")]
        if self.other_user:  # root needs no user namespace, but all its capabilities are taken but these
            unshared += [part for what in ("SETUID", "SETGID", "KILL") for part in ("--cap-add", f"CAP_{what}")]
        else:
            unshared.append("--unshare-user")
        library = sysconfig.get_path("stdlib")
        paths = [library, os.path.realpath(sys.executable), *map(str, _shared_library())]
        # Parents that bubblewrap makes by itself are closed to other users than ours.
        parents = {str(parent) for path in (*SYSTEM, *paths, "/dev/null") for parent in Path(path).parents} - {"/"}
        return [
            *(self.bubblewrap, "--die-with-parent", "--as-pid-1", "--clearenv", "--cap-drop", "ALL", *unshared),
            *(*filtered, "--ro-bind", folder, INBOX),
            *(part for path in sorted(parents) for part in ("--dir", path)),
            *("--perms", "1777", "--size", str(limits.file_mb * 2**20), "--tmpfs", HOME, "--chdir", HOME),
            *(part for path in SYSTEM for part in ("--ro-bind-try", path, path)),
            *(part for path in paths for part in ("--ro-bind", path, path)),
            *(
                part
                for path in Path(library).glob("*-packages")
                for part in ("--tmpfs", str(path), "--remount-ro", str(path))
            ),
            *(part for name in ("null", "zero", "urandom") for part in ("--dev-bind", f"/dev/{name}", f"/dev/{name}")),
            *("--remount-ro", "/", "--setenv", "PYTHONHASHSEED", "0", "--setenv", "LANG", "C.UTF-8", "--"),
        ]


class Sandbox:
    """Runs programs, at most `parallel` at once, each in a sandbox of its own."""

    def __init__(self, limits: Limits | None = None, *, parallel: int = 1) -> None:
        if parallel < 1:
            raise ValueError(f"parallel = {parallel}: wanted at least 1")
        self.limits = limits or Limits()
        self._closed = False
        self._cpu_s = 0.0
        # Linux sends the parent-death signal when the *thread* that started the child ends: these live until `close`.
        self._threads = ThreadPoolExecutor(parallel, thread_name_prefix="sandbox")

    async def run(
        self, program: str, jobs: Sequence[Job], budget_s: float, keep: Callable[[int, Run], Any] = lambda _, run: run
    ) -> list[Any]:
        """What `keep` makes of each job's number and `Run`, in order, else the `Run`s; jobs that `budget_s` (of all, in
        seconds) leaves no time for fail. `keep` is called on the sandbox's thread as soon as a job has ended: reading
        what programs wrote takes time, and a thousand outputs would be a gigabyte.

        Jobs share /tmp and nothing else. Raises ChildFailure where the sandbox failed.
        """
        stop = threading.Event()
        future = self._threads.submit(self._run, program, list(jobs), budget_s, keep, stop)
        try:
            return await asyncio.wrap_future(future)
        except asyncio.CancelledError:
            stop.set()
            raise

    def cpu_s(self) -> float:
        """CPU seconds of the programs so far."""
        return self._cpu_s

    def close(self) -> None:
        """Kill what runs, and wait for it. May be called twice."""
        self._closed = True
        self._threads.shutdown(wait=True)

    def _run(
        self,
        program: str,
        jobs: list[Job],
        budget_s: float,
        keep: Callable[[int, Run], Any],
        stop: threading.Event,
    ) -> list[Any]:
        way, kept = find_way(), []
        box: Box | None = None
        left = budget_s

        def stopped() -> bool:
            return self._closed or stop.is_set()

        try:
            for number, job in enumerate(jobs):
                if stopped():
                    raise ChildDied("the sandbox was closed")
                if left <= 0:
                    kept.append(keep(number, Run(f"no time left: the jobs before took {budget_s:.3g} s")))
                    continue
                if box is None:
                    box = open_box(way, program, self.limits)
                run = box.run(job, min(left, self.limits.wall_s), stopped)
                kept.append(keep(number, run))
                left -= run.seconds
                self._cpu_s += run.cpu_s
                if box.killed:
                    box.end()
                    box = None
        finally:
            if box:
                box.end()
        return kept


def open_box(way: Way, program: str, limits: Limits) -> Box:
    """A started sandbox. Raises ChildFailure where it cannot start."""
    try:
        folder = tempfile.mkdtemp(prefix="sandbox-")
    except OSError as error:
        raise ChildError(f"the sandbox did not start: {error}") from error
    setup = way.setup(program, limits, folder)
    if not way.bubblewrap and isinstance(setup["user"], int):
        os.chown(folder, setup["user"], setup["user"])
    script = INSIDE.read_text()
    return Box(
        lambda pipes: way.command(script, pipes, limits, folder),
        setup,
        limits.output_kb * 1024,
        limits.cpu_s,
        inbox=Path(folder) if way.bubblewrap else None,
        refusals=refusals() if way.bubblewrap and way.filtered else b"",
        tidy=lambda: shutil.rmtree(folder, ignore_errors=True),
    )


@dataclass(slots=True)
class _Found:
    """The way of this process, once it has been looked for."""

    way: Way | None = None
    lock: threading.Lock = field(default_factory=threading.Lock)


_found = _Found()


def find_way() -> Way:
    """The best way that works here, tried once in a process; blocks for some tens of milliseconds then.

    Logs a warning where it is a plain process. Raises ChildFailure where not even that works.
    """
    with _found.lock:
        if _found.way is None:
            _found.way = look()
            if _found.way.lacks:
                logging.getLogger(__name__).warning("%s", _found.way.lacks)
        return _found.way


def look() -> Way:
    """Try the ways from the best on."""
    bubblewrap, root = shutil.which("bwrap"), os.geteuid() == 0
    why = "bubblewrap (bwrap) is not installed"
    if bubblewrap:
        for way in (Way(bubblewrap, root), Way(bubblewrap, root, lacks=UNFILTERED, filtered=False)):
            if not (problem := _problem(way)):
                return way
        why = f"bubblewrap does not work here ({problem})"
    if root and not _problem(other := Way("", other_user=True, lacks=_warning(why, "as a user of its own"))):
        return other
    plain = Way("", lacks=_warning(why, "AS ROOT" if root else "as this user"))
    if problem := _problem(plain):
        raise ChildDied(f"no way to run programs: {why}; a plain process: {problem}")
    return plain


def _problem(way: Way) -> str:
    """Why this way does not work here; empty where it does."""
    limits = Limits()
    try:
        box = open_box(way, "import json, random; print(6 * 7)", limits)
        try:
            run = box.run(Job(), SECONDS_TO_TRY)
        finally:
            box.end()
    except ChildFailure as failure:
        return str(failure)
    said = run.stderr.decode(errors="replace").strip().rpartition("\n")[2]
    return "" if run.stdout == b"42\n" else f"a first program {run.failed or 'printed something else'}: {said}"


def _warning(why: str, who: str) -> str:
    return (
        f"{why}: programs run in plain processes, {who}, with limits on time, memory and output, and start no others; "
        "but they can reach the network and the files of this machine. Install bubblewrap, or allow it namespaces"
    )


def _shared_library() -> list[Path]:
    """libpython, where the interpreter is linked to one."""
    folder, name = sysconfig.get_config_var("LIBDIR"), sysconfig.get_config_var("INSTSONAME")
    path = Path(folder or "/nowhere", name or "none")
    return [path] if path.suffix != ".a" and path.is_file() else []
