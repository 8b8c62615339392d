"""The inside of a killable child process: read jobs, answer them, die with the parent. Standard library only.

Jobs come as JSON lines on standard input; answers leave as JSON lines on a pipe of their own, so that whatever the
handler prints goes to the parent's notes and not into the answers. A handler is an object made once from options and
then called with each job; what it returns must be plain data.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import resource
import signal
import sys
import traceback
from pathlib import Path
from typing import Any

PR_SET_PDEATHSIG = 1
LONGEST_ERROR = 600
"""Characters of an error that travel; the rest of a long message tells nobody anything."""


def main(setup: dict[str, Any]) -> None:
    """Serve until standard input ends. `setup`: parent, fd, handler (`module:class`), options, memory_bytes, cpu_s."""
    die_with(setup["parent"])
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if setup["memory_bytes"]:
        resource.setrlimit(resource.RLIMIT_AS, (setup["memory_bytes"], setup["memory_bytes"]))
    answers = setup["fd"]
    os.set_inheritable(answers, False)
    jobs = os.fdopen(os.dup(0), "rb")
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)  # a handler that calls input() must not eat the next job
    os.close(null)
    try:
        module, _, name = setup["handler"].partition(":")
        handler = getattr(importlib.import_module(module), name)(**setup["options"])
    except BaseException as error:  # noqa: BLE001 - the parent turns it into verdicts
        send(answers, {"failed": describe(error)})
        return
    send(answers, {"ready": True})
    for line in jobs:
        # Nothing handles its signal, so the kernel ends this process when the time is up, whatever code is running.
        signal.setitimer(signal.ITIMER_PROF, setup["cpu_s"])
        try:
            answer = {"value": handler(json.loads(line))}
        except BaseException as error:  # noqa: BLE001 - also SystemExit: a failed job is not our end
            answer = {"error": describe(error)}
        signal.setitimer(signal.ITIMER_PROF, 0)
        send(answers, answer)


def die_with(parent: int) -> None:
    """Have the kernel kill this process when the parent dies, even by SIGKILL and while we are in a busy loop."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # it died before the call above
        os._exit(1)


def send(fd: int, answer: dict[str, Any]) -> None:
    """Write one line, whole."""
    try:
        data = memoryview(json.dumps(answer).encode() + b"\n")
    except (TypeError, ValueError, RecursionError) as error:
        data = memoryview(json.dumps({"error": describe(error)}).encode() + b"\n")
    while data:
        data = data[os.write(fd, data) :]


def describe(error: BaseException) -> str:
    """Class, message and the innermost place outside the standard library, on one line."""
    try:
        text = " ".join(str(error).split())[:LONGEST_ERROR]
    except Exception as second:  # noqa: BLE001 - a foreign __str__ may raise anything
        text = f"(its message cannot be printed: {type(second).__name__})"
    frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename != __file__]
    where = f" (line {frames[-1].lineno} of {Path(frames[-1].filename).name})" if frames else ""
    return f"{type(error).__name__}: {text}{where}"
