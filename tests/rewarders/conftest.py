"""Groups to judge, made from texts."""

from __future__ import annotations

import os
import select
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from swarm.types import Finish, Group, Prompt, Rollout, Span


def _group(
    texts: Sequence[str], answer: str | None = None, question: str = "?", task: Mapping[str, Any] | None = None
) -> Group:
    def rollout(text: str) -> Rollout:
        tokens = np.array([1, 2], np.int32)
        return Rollout(tokens, np.zeros(2, np.float32), (Span(0, 0, 2),), text, Finish.STOP, np.ones(2, bool))

    prompt = Prompt("prompt-1", question, answer, "test", task or {})
    rollouts = tuple(rollout(text) for text in texts)
    return Group("group-1", 0, 0, prompt, np.array([3], np.int32), rollouts, "learner", 0, 1.0, False)


@pytest.fixture(scope="session")
def make_group() -> Callable[..., Group]:
    return _group


def _gone(pid: int) -> bool:
    """Wait up to a minute for a process, not necessarily our child, to end."""
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([handle], [], [], 60)[0])
    finally:
        os.close(handle)


@pytest.fixture(scope="session")
def gone() -> Callable[[int], bool]:
    return _gone
