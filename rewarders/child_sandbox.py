"""Runs as the first process of a sandbox: takes jobs, forks the program once for each, and tells how that ended.

    sandbox --setup, jobs (fd 0)--> this --fork, limits, another user--> the program
            <------ how it ended --------                                    |
            <------ what it printed (fd 1, 2), what it answers --------------+

Its source is handed to `python -c`, so that nothing of ours needs to be visible inside. The program may know all of it:
it holds no secret, the forks cannot reach its pipes, and expected values never come here. What a fork leaves running
is killed before the end is told, so all that it wrote is in the pipes by then. Builtin modules only: starting must be
cheap.
"""

from __future__ import annotations

import marshal
import os
import resource
import signal
import sys
from _json import encode_basestring_ascii as quoted  # `json` imports `re`, which takes longer than most programs

JOBS = 0
SET_CHILD_SUBREAPER, SET_PDEATHSIG = 36, 1


def main(ended: int, answers: int) -> None:
    """Returns in a fork only, after the program; the fork's interpreter then ends as any other."""
    setup = marshal.loads(receive())  # noqa: S302 - from our parent
    if setup["parent"]:
        stay_with(setup["parent"])
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Python's own handler would let the program stop this process
    send(ended, b"ready\n")
    while frame := receive():
        child = os.fork()
        if child == 0:
            job = marshal.loads(frame)  # noqa: S302
            try:
                enter(setup, job["stdin"])
            except BaseException as error:  # noqa: BLE001 - ours, not the program's
                send(ended, f"failed {type(error).__name__}: {error}\n".encode())
                os._exit(1)
            os.close(ended)
            perform(setup["program"], job, answers)
            return
        _, status, used = os.wait4(child, 0)
        if setup["parent"]:
            end_offspring()
        else:
            end_all_others()
        seconds = used.ru_utime + used.ru_stime
        send(ended, f"ended {os.waitstatus_to_exitcode(status)} {seconds:.4f}\n".encode())
    os._exit(0)


def receive() -> bytes:
    """One frame: four bytes of length, then so many; empty at the end."""
    data = bytearray()
    wanted = 4
    while len(data) < wanted:
        more = os.read(JOBS, wanted - len(data))
        if not more:
            return b""
        data += more
        if wanted == 4 == len(data):
            wanted += int.from_bytes(data[:4], "big")
    return bytes(data[4:])


def send(fd: int, data: bytes) -> None:
    """Write all of it."""
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(fd, rest) :]


def enter(setup: dict[str, object], stdin: bytes) -> None:
    """In the fork: become the program's process. Raises OSError or ValueError where a limit cannot be set."""
    if setup["inbox"]:  # read only: what creates files in memory is refused to programs, and so to us
        file = os.open(f"{setup['inbox']}/stdin", os.O_RDONLY)
    else:
        file = os.memfd_create("stdin")
        send(file, stdin)
        os.lseek(file, 0, os.SEEK_SET)
    os.dup2(file, JOBS)
    os.close(file)
    os.setsid()
    os.chdir(str(setup["home"]))
    signal.signal(signal.SIGINT, signal.default_int_handler)
    limits = setup["limits"]
    assert isinstance(limits, dict)
    for which, (soft, hard) in limits.items():
        resource.setrlimit(which, (soft, hard))
    user = setup["user"]
    if isinstance(user, int):
        os.setgroups([])
        os.setresgid(user, user, user)
        os.setresuid(user, user, user)
    if setup["parent"]:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        control(SET_PDEATHSIG, signal.SIGKILL)  # after the change of user, which clears it


def perform(program: str, job: dict[str, str], answers: int) -> None:
    """Run the program as `__main__`; then, where something is asked of it, answer and leave at once."""
    module = type(sys)("__main__")
    sys.modules["__main__"] = module
    sys.argv = ["program.py"]
    exec(compile(program, "program.py", "exec"), module.__dict__)  # noqa: S102 - what all of this is for
    if job["ask"]:
        exec(compile(job["prepare"], "test.py", "exec"), module.__dict__)  # noqa: S102
        values = eval(compile(job["ask"], "test.py", "eval"), module.__dict__)  # noqa: S307
        send(answers, encoded(values).encode())
        os._exit(0)


def encoded(value: object) -> str:
    """As JSON: None, bool, text, float and small int as they are; [kind, content] for all else that is plain data."""
    if value is None or value is True or value is False:
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, str):
        return quoted(str(value))
    if isinstance(value, int):
        value = int(value)
        return str(value) if abs(value) < 2**63 else f'["int", "{value:x}"]'
    if isinstance(value, float):
        text = float.__repr__(value)
        return f'["float", "{text}"]' if text in ("inf", "-inf", "nan") else text
    if isinstance(value, complex):
        return f'["complex", [{encoded(value.real)}, {encoded(value.imag)}]]'
    if isinstance(value, (bytes, bytearray)):
        return f'["bytes", "{value.hex()}"]'
    for kind in (list, tuple, set, frozenset):
        if isinstance(value, kind):
            return f'["{kind.__name__}", [{", ".join(encoded(item) for item in value)}]]'
    if isinstance(value, dict):
        items = ", ".join(f"[{encoded(key)}, {encoded(item)}]" for key, item in value.items())
        return f'["dict", [{items}]]'
    raise TypeError(f"{type(value).__name__} is not plain data")


def end_all_others() -> None:
    """As the first process of a process namespace: kill everything else in it, at one instant."""
    try:  # noqa: SIM105 - contextlib takes long to import
        os.kill(-1, signal.SIGKILL)
    except OSError:
        pass  # there is nobody
    try:
        while True:
            os.waitpid(-1, 0)
    except ChildProcessError:
        return


def stay_with(parent: int) -> None:
    """Without a process namespace: die with the parent, and inherit what the program's processes leave behind."""
    control(SET_PDEATHSIG, signal.SIGKILL)
    control(SET_CHILD_SUBREAPER, 1)
    signal.signal(signal.SIGTERM, take_all_along)
    with open("/proc/self/oom_score_adj", "w") as file:
        file.write("1000")
    if os.getppid() != parent:  # it died before the call above
        os._exit(1)


def control(what: int, value: int) -> None:
    """Of this process, by the kernel."""
    import ctypes

    ctypes.CDLL(None, use_errno=True).prctl(what, value, 0, 0, 0)


def take_all_along(*_: object) -> None:
    """Without a process namespace: end with all offspring."""
    end_offspring()
    os._exit(1)


def end_offspring() -> None:
    """Without a process namespace: kill children until there are none; orphans become children."""
    try:
        while True:
            for name in os.listdir("/proc"):  # noqa: PTH208 - as does pathlib
                if name.isdigit() and parent_of(name) == os.getpid():
                    os.kill(int(name), signal.SIGKILL)
            os.waitpid(-1, 0)
    except ChildProcessError:
        return


def parent_of(pid: str) -> int:
    """The parent's process id; 0 where the process is gone."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return int(file.read().rpartition(b")")[2].split()[1])
    except OSError:
        return 0


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
