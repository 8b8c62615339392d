"""The registry of generation engines. Importing it loads neither torch nor vLLM: engines do that when built."""

from __future__ import annotations

from actors.engine_transformers import TransformersEngine
from actors.engine_vllm import VllmEngine

ENGINES = {
    "vllm": VllmEngine,
    "transformers": TransformersEngine,
}
