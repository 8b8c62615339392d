"""The registry: light to import, and its options can be read without anything heavy."""

from __future__ import annotations

import subprocess
import sys

LIGHT = """
import inspect, sys
from actors.engines import ENGINES
for engine in ENGINES.values():
    options = {n for n, p in inspect.signature(engine).parameters.items() if p.kind is p.KEYWORD_ONLY}
    assert {"dtype", "max_context", "seed", "version", "max_num_seqs", "keep_cache"} <= options, options
heavy = {"torch", "vllm", "transformers", "ray", "deepspeed"} & sys.modules.keys()
assert not heavy, heavy
"""


def test_engines_and_their_options_are_readable_without_heavy_imports() -> None:
    subprocess.run([sys.executable, "-c", LIGHT], check=True)
