"""What `model.dtype = "auto"` means here: bfloat16 where something multiplies it natively, float32 elsewhere.

A processor without bfloat16 instructions computes such products element by element: on one with AVX2 alone, a 576 x 576
matrix product ran at 0.0025 TFLOPS in bfloat16 and at 0.14 in float32.
"""

from __future__ import annotations

from pathlib import Path

from swarm.config import RunConfig

CPUINFO = Path("/proc/cpuinfo")
NATIVE = frozenset({"avx512_bf16", "amx_bf16", "bf16"})
"""Processor flags with products of bfloat16: x86 (AVX-512 and AMX), and ARM."""


def native_bfloat16(cpuinfo: Path = CPUINFO) -> bool:
    """Whether this machine's processor multiplies bfloat16; False where it does not say."""
    try:
        lines = cpuinfo.read_text(errors="replace").splitlines()
    except OSError:
        return False
    flags = next((line for line in lines if line.partition(":")[0].strip().lower() in ("flags", "features")), "")
    return not NATIVE.isdisjoint(flags.partition(":")[2].split())


def on_gpus(config: RunConfig) -> bool:
    """Whether no side computes on a processor."""
    return config.actors.gpus > 0 and config.learners.gpus > 0


def settled(config: RunConfig, cpuinfo: Path = CPUINFO) -> RunConfig:
    """The recipe with its dtype decided, once for all processes: bfloat16 where both sides compute it natively. This
    machine's processor speaks for those of a cluster."""
    if config.model.dtype != "auto":
        return config
    dtype = "bfloat16" if on_gpus(config) or native_bfloat16(cpuinfo) else "float32"
    return config.model_copy(update={"model": config.model.model_copy(update={"dtype": dtype})})
