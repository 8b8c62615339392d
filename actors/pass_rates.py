"""What is known of prompts so far: running estimates, for `actors.selection`.

The policy changes, so older groups count less: in a prompt's estimate every new group halves the weight of those before
it (they are an epoch old), in a source's estimate about the last `HORIZON` groups count. A prompt that was never asked,
or is forgotten (`remember` newest ones are kept), is what its source is: with sources whose prompts hardly ever repeat,
that is the estimate that matters.

A pass rate is the mean reward within [0, 1]: of rewards 0 and 1, the share that is right. The variance of a pass is the
variance within groups, divisor n - 1: for such rewards it is p (1 - p) in expectation, and where rewards have degrees
it is theirs, while the p (1 - p) of their mean would call a prompt whose answers all earn one half the best of all.
With several rewarders let weights add up to 1: what a sum has above that is cut off, and its prompts look solved.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from swarm.types import Prompt, PromptStats

FORGET = 0.5
"""Weight of a prompt's earlier groups after a new one."""
HORIZON = 64
"""Groups of a source that its estimate looks back on."""
MOST = 0.25
"""The largest variance of a figure in [0, 1]."""
PRIOR_VARIANCE = 0.125
"""Mean of p (1 - p) under the prior."""
PRIOR_GROUPS = 0.5
"""Weight of the source's variance beside a prompt's own groups: at 8 rollouts this is within an eighth of the posterior
mean of p (1 - p) under the prior."""
DIGITS = 4
"""Of stored figures, after the point; it keeps the state small and what is restored equal to what was stored."""


@dataclass(slots=True)
class _Record:
    """Decayed sums over groups."""

    num: float = 0.0
    """Rollouts."""
    passed: float = 0.0
    """Sum of their rewards, within [0, 1] each on average."""
    groups: float = 0.0
    """Groups of two or more rollouts."""
    spread: float = 0.0
    """Sum over those of the variance, at most 1/4 each times n / (n - 1)."""
    gradient: float | None = None
    """Running mean; None until a learner told."""
    diversity: float | None = None

    def add(self, stats: PromptStats, keep: float) -> None:
        """One more group; those before are weighted by `keep` in (0, 1)."""
        n, mean = stats.num, min(1.0, max(0.0, stats.mean))
        self.num = round(self.num * keep + n, DIGITS)
        self.passed = min(self.num, round(self.passed * keep + n * mean, DIGITS))
        if n >= 2:
            self.groups = round(self.groups * keep + 1, DIGITS)
            self.spread = round(self.spread * keep + min(MOST, stats.variance) * n / (n - 1), DIGITS)
        self.gradient = _mean(self.gradient, stats.gradient, keep)
        self.diversity = _mean(self.diversity, stats.diversity, keep)

    def figures(self) -> tuple[float | None, ...]:
        """All fields, in order (`dataclasses.astuple` copies deeply, which takes ten times as long)."""
        return self.num, self.passed, self.groups, self.spread, self.gradient, self.diversity


class PassRates:
    """Estimates by prompt and by source. Nothing is ever 0 or 1: the prior is Jeffreys', Beta(1/2, 1/2)."""

    def __init__(self, remember: int) -> None:
        """`remember` >= 0: prompts with estimates of their own, the most recently seen ones."""
        self._remember = remember
        self._prompts: OrderedDict[str, _Record] = OrderedDict()
        self._sources: dict[str, _Record] = {}

    def learned(self, prompts: Sequence[PromptStats]) -> None:
        """Take note of groups. One without any reward says nothing."""
        for stats in prompts:
            if not stats.num:
                continue
            self._sources.setdefault(stats.source, _Record()).add(stats, 1 - 1 / HORIZON)
            self._prompts.setdefault(stats.id, _Record()).add(stats, FORGET)
            self._prompts.move_to_end(stats.id)
            while len(self._prompts) > self._remember:
                self._prompts.popitem(last=False)

    def rate_of_source(self, source: str) -> float:
        """Pass rate of a source, in (0, 1)."""
        record = self._sources.get(source, _Record())
        return (record.passed + 0.5) / (record.num + 1)

    def groups_of_source(self, source: str) -> float:
        """Groups behind that estimate, old ones at their weight: at most `HORIZON`."""
        return self._sources.get(source, _Record()).groups

    def rate(self, prompt: Prompt) -> float:
        """Pass rate of a prompt, in (0, 1): the posterior mean with a prior of one rollout at its source's rate."""
        record = self._prompts.get(prompt.id, _Record())
        return (record.passed + self.rate_of_source(prompt.source)) / (record.num + 1)

    def variance(self, prompt: Prompt) -> float:
        """Expected variance of a pass, in (0, 1/4]. A prompt that is not known has the mean *within* groups of its
        source: half of a source solved and half of it hopeless is a pass rate of 0.5, yet no group can teach."""
        source = self._sources.get(prompt.source, _Record())
        # the estimate of a single group can be above what is possible
        variance = min(MOST, (source.spread + PRIOR_VARIANCE) / (source.groups + 1))
        own = self._prompts.get(prompt.id, _Record())
        return min(MOST, (own.spread + PRIOR_GROUPS * variance) / (own.groups + PRIOR_GROUPS))

    def gradient(self, prompt: Prompt) -> float:
        """Proxy of the gradient norm of one rollout; that of the source, or 1, where there is none."""
        return self._figure(prompt, "gradient", 1.0)

    def diversity(self, prompt: Prompt) -> float:
        """Of a prompt's completions, in [0, 1]; that of the source, or 1/2, where there is none."""
        return self._figure(prompt, "diversity", 0.5)

    def state(self) -> Mapping[str, Any]:
        """JSON-able: some 70 bytes for each remembered prompt."""
        return {
            "prompts": [[key, *record.figures()] for key, record in self._prompts.items()],
            "sources": [[key, *record.figures()] for key, record in self._sources.items()],
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """The state that was taken."""
        self._prompts = OrderedDict((key, _Record(*figures)) for key, *figures in state["prompts"])
        self._sources = {key: _Record(*figures) for key, *figures in state["sources"]}

    def _figure(self, prompt: Prompt, name: str, default: float) -> float:
        for record in (self._prompts.get(prompt.id), self._sources.get(prompt.source)):
            value = getattr(record, name, None)
            if value is not None:
                return float(value)
        return default


def _mean(before: float | None, new: float | None, keep: float) -> float | None:
    if new is None:
        return before
    return round(new if before is None else keep * before + (1 - keep) * new, DIGITS)
