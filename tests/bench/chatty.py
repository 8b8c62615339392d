"""A child that prints what it should not, and dies of a negative number."""

from __future__ import annotations

import os

from cluster.bench_child import resident_bytes, serve, start_peak, stop_peak


def answer(request):
    print("chatter")  # noqa: T201 - that is what it is for
    if request["x"] < 0:
        raise ValueError("no such number")
    before = resident_bytes()
    start_peak()
    block = b"x" * request.get("bytes", 0)
    del block
    if "bytes" in request:
        return {"peak_bytes": stop_peak() - before}
    return {"x": 2 * request["x"], "threads": os.environ["OMP_NUM_THREADS"]}


if __name__ == "__main__":
    serve(answer)
