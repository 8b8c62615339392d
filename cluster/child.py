"""A process of its own for what needs torch for a while: its memory goes with it, and so do its libraries' messages."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Mapping
from tempfile import TemporaryFile
from typing import TextIO

from swarm.errors import ConfigError, SwarmError

LAST_LINES = 5
"""Of the child's messages, how many an error repeats."""


def apart(
    module: str,
    *args: object,
    say: Callable[[str], None],
    environment: Mapping[str, str] | None = None,
    failure: type[SwarmError] = ConfigError,
) -> None:
    """Run `python -m MODULE ARGS` and pass on its lines; an error of `say` ends it. Raises `failure` with its last
    messages where it fails."""
    # -P: a `cluster` or `json.py` in the user's folder is not meant
    command = [sys.executable, "-P", "-m", module, *map(str, args)]
    with TemporaryFile("w+", errors="replace") as messages:
        with subprocess.Popen(
            command,
            # Without an accelerator's name, transformers' import of DeepSpeed has something to say; threads that
            # wait by spinning take the cores that others need.
            env=os.environ | {"DS_ACCELERATOR": "cpu", "OMP_WAIT_POLICY": "PASSIVE"} | dict(environment or {}),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=messages,
            text=True,
        ) as child:
            try:
                assert child.stdout is not None
                for line in child.stdout:
                    say(line.rstrip())
            except BaseException:
                child.kill()
                raise
        if child.returncode:
            messages.seek(0)
            last = "".join(deque(messages, maxlen=LAST_LINES)).strip()
            raise failure(f"{' '.join(command)} ended with {child.returncode}; its last messages:\n{last}")


def own_stdout() -> TextIO:
    """In such a process: standard output for our lines alone; what libraries print goes to stderr."""
    own = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    return own
