"""The system calls that a program in bubblewrap is refused, as a filter that `bwrap --seccomp` loads.

Refused is what gets round a limit: memory that belongs to no process and so to no limit of one (System V shared memory,
messages, memory files: a gigabyte per file descriptor table and more), namespaces of its own (with a file system of any
size in them), looking into other processes, and parts of the kernel that no program under test needs. A refused call
fails with EPERM, as if the kernel did not allow it. All else is allowed.
"""

from __future__ import annotations

import platform
import struct

ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
"""The kernel's names (AUDIT_ARCH) of those whose numbers are below."""
REFUSED = {
    "shmget": (29, 194), "shmat": (30, 196), "shmctl": (31, 195), "msgget": (68, 186), "msgsnd": (69, 189),
    "semget": (64, 190), "memfd_create": (319, 279), "memfd_secret": (447, 447), "mq_open": (240, 180),
    "ptrace": (101, 117), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271), "pidfd_getfd": (438, 438),
    "kcmp": (312, 272), "unshare": (272, 97), "setns": (308, 268), "mount": (165, 40), "umount2": (166, 39),
    "pivot_root": (155, 41), "fsopen": (430, 430), "fsmount": (432, 432), "open_tree": (428, 428),
    "move_mount": (429, 429), "mount_setattr": (442, 442), "bpf": (321, 280), "userfaultfd": (323, 282),
    "perf_event_open": (298, 241), "io_uring_setup": (425, 425), "add_key": (248, 217), "request_key": (249, 218),
    "keyctl": (250, 219), "fanotify_init": (300, 262),
}  # fmt: skip
"""By name, the numbers on x86_64 and on aarch64 (asm/unistd_64.h, asm-generic/unistd.h)."""
CLONE, CLONE3 = (56, 220), 435
NEW_NAMESPACES = 0x7E020000
"""The flags of clone that ask for a namespace."""
X32 = 0x40000000
"""Numbers from here on are those of x86_64's second table."""

LOAD, EQUAL, AT_LEAST, ANY_BIT, RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
"""Codes of linux/bpf_common.h."""
NUMBER, ARCHITECTURE, FIRST_ARGUMENT = 0, 4, 16
"""Places in struct seccomp_data; both architectures are little-endian."""
ALLOW, KILL, FAIL = 0x7FFF0000, 0x80000000, 0x00050000
NOT_PERMITTED, NO_SUCH_CALL = 1, 38


def refusals(machine: str = "") -> bytes:
    """The filter for this machine; empty where its numbers are not known."""
    machine = machine or platform.machine()
    if machine not in ARCHITECTURES:
        return b""
    which = list(ARCHITECTURES).index(machine)
    code = [
        _step(LOAD, ARCHITECTURE),
        _step(EQUAL, ARCHITECTURES[machine], 1, 0),
        _step(RETURN, KILL),
        _step(LOAD, NUMBER),
        _step(AT_LEAST, X32, 0, 1),
        _step(RETURN, FAIL | NO_SUCH_CALL),
        _step(EQUAL, CLONE3, 0, 1),  # its flags are behind a pointer; the C library then takes clone
        _step(RETURN, FAIL | NO_SUCH_CALL),
    ]
    for numbers in REFUSED.values():
        code += [_step(EQUAL, numbers[which], 0, 1), _step(RETURN, FAIL | NOT_PERMITTED)]
    code += [
        _step(EQUAL, CLONE[which], 0, 3),
        _step(LOAD, FIRST_ARGUMENT),
        _step(ANY_BIT, NEW_NAMESPACES, 0, 1),
        _step(RETURN, FAIL | NOT_PERMITTED),
        _step(RETURN, ALLOW),
    ]
    return b"".join(code)


def _step(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("<HBBI", code, if_true, if_false, value)
