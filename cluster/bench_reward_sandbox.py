"""Benches of the sandbox: what it costs to start, how fast programs are judged, and what hostile ones leave behind."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from cluster.bench import Bench, Cell, Figure, Result
from swarm.config import Spec
from swarm.types import Finish, Group, Prompt, Rollout, Span, Status

GROUP = 8
PARALLEL = 2
BARE = ["-I", "-S", "-c", "print(42)"]
HOSTILE = (
    "import os\nwhile True: os.fork()",
    "import os\nwhile True: os.write(1, b'x' * 10**6)",
    "x = []\nwhile True: x.append(bytearray(10**7))",
    "x = bytearray(10 * 2**30)",
    "import time\ntime.sleep(10**6)",
    "import signal\nsignal.signal(signal.SIGXCPU, signal.SIG_IGN)\nwhile True: pass",
    "import os, signal\nos.kill(os.getpid(), signal.SIGSTOP)",
    "import os\nif os.fork() == 0:\n    os.setsid()\n    while True: pass\nos._exit(0)",
)
"""Of E13, those that use up something."""
OPTIONS: dict[str, Any] = {"test_s": 2.0, "cpu_s": 1, "output_kb": 1024, "parallel": PARALLEL}
WINDOW_S = 1.0
KILL_EVERY_S = 0.15


class Sandbox(Bench):
    """Our sandbox beside a bare subprocess, interleaved; judging beside a subprocess per test; recovery; kills."""

    name = "reward/sandbox"
    goal = (
        "a sandbox starts within 60 ms, hostile programs leave the pool as fast as before after 1 s, no verdict is lost"
    )
    wall = ("4 min", "1 min")

    def cells(self, quick: bool) -> Sequence[Cell]:
        few = 1 if quick else 5
        return [
            {"what": "start", "repeats": 20 * few},
            *({"what": "verdicts", "tests": tests, "groups": 4, "repeats": few} for tests in (1, 5, 20)),
            {"what": "recovery", "repeats": few},
            {"what": "kills", "groups": 8 * few},
        ]

    def run(self, cell: Cell) -> dict[str, Any]:
        from rewarders.sandbox import find_way

        measure = {"start": _start, "verdicts": _verdicts, "recovery": _recovery, "kills": _kills}[cell["what"]]
        return {"bubblewrap": bool(find_way().bubblewrap), **measure(cell)}

    def figures(self, results: Sequence[Result]) -> list[Figure]:
        out = []
        for cell, values in ((r.cell, r.values) for r in results):
            note = "" if values["bubblewrap"] else "without bubblewrap"
            if cell["what"] == "start":
                over = [ours - bare for ours, bare in zip(values["ours_ms"], values["bare_ms"], strict=True)]
                out.append(Figure.of("ms that a sandbox takes more than a bare subprocess", over, "<= 60", note))
                out.append(Figure.of("ms of a sandbox, start to end", values["ours_ms"], note=note))
                out.append(Figure.of("ms of a bare subprocess", values["bare_ms"]))
            elif cell["what"] == "verdicts":
                tests = f"{cell['tests']} tests"
                ours, bare = ([cell["groups"] * GROUP / s / PARALLEL for s in values[k]] for k in ("ours_s", "bare_s"))
                ratio = [a / b for a, b in zip(ours, bare, strict=True)]
                out.append(Figure.of(f"verdicts/s per core, {tests}", ours, note=note))
                out.append(Figure.of(f"verdicts/s per core, {tests}, a bare subprocess per test", bare))
                out.append(Figure.of(f"verdicts/s over the bare subprocesses', {tests}", ratio, ">= 1"))
            elif cell["what"] == "recovery":
                ratio = [a / b for a, b in zip(values["after"], values["before"], strict=True)]
                name = f"verdicts/s in the first {WINDOW_S:.0f} s after {len(HOSTILE)} hostile programs, over before"
                out.append(Figure.of(name, ratio, ">= 0.9", note))
                out.append(Figure.of("hostile programs that were not scored 0", values["not_zero"], "<= 0"))
            else:
                kills = f"{values['kills']} kills, {values['asked']} verdicts"
                out.append(Figure.of("verdicts lost to killed sandboxes, of the rollouts asked", [values["lost"]],
                                     "<= 0", f"{kills}, {values['retried']} asked again"))  # fmt: skip
                out.append(Figure.of("right programs scored 0 beside kills", [values["zeros"]], "<= 0", kills))
        return out


def _start(cell: Cell) -> dict[str, Any]:
    from rewarders.sandbox import Limits, find_way, open_box
    from rewarders.sandbox_box import Job

    way, ours, bare = find_way(), [], []
    for _ in range(cell["repeats"]):
        began = time.perf_counter()
        box = open_box(way, "print(42)", Limits())
        found = box.run(Job(), 5.0)
        box.end()
        ours.append(1000 * (time.perf_counter() - began))
        assert found.stdout == b"42\n"
        began = time.perf_counter()
        subprocess.run([sys.executable, *BARE], capture_output=True, check=True)
        bare.append(1000 * (time.perf_counter() - began))
    return {"ours_ms": ours, "bare_ms": bare}


def _programs(seed: int, num: int, tests: int) -> tuple[list[str], list[dict[str, str]]]:
    """Unlike right programs, and tests that they all pass."""
    dice = random.Random(seed)
    rows = [{"input": f"{n}\n", "output": f"{2 * n}\n"} for n in (dice.randrange(10**6) for _ in range(tests))]
    return [f"unlike = {dice.random()}\nprint(2 * int(input()))" for _ in range(num)], rows


def _group(programs: Sequence[str], tests: Sequence[dict[str, str]]) -> Group:
    def rollout(program: str) -> Rollout:
        one = np.zeros(1)
        text = f"```python\n{program}\n```"
        spans = (Span(0, 0, 1),)
        return Rollout(one.astype(np.int32), one.astype(np.float32), spans, text, Finish.STOP, np.ones(1, bool))

    prompt = Prompt("prompt", "?", task={"tests": list(tests)})
    rollouts = tuple(map(rollout, programs))
    return Group("group", 0, 0, prompt, np.zeros(1, np.int32), rollouts, "bench", 0, 1.0, False)


def _verdicts(cell: Cell) -> dict[str, Any]:
    from rewarders.code import Code

    code = Code(**OPTIONS, timeout_s=60.0)
    out: dict[str, Any] = {"ours_s": [], "bare_s": []}
    for seed in range(cell["repeats"]):
        programs, tests = _programs(seed, GROUP * cell["groups"], cell["tests"])
        groups = [_group(programs[i : i + GROUP], tests) for i in range(0, len(programs), GROUP)]

        async def judge(groups: list[Group] = groups) -> list[Any]:
            return [v for found in await asyncio.gather(*map(code.judge, groups)) for v in found]

        began = time.perf_counter()
        verdicts = asyncio.run(judge())
        out["ours_s"].append(time.perf_counter() - began)
        assert all(v.value == 1.0 for v in verdicts), verdicts
        began = time.perf_counter()
        with ThreadPoolExecutor(PARALLEL) as threads, tempfile.TemporaryDirectory() as folder:
            numbered = [(program, tests, f"{folder}/{i}.py") for i, program in enumerate(programs)]
            assert all(threads.map(_by_subprocess, numbered))
        out["bare_s"].append(time.perf_counter() - began)
    code.close()
    return out


def _by_subprocess(work: tuple[str, list[dict[str, str]], str]) -> bool:
    program, tests, path = work
    Path(path).write_text(program)
    runs = (
        subprocess.run([sys.executable, "-I", "-S", path], input=t["input"], capture_output=True, text=True, check=True)
        for t in tests
    )
    return all(run.stdout == test["output"] for run, test in zip(runs, tests, strict=True))


def _recovery(cell: Cell) -> dict[str, Any]:
    """Verdicts in one second before and in the one right after hostile programs, `PARALLEL` programs at a time."""
    from rewarders.code import Code

    code = Code(**OPTIONS, timeout_s=60.0)
    out: dict[str, Any] = {"before": [], "after": [], "not_zero": []}

    async def throughput() -> int:
        programs, tests = _programs(0, 2000, 1)
        deadline, done = time.monotonic() + WINDOW_S, 0
        queue = iter(programs)

        async def serve() -> None:
            nonlocal done
            while time.monotonic() < deadline:
                [verdict] = await code.judge(_group([next(queue)], tests))
                assert verdict.value == 1.0, verdict
                done += time.monotonic() < deadline

        await asyncio.gather(*(serve() for _ in range(PARALLEL)))
        return done

    async def measure() -> None:
        await throughput()
        for _ in range(cell["repeats"]):
            out["before"].append(await throughput())
            verdicts = await code.judge(_group(HOSTILE, [{"input": "", "output": "42"}]))
            out["after"].append(await throughput())
            out["not_zero"].append(sum((v.status, v.value) != (Status.SCORED, 0.0) for v in verdicts))

    asyncio.run(measure())
    code.close()
    return out


def _kills(cell: Cell) -> dict[str, Any]:
    """A worker judges while somebody kills a sandbox of it every so often, from outside."""
    from rewarders.worker import RewardWorker

    worker = RewardWorker([Spec(name="code", options=OPTIONS | {"timeout_s": 60.0})], timeout_s=60.0, retries=8)
    over, kills = threading.Event(), 0

    def killer() -> None:
        nonlocal kills
        dice = random.Random(0)
        while not over.wait(KILL_EVERY_S):
            boxes = psutil.Process().children()
            with contextlib.suppress(IndexError, ProcessLookupError):  # none runs, or it ended in between
                os.kill(dice.choice(boxes).pid, signal.SIGKILL)
                kills += 1

    async def judge() -> list[float | None]:
        values = []
        for seed in range(cell["groups"]):
            programs, tests = _programs(seed, GROUP, 5)
            scored = await worker.score(_group(programs, tests))
            values += [rollout.verdicts[0].value for rollout in scored.rollouts]
        return values

    thread = threading.Thread(target=killer)
    thread.start()
    try:
        values = asyncio.run(judge())
    finally:
        over.set()
        thread.join()
        worker.close()
    lost, zeros = sum(value is None for value in values), sum(value == 0.0 for value in values)
    retried = worker.counts()["code"].get("retried", 0)
    return {"asked": len(values), "kills": kills, "lost": lost, "zeros": zeros, "retried": retried}
