from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from rewarders.killable import Killable
from rewarders.process import ChildDied, ChildError, ChildOverspent, ChildTimeout

HANDLERS = """
import os, subprocess, sys, time

class Echo:
    def __init__(self, bad=False):
        if bad:
            raise ValueError("bad option")

    def __call__(self, job):
        kind = job.get("do")
        if kind == "loop":
            while True:
                pass
        if kind == "die":
            os._exit(7)
        if kind == "raise":
            print("x" * 10**6)
            print("the last words")
            raise KeyError("lost")
        if kind == "spawn":
            print(job["note"], subprocess.Popen(["sleep", "600"]).pid, file=open(job["note"], "w"))
            while True:
                pass
        if kind == "tell":
            open(job["note"], "w").close()
            while True:
                pass
        if kind == "fill":
            return len(bytearray(2**30))
        if kind == "object":
            return object()
        if kind == "noise":
            sys.stderr.write("noise on the terminal")
            os.write(1, b"noise on the terminal")
        return {"pid": os.getpid(), "env": sorted(os.environ), "torch": "torch" in sys.modules, "got": job.get("got")}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    place = tmp_path_factory.mktemp("handlers")
    (place / "handlers_of_test.py").write_text(HANDLERS)
    return place


@pytest.fixture(scope="module")
def child(folder, gone) -> Iterator[Killable]:
    made = Killable("handlers_of_test:Echo", first_on_path=[str(folder)], memory_mb=512)
    yield made
    pid = made.pid
    made.close()
    made.close()
    assert pid is not None
    assert gone(pid)


def ask(child: Killable, timeout_s: float = 30.0, **job):
    return asyncio.run(child.ask(job, timeout_s))


def test_a_job_comes_back_unchanged_whatever_it_holds(child) -> None:
    got = ["", "\0", "\ud800", "x" * 2**20, {"a": [1, None, 2.5]}]
    assert ask(child, got=got)["got"] == got


def test_the_child_is_light_and_sees_no_secrets(child, monkeypatch) -> None:
    monkeypatch.setenv("SOME_TOKEN", "secret")
    answer = ask(child)
    assert not answer["torch"]
    assert set(answer["env"]) <= {"PATH", "HOME", "LANG", "LC_ALL", "LC_CTYPE", "TMPDIR", "TZ", "LD_LIBRARY_PATH"} | {
        "PYTHONHASHSEED", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS",
    }  # fmt: skip


def test_a_busy_loop_is_a_timeout_and_the_child_is_replaced(child) -> None:
    before = ask(child)["pid"]
    with pytest.raises(ChildTimeout, match="no answer within"):
        ask(child, timeout_s=0.2, do="loop")
    assert ask(child)["pid"] != before


def test_one_hang_does_not_take_the_other_jobs_with_it(child) -> None:
    jobs = [{"got": 0}, {"do": "loop"}, {"got": 2}, {"do": "die"}, {"got": 4}]
    replies = asyncio.run(child.ask_each(jobs, 5.0))
    assert [r.value["got"] if r.value else type(r.failure) for r in replies] == [0, ChildTimeout, 2, ChildDied, 4]


def test_a_death_names_how(child) -> None:
    with pytest.raises(ChildDied, match="exited with code 7"):
        ask(child, do="die")


def test_a_job_that_uses_up_its_processor_time_is_ended_and_the_next_has_its_own(folder) -> None:
    made = Killable("handlers_of_test:Echo", first_on_path=[str(folder)], cpu_s=0.3)
    try:
        loop, echo = asyncio.run(made.ask_each([{"do": "loop"}, {"got": 1}], 60.0))
        assert isinstance(loop.failure, ChildOverspent)
        assert echo.value["got"] == 1
        with pytest.raises(ChildOverspent, match="processor time"):
            asyncio.run(made.ask({"do": "loop"}, 60.0))
    finally:
        made.close()


def test_an_exception_brings_its_cause_and_the_last_words_and_the_child_stays(child) -> None:
    before = ask(child)["pid"]
    with pytest.raises(ChildError, match=r"KeyError: 'lost'.*the last words"):
        ask(child, do="raise")
    assert ask(child)["pid"] == before


def test_what_is_not_plain_data_is_an_error_in_both_directions(child) -> None:
    with pytest.raises(ChildError, match="cannot be passed"):
        ask(child, got=object())
    with pytest.raises(ChildError, match="not JSON serializable"):
        ask(child, do="object")


def test_memory_is_limited(child) -> None:
    with pytest.raises(ChildError, match="MemoryError"):
        ask(child, do="fill")


def test_nothing_of_the_child_reaches_the_terminal(child, capfd) -> None:
    ask(child, do="noise")
    assert capfd.readouterr() == ("", "")


def test_a_child_that_cannot_start_says_why(folder) -> None:
    bad = Killable("handlers_of_test:Echo", {"bad": True}, first_on_path=[str(folder)])
    try:
        with pytest.raises(ChildError, match="ValueError: bad option"):
            ask(bad)
    finally:
        bad.close()


def test_cancelling_frees_the_child_at_once(child, tmp_path) -> None:
    note = tmp_path / "note"
    os.mkfifo(note)

    async def cancelled() -> None:
        task = asyncio.create_task(child.ask({"do": "tell", "note": str(note)}, 600.0))
        await asyncio.to_thread(note.read_text)  # now it is running
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(cancelled())
    assert ask(child, got=3)["got"] == 3


def test_closing_ends_a_busy_job_and_what_it_started(folder, tmp_path, gone) -> None:
    note = tmp_path / "note"
    os.mkfifo(note)
    child = Killable("handlers_of_test:Echo", first_on_path=[str(folder)])

    async def closed_while_busy() -> int:
        task = asyncio.create_task(child.ask({"do": "spawn", "note": str(note)}, 600.0))
        grandchild = int((await asyncio.to_thread(note.read_text)).split()[1])
        await asyncio.to_thread(child.close)
        with pytest.raises(ChildDied):
            await task
        return grandchild

    assert gone(asyncio.run(closed_while_busy()))


def test_the_child_dies_with_a_parent_killed_while_it_is_busy(folder, gone) -> None:
    script = f"""
import asyncio
from rewarders.killable import Killable
child = Killable("handlers_of_test:Echo", first_on_path=[{str(folder)!r}])
async def main():
    print((await child.ask({{}}, 60.0))["pid"], flush=True)
    await child.ask({{"do": "loop"}}, 600.0)
asyncio.run(main())
"""
    root = str(Path(__file__).resolve().parents[2])
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, cwd=root)
    assert parent.stdout is not None
    with parent.stdout:
        pid = int(parent.stdout.readline())
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    assert gone(pid)
