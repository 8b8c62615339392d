"""What the environment of a worker's process says of threads and memory, in training and in a replay of it."""

from __future__ import annotations

KEEP_MEMORY = {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(1 << 40),
    "MALLOC_TOP_PAD_": str(64 << 20),
}
"""For glibc: memory that a tensor frees stays with the process. By default every large tensor is mapped and unmapped
by the kernel, which then fills it with zeros page by page; on virtual machines that costs more than the arithmetic."""


def of_worker(threads: int, gpus: float) -> dict[str, str]:
    """Variables for a process that computes on so many threads. Sums, hence weights, depend on their number."""
    return {
        "OMP_NUM_THREADS": str(threads),
        "OMP_WAIT_POLICY": "PASSIVE",  # waiting threads must not burn the cores that others need
        **KEEP_MEMORY,
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_OFFLINE": "1",  # the driver resolved the model; no worker goes looking for one
        "DS_ACCELERATOR": "cuda" if gpus else "cpu",
    }
