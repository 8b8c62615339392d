"""Learning-rate schedules: a factor in (0, 1] of the peak rate as a pure function of the learner step.

Nothing is counted along, so a resume, a skipped update or several updates in a step cannot shift a schedule.
"""

from __future__ import annotations

import math
from collections.abc import Callable

SCHEDULES: dict[str, Callable[[float], float]] = {
    "constant": lambda done: 1.0,
    "linear": lambda done: 1.0 - done,
    "cosine": lambda done: 0.5 * (1.0 + math.cos(math.pi * done)),
}
"""From the share of the run done after warm-up, in [0, 1), to the factor."""


def lr_factor(name: str, step: int, steps: int, warmup_steps: int) -> float:
    """Factor for learner step `step` (1 is the first) of `steps`: step / warmup_steps, then the schedule.

    Steps beyond `steps` (a run that was extended) keep the last factor.
    """
    if step <= warmup_steps:
        return step / warmup_steps
    after = max(steps - warmup_steps, 1)
    done = min(step - 1 - warmup_steps, after - 1) / after
    return SCHEDULES[name](done)
