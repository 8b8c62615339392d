"""What the kernel refuses a program in bubblewrap, and that ordinary programs do not notice."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Iterator

import pytest

from rewarders import sandbox as module
from rewarders.sandbox import Limits, Sandbox
from rewarders.sandbox_box import Job
from rewarders.sandbox_calls import ARCHITECTURES, REFUSED, refusals


@pytest.fixture(scope="module")
def contained() -> Iterator[Sandbox]:
    if not module.find_way().bubblewrap:
        pytest.skip(module.find_way().lacks)
    made = Sandbox(Limits(cpu_s=2, wall_s=20.0))
    yield made
    made.close()


def printed(sandbox: Sandbox, program: str) -> list[str]:
    [found] = asyncio.run(sandbox.run(program, [Job(b"a\nb\n")], 60.0))
    assert found.failed == "", found.stderr
    return found.stdout.decode().split("\n")[:-1]


C = """
import ctypes, errno
c = ctypes.CDLL(None, use_errno=True)
def tried(name, *arguments):
    found = getattr(c, name)(*arguments)
    print(found, errno.errorcode.get(ctypes.get_errno()))
"""


@pytest.mark.parametrize(
    "call",
    [
        "'shmget', 0, 2**20, 0o1600",  # shared memory is not in the address space of anybody
        "'msgget', 0, 0o1600",
        "'memfd_create', b'x', 0",
        "'unshare', 0x10020000",  # a user and a mount namespace: a file system of any size
        "'syscall', 101, 16, 1, 0, 0"
        if ARCHITECTURES and refusals("x86_64") == refusals()
        else "'ptrace', 16, 1, 0, 0",
        "'process_vm_readv', 1, 0, 0, 0, 0, 0",
        "'mount', b'none', b'/tmp', b'tmpfs', 0, 0",
    ],
)
def test_what_gets_round_the_limits_is_refused(contained, call) -> None:
    assert printed(contained, f"{C}tried({call})") == ["-1 EPERM"]


def test_a_fork_cannot_ask_for_namespaces_and_plain_forks_and_threads_work(contained) -> None:
    program = (
        C
        + """
import os, threading
number = 56 if os.uname().machine == "x86_64" else 220
tried("syscall", number, 0x10000000 | 17, 0, 0, 0, 0)
pid = os.fork()
if pid == 0: os._exit(7)
print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
t = threading.Thread(target=print, args=("thread",)); t.start(); t.join()
"""
    )
    assert printed(contained, program) == ["-1 EPERM", "7", "thread"]


def test_memory_that_belongs_to_no_process_is_not_to_be_had(contained) -> None:
    program = """
import os
held, num = [], 0
try:
    while num < 1000:
        held.append(os.memfd_create("x"))
        num += os.write(held[-1], bytes(2**20)) // 2**20
except OSError as error:
    print(num, type(error).__name__)
"""
    assert printed(contained, program) == ["0 PermissionError"]


def test_input_is_a_file_that_cannot_be_written_and_others_are_not_there(contained) -> None:
    program = """
import os, sys
print(repr(os.read(0, os.fstat(0).st_size)), os.lseek(0, 0, 0), repr(sys.stdin.read()))
for tried in (lambda: os.write(0, b"x"), lambda: open("/inbox/stdin", "a"), lambda: open("/inbox/other", "w")):
    try: print(tried())
    except OSError as error: print("refused")
"""
    assert printed(contained, program) == ["b'a\\nb\\n' 0 'a\\nb\\n'", "refused", "refused", "refused"]


def test_where_the_kernel_filters_nothing_bubblewrap_is_still_better_than_none(contained, monkeypatch) -> None:
    monkeypatch.setattr(module, "refusals", lambda: b"no filter at all")  # which the kernel does not take
    way = module.look()
    assert (bool(way.bubblewrap), way.filtered) == (True, False)
    assert "more memory" in way.lacks


def test_large_input_arrives_whole(contained) -> None:
    big = b"x" * 5_000_000
    [found] = asyncio.run(contained.run("import sys; print(len(sys.stdin.read()))", [Job(big)], 60.0))
    assert found.stdout == b"5000000\n"


def test_each_jump_of_the_filter_stays_inside_and_unknown_machines_have_none() -> None:
    assert refusals("riscv64") == b""
    for machine in ARCHITECTURES:
        code = [struct.unpack("<HBBI", refusals(machine)[i : i + 8]) for i in range(0, len(refusals(machine)), 8)]
        assert len(code) > len(REFUSED)
        assert code[-1][0] == 0x06
        assert all(i + 1 + max(yes, no) < len(code) for i, (_, yes, no, _) in enumerate(code) if yes or no)
