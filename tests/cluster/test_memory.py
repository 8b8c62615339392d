"""The memory sampler."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import psutil

from cluster.memory import SERIES, MemorySampler

MIB = 2**20
HOLD = "import sys; b = bytearray(b'x') * (100 * 2**20); print('held', flush=True); sys.stdin.readline()"
PARENT = f"""
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", {HOLD!r}], stdin=sys.stdin, stdout=subprocess.PIPE, text=True)
print(child.stdout.readline(), child.pid, flush=True)
"""


@contextmanager
def holding() -> Iterator[subprocess.Popen]:
    """A child that holds 100 MiB; it ends when its input does."""
    command = [sys.executable, "-c", HOLD]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout.readline() == "held\n"
        yield child


def test_a_child_that_takes_100_mib_is_seen_and_the_peak_is_kept_when_it_ends():
    sampler = MemorySampler()
    before = sampler.sample()
    with holding() as child:
        during = sampler.sample()
        child.communicate("\n")
    after = sampler.sample()
    assert 100 * MIB < during - before < 150 * MIB
    assert after < during - 100 * MIB
    assert sampler.stop() >= during


def test_a_process_that_outlives_its_parent_is_still_counted():
    command = [sys.executable, "-c", PARENT + "sys.stdin.readline()"]
    parent = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert parent.stdout.readline() == "held\n"
    pid = int(parent.stdout.readline())
    sampler = MemorySampler()
    sampler.sample()
    parent.kill()
    parent.wait()
    try:
        assert psutil.Process(pid).ppid() != parent.pid
        alone = MemorySampler().sample()
        assert sampler.sample() > alone + 90 * MIB
    finally:
        orphan = psutil.Process(pid)
        parent.stdin.close()
        orphan.wait(30)
    assert sampler.sample() < alone + 50 * MIB


def test_the_thread_samples_by_itself_and_can_be_stopped_twice():
    sampler = MemorySampler(every_s=0.01)
    sampler.start()
    with holding() as child:
        while len(sampler.series) < 3:
            sampler._enough.wait(0.01)
        child.communicate("\n")
    peak = sampler.stop()
    assert peak > 100 * MIB
    assert sampler.stop() == peak >= max(size for _, size in sampler.series)


def test_a_root_that_is_gone_counts_as_nothing():
    with holding() as child:
        sampler = MemorySampler(root=child.pid)
        assert sampler.sample() > 100 * MIB
        child.communicate("\n")
    assert sampler.sample() == 0
    assert sampler.stop() > 100 * MIB


def test_the_series_stays_small_and_keeps_its_peak():
    sampler = MemorySampler()
    for second in range(20 * SERIES):
        sampler._keep(float(second), 10_000_000 if second == 777 else second % 50)
    assert len(sampler.series) <= SERIES
    assert max(size for _, size in sampler.series) == 10_000_000
    times = [at for at, _ in sampler.series]
    assert times == sorted(times)
    assert times[-1] > 18 * SERIES
