"""What a sandbox lets a program do, in bubblewrap and in the plain fallback."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from rewarders import sandbox as module
from rewarders.process import ChildDied, ChildError, ChildFailure, ChildTimeout
from rewarders.sandbox import Limits, Sandbox, Way, look
from rewarders.sandbox_box import Job, Run, is_starved

ROOT = Path(__file__).resolve().parents[2]
SHORT = Limits(cpu_s=1, wall_s=20.0, output_kb=64)


def plain_way() -> Way:
    return Way("", lacks="plain, for a test")


@pytest.fixture(scope="module")
def contained() -> Iterator[Sandbox]:
    """In bubblewrap, which `.ci/run` installs."""
    if not module.find_way().bubblewrap:
        pytest.skip(module.find_way().lacks)
    made = Sandbox(SHORT)
    yield made
    made.close()
    made.close()


@pytest.fixture
def plain(monkeypatch) -> Iterator[Sandbox]:
    monkeypatch.setattr(module, "find_way", plain_way)
    made = Sandbox(SHORT)
    yield made
    made.close()


@pytest.fixture(params=["contained", "plain"])
def either(request) -> Sandbox:
    return request.getfixturevalue(request.param)


def until(happened: Callable[[], Any]) -> Any:
    """Wait up to a minute for what another process does; its value."""
    deadline = time.monotonic() + 60
    while not (found := happened()) and time.monotonic() < deadline:
        time.sleep(0.01)
    return found


def run(sandbox: Sandbox, program: str, budget_s: float = 30.0) -> Run:
    [found] = asyncio.run(sandbox.run(program, [Job()], budget_s))
    return found


def test_a_program_reads_and_prints_and_each_job_starts_it_anew(either) -> None:
    program = "import sys\nseen = []\nseen.append(input())\nprint(seen, len(sys.stdin.read()))"
    big = b"b\n" + b"x" * 300_000
    first, second = asyncio.run(either.run(program, [Job(b"a"), Job(big)], 10.0))
    assert (first.failed, first.stdout) == ("", b"['a'] 0\n")
    assert (second.failed, second.stdout) == ("", b"['b'] 300000\n")
    assert first.seconds > 0
    assert either.cpu_s() > 0


def test_what_is_asked_is_answered_apart_from_what_is_printed(either) -> None:
    program = "print('noise')\ndef f(x):\n    print('more')\n    return {x: (1, [2.5, None])}"
    [found] = asyncio.run(either.run(program, [Job(prepare="y = 3", ask="(f(y),)")], 10.0))
    assert found.answer == b'["tuple", [["dict", [[3, ["tuple", [1, ["list", [2.5, null]]]]]]]]]'
    assert found.failed == ""


@pytest.mark.parametrize(
    ("program", "how"),
    [
        ("1 / 0", "exited with code 1"),
        ("this is no Python", "exited with code 1"),
        ("\ud800", "exited with code 1"),
        ("\0", "exited with code 1"),
        ("import sys; sys.exit(7)", "exited with code 7"),
        ("import os; os._exit(3)", "exited with code 3"),
        ("import os; os.kill(os.getpid(), 9)", "was killed by SIGKILL"),
        ("import os; os.abort()", "was killed by SIGABRT"),
        ("while True: pass", "was killed by SIGXCPU"),
        ("import time; time.sleep(600)", "took longer than 2 s"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGSTOP)", "took longer than 2 s"),
        ("x = bytearray(10 * 2**30)", "exited with code 1"),
        ("x = [0]\nwhile True: x += x", "exited with code 1"),
        ("while True: print('x' * 10**6)", "wrote more than 65536 bytes"),
        ("import os\nwhile True: os.write(2, b'x' * 10**6)", "wrote more than 65536 bytes"),
    ],
)
def test_how_a_program_ends_is_told_and_no_failure_of_ours(either, program, how) -> None:
    assert run(either, program, 2.0 if "took longer" in how else 30.0).failed == how
    assert run(either, "print(1)").stdout == b"1\n"


def test_output_is_read_no_further_than_its_limit(either) -> None:
    before = psutil.Process().memory_info().rss
    found = run(either, "while True: print('x' * 10**6)")
    assert len(found.stdout) <= SHORT.output_kb * 1024 + 2 * 2**16
    assert psutil.Process().memory_info().rss - before < 2**28


def test_of_many_outputs_no_more_is_kept_than_asked_for_and_reading_them_holds_up_nobody(contained) -> None:
    def keep(number: int, run: Run) -> int:
        assert threading.current_thread() is not threading.main_thread()
        return number + len(run.stdout)

    found = asyncio.run(contained.run("print('x' * 9999)", [Job()] * 3, 60.0, keep))
    assert found == [10000, 10001, 10002]


def test_the_environment_is_empty(either, monkeypatch) -> None:
    monkeypatch.setenv("SOME_TOKEN", "secret")
    found = run(either, "import os; print(sorted(os.environ))")
    assert set(eval(found.stdout)) <= {"PYTHONHASHSEED", "LANG", "LC_CTYPE", "PWD"}


def test_files_are_limited(either) -> None:
    program = "f = open('big', 'wb')\nfor _ in range(100): f.write(b'x' * 2**20)\nf.flush()"
    assert run(either, program).failed == "exited with code 1"


def test_many_files_together_are_limited(contained) -> None:
    program = "for i in range(8): open(f'/tmp/{i}', 'wb').write(b'x' * 4 * 2**20)"
    found = run(contained, program)
    assert found.failed == "exited with code 1"
    assert b"No space left" in found.stderr


def test_a_limit_costs_no_other_job_and_the_budget_all_that_are_left(contained) -> None:
    own = Sandbox(Limits(wall_s=2.0))
    program = "import time\nif input() == 'hang': time.sleep(600)\nprint(1)"
    jobs = [Job(b"a"), Job(b"hang"), Job(b"b"), Job(b"hang"), Job(b"c")]
    found = asyncio.run(own.run(program, jobs, 3.5))
    own.close()
    assert [r.failed.partition(":")[0] for r in found] == [
        "", "took longer than 2 s", "", found[3].failed, "no time left",
    ]  # fmt: skip
    assert found[3].failed.startswith("took longer than 1.")


DAEMON = """
import ctypes, os, sys, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        ctypes.CDLL(None).prctl(15, b"86399.5", 0, 0, 0)
        open("alive", "w").close()
        for fd in range(64):
            try: os.close(fd)
            except OSError: pass
        time.sleep(600)
    os._exit(0)
while not os.path.exists("alive"): time.sleep(0.01)
print("daemon runs")
"""


def offspring() -> set[int]:
    return {p.pid for p in psutil.Process().children(recursive=True)}


def test_a_daemon_dies_with_its_job(contained) -> None:
    program = DAEMON + "print(len([0 for _ in os.scandir('/tmp')]))"
    check = "import os\ntry: os.kill(-1, 0); print('others live')\nexcept OSError: print('alone')"
    before = offspring()
    assert run(contained, program).stdout.startswith(b"daemon runs")
    both = f"if input() == '1':\n    exec({program!r})\nelse:\n    exec({check!r})"
    first, second = asyncio.run(contained.run(both, [Job(b"1"), Job(b"2")], 10.0))
    assert first.stdout.startswith(b"daemon runs")
    assert second.stdout == b"alone\n"
    assert offspring() <= before


def test_without_bubblewrap_a_program_starts_no_process_or_they_all_die(plain) -> None:
    before = offspring()
    found = run(plain, DAEMON)
    assert found.stdout == b"daemon runs\n" or "exited with code 1" in found.failed
    assert offspring() <= before


def test_a_fork_bomb_is_stopped_by_the_limit_of_processes(contained) -> None:
    program = "import os, time\nnum = 0\ntry:\n    while os.fork(): num += 1\n    time.sleep(600)\n"
    found = run(contained, program + "except OSError:\n    print(num)")
    assert found.stdout == b"%d\n" % (SHORT.processes - 1)
    assert run(contained, "import os\nwhile True: os.fork()").failed
    assert run(contained, "print(1)").stdout == b"1\n"


def test_threads_are_allowed_up_to_the_limit(contained) -> None:
    program = "import threading\nt = threading.Thread(target=print, args=(1,)); t.start(); t.join()"
    assert run(contained, program).stdout == b"1\n"


def test_inside_there_is_no_file_of_ours_no_network_and_no_other_process(contained, tmp_path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("secret")
    with socket.create_server(("127.0.0.1", 0)) as server:
        program = f"""
import os, socket
def tried(what):
    try: return what()
    except OSError as error: return type(error).__name__
print(tried(lambda: open({str(secret)!r}).read()))
print(tried(lambda: open({str(ROOT / "pyproject.toml")!r}).read()))
print(tried(lambda: os.listdir("/proc")), tried(lambda: os.listdir("/home")), tried(lambda: os.listdir("/etc")))
print(tried(lambda: socket.create_connection(("127.0.0.1", {server.getsockname()[1]}), 1)))
print(tried(lambda: os.kill({os.getpid()}, 9)), tried(lambda: os.kill(1, 9)), os.getppid())
print(tried(lambda: open("/escaped", "w")), tried(lambda: open("/usr/lib/escaped", "w")))
print(tried(lambda: open(os.__file__, "w")), tried(lambda: os.listdir("/dev")))
"""
        lines = run(contained, program).stdout.decode().splitlines()
    assert lines[0] == lines[1] == "FileNotFoundError"
    assert lines[2] in ("FileNotFoundError FileNotFoundError ['ld.so.cache']", "FileNotFoundError " * 2 + "[]")
    assert lines[3] in ("ConnectionRefusedError", "OSError")
    assert lines[4].startswith("ProcessLookupError ")
    assert set(lines[5].split()) <= {"OSError", "PermissionError"}
    assert lines[6].startswith(("OSError", "PermissionError"))
    assert not {"fd", "shm", "mem"} & set(lines[6].replace("'", " ").split())


def test_as_root_a_program_is_somebody_without_rights(contained) -> None:
    program = "import os; print(os.getuid() == 0, os.getgroups())\ntry: os.setuid(0)\nexcept OSError: print('no')"
    if os.geteuid() == 0:
        assert run(contained, program).stdout == b"False []\nno\n"


def test_a_sandbox_killed_from_outside_is_our_failure_and_not_the_programs(contained) -> None:
    before = set(psutil.Process().children())  # other tests may have left some

    async def killed() -> None:
        task = asyncio.create_task(contained.run("import time; time.sleep(600)", [Job()], 10.0))
        [outermost] = await asyncio.to_thread(until, lambda: set(psutil.Process().children()) - before)
        await asyncio.to_thread(until, lambda: len(outermost.children(recursive=True)) == 2)
        outermost.kill()
        await task

    with pytest.raises(ChildFailure):
        asyncio.run(killed())
    assert run(contained, "print(1)").stdout == b"1\n"


def test_cancelling_and_closing_end_a_program(contained) -> None:
    before = offspring()
    other = Sandbox(Limits(wall_s=600.0), parallel=2)

    async def cancelled() -> None:
        task = asyncio.create_task(other.run("import time; time.sleep(600)", [Job()], 600.0))
        await asyncio.to_thread(until, lambda: offspring() - before)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        again = asyncio.create_task(other.run("import time; time.sleep(600)", [Job()], 600.0))
        await asyncio.to_thread(until, lambda: offspring() - before)
        await asyncio.to_thread(other.close)
        with pytest.raises(ChildDied, match="closed"):
            await again

    asyncio.run(cancelled())
    assert offspring() <= before


def test_several_run_at_once_and_the_event_loop_is_free() -> None:
    both = Sandbox(Limits(wall_s=30.0), parallel=2)
    ticks = 0

    async def watched() -> list[list[Run]]:
        nonlocal ticks
        task = asyncio.gather(*(both.run("import time; time.sleep(0.5); print(1)", [Job()], 30.0) for _ in range(2)))
        while not task.done():
            await asyncio.sleep(0.01)
            ticks += 1
        return await task

    found = asyncio.run(watched())
    both.close()
    assert [runs[0].stdout for runs in found] == [b"1\n"] * 2
    assert ticks > 10


def test_a_sandbox_dies_with_a_worker_that_is_killed(contained, gone) -> None:
    script = """
import asyncio, sys
from rewarders.sandbox import *
from rewarders.sandbox_box import Job
find_way()
print("ready", flush=True)
asyncio.run(Sandbox(Limits(wall_s=600)).run("import time; time.sleep(600)", [Job()], 600))
"""
    worker = subprocess.Popen([sys.executable, "-c", script], cwd=ROOT, stdout=subprocess.PIPE)
    assert worker.stdout is not None
    try:
        with worker.stdout:
            assert worker.stdout.readline() == b"ready\n"
        until(lambda: len(psutil.Process(worker.pid).children(recursive=True)) == 3)
        inside = psutil.Process(worker.pid).children(recursive=True)
    finally:
        worker.send_signal(signal.SIGKILL)
        worker.wait()
    assert all(gone(process.pid) for process in inside)


@pytest.mark.parametrize("bwrap", [None, "/bin/false"])
def test_without_bubblewrap_a_warning_says_once_what_is_missing(monkeypatch, caplog, bwrap) -> None:
    monkeypatch.setattr(module, "_found", module._Found())
    monkeypatch.setattr(module.shutil, "which", lambda name: bwrap)
    with caplog.at_level(logging.WARNING):
        assert module.find_way() is module.find_way()
    [record] = caplog.records
    assert not module.find_way().bubblewrap
    for text in ("bubblewrap", "plain processes", "network", "files"):
        assert text in record.getMessage()
    assert ("not installed" if bwrap is None else "did not start") in record.getMessage()
    made = Sandbox(SHORT)
    assert run(made, "print(2)").stdout == b"2\n"
    made.close()


def test_where_nothing_works_that_is_an_error_and_no_verdict(monkeypatch) -> None:
    monkeypatch.setattr(module.sys, "executable", "/nowhere/python")
    with pytest.raises(ChildFailure, match="no way to run programs"):
        look()


def test_a_sandbox_that_does_not_start_says_why(monkeypatch) -> None:
    monkeypatch.setattr(module, "find_way", lambda: Way("/bin/false"))
    made = Sandbox(SHORT)
    with pytest.raises(ChildError, match="did not start"):
        run(made, "print(1)")
    made.close()


def test_a_program_that_got_no_processor_is_a_timeout_and_no_failure_of_its_own(monkeypatch, contained) -> None:
    assert is_starved([0.1, 0.0], [1.5, 0.0], wall_s=2.0, cpu_limit_s=1.0)
    assert not is_starved([0.0], [0.0], wall_s=2.0, cpu_limit_s=1.0)
    assert not is_starved([1.5], [1.5], wall_s=2.0, cpu_limit_s=1.0)
    # Eight that wake together and wait for one another, and seven that spin while the eighth waits.
    assert not is_starved([0.1] * 8, [0.9] * 8, wall_s=2.0, cpu_limit_s=1.0)
    assert not is_starved([0.25] + [0.5] * 7, [1.7] * 8, wall_s=2.0, cpu_limit_s=1.0)
    monkeypatch.setattr("rewarders.sandbox_box.is_starved", lambda *_: True)
    with pytest.raises(ChildTimeout, match="too busy"):
        run(contained, "import time; time.sleep(600)", 0.5)
    assert threading.active_count() < 50


@pytest.mark.parametrize("limits", [{"cpu_s": 0}, {"wall_s": -1.0}, {"memory_mb": 8}, {"output_kb": 0}])
def test_bad_limits_are_refused_by_name(limits) -> None:
    with pytest.raises(ValueError, match=next(iter(limits))):
        Limits(**limits)
    with pytest.raises(ValueError, match="parallel"):
        Sandbox(parallel=0)
