"""Which prompts are asked, and with how many rollouts: prompt streams over a `TaskStream`.

    TaskStream.next() --prompts--> a selection --Draw(prompt, num)--> the loop
                                       ^
                                       +--- learned(PromptStats ...) --- learner, and groups that were set aside

A selection is a function of its seed, the task stream and what it was told, so its `state()`, which holds all three,
continues equally after a resume. `in_order` is the task stream as it is. The mathematics are the pure functions
`draw_weights` and `actors.allocation.allocate`.

`swarm.roles.PromptStream` is the contract. Keyword-only options of a class are its schema in a recipe, beside `seed`,
`groups_per_step` and `group_size`, which the program gives.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from actors.allocation import allocate
from actors.pass_rates import HORIZON, PassRates
from actors.tasks import TaskStream, pick
from swarm.errors import ConfigError
from swarm.types import Draw, Prompt, PromptStats

Floats = NDArray[np.float64]

REMEMBER = 1_000
"""Prompts with estimates of their own: about 70 kB of state, which is written whenever a prompt is asked (some ms)."""
MOST_GROUPS = HORIZON * 3 // 4
"""What a curriculum may wait for: the weight of a source's groups comes near `HORIZON`, but never there."""


class InOrder:
    """Every prompt of the task stream, in its order, with the recipe's number of rollouts."""

    name = "in_order"

    def __init__(self, tasks: TaskStream, *, seed: int, groups_per_step: int, group_size: int) -> None:
        self._tasks, self._seed = tasks, seed
        self._groups_per_step, self._group_size = groups_per_step, group_size

    def next(self) -> Draw:
        """The next prompt."""
        return Draw(self._tasks.next())

    def learned(self, prompts: Sequence[PromptStats]) -> None:
        """Changes nothing."""

    def held_out(self, num: int) -> list[Prompt]:
        """Those of the task stream: no selection touches them."""
        return self._tasks.held_out(num)

    def state(self) -> Mapping[str, Any]:
        """The task stream's."""
        return self._tasks.state()

    def restore(self, state: Mapping[str, Any]) -> None:
        """Raises ConfigError where the state is another selection's or of other tasks."""
        if (other := state.get("select", "in_order")) != self.name:
            raise ConfigError(
                f'actors.select.name = "{self.name}": the saved position is that of "{other}"; resume with the recipe '
                "that the run began with"
            )
        self._restore(state)

    def _restore(self, state: Mapping[str, Any]) -> None:
        self._tasks.restore(state)


class _Learning(InOrder):
    """What the selections that look at pass rates have in common: estimates, and their place in the state."""

    def __init__(self, tasks: TaskStream, *, seed: int, groups_per_step: int, group_size: int, remember: int) -> None:
        super().__init__(tasks, seed=seed, groups_per_step=groups_per_step, group_size=group_size)
        if remember < 0:
            raise ConfigError(f"actors.select.remember = {remember}: wanted a number of prompts, at least 0")
        self._rates = PassRates(remember)

    def learned(self, prompts: Sequence[PromptStats]) -> None:
        """Take note of what became of prompts."""
        self._rates.learned(prompts)

    def state(self) -> Mapping[str, Any]:
        """The task stream's position, the estimates, and what the selection itself remembers."""
        return {"select": self.name, "tasks": self._tasks.state(), "rates": self._rates.state()}

    def _restore(self, state: Mapping[str, Any]) -> None:
        self._tasks.restore(state["tasks"])
        self._rates.restore(state["rates"])


class VarianceAware(_Learning):
    """Of every `window` prompts of the task stream one is asked, by weight of the reward variance to expect of it.

    Source: variance-aware sampling of MMR1, arXiv 2509.21268: score = a p (1 - p) + b diversity, and a batch that mixes
    weighted and uniform draws. Differs: not the whole data set is scored every so often, but each window when it comes
    up, with the newest estimates; what is not drawn waits for the source's next epoch. So no score is stale, and
    sources that make their prompts as needed can be weighted too. p (1 - p) is estimated by `actors.pass_rates`, for
    prompts that were never asked by their source; diversity is measured as in `learners.prompt_stats`. The paper's a,
    b and mixture were not verified.
    """

    name = "variance_aware"

    def __init__(
        self,
        tasks: TaskStream,
        *,
        seed: int,
        groups_per_step: int,
        group_size: int,
        window: int = 16,
        mix: float = 0.5,
        variance: float = 1.0,
        diversity: float = 0.0,
        remember: int = REMEMBER,
    ) -> None:
        """`mix` in (0, 1] is the share of uniform draws: it keeps every prompt's probability above mix / window.
        `variance` and `diversity` are a and b above."""
        super().__init__(tasks, seed=seed, groups_per_step=groups_per_step, group_size=group_size, remember=remember)
        problems = []
        if window < 1:
            problems.append(f"actors.select.window = {window}: wanted a number of prompts, at least 1")
        if not 0 < mix <= 1:
            problems.append(
                f"actors.select.mix = {mix}: wanted a share above 0, at most 1, or some prompts would starve"
            )
        if min(variance, diversity) < 0:
            problems.append(f"actors.select.variance = {variance}, diversity = {diversity}: wanted weights, at least 0")
        if problems:
            raise ConfigError(problems)
        self._window, self._mix, self._variance, self._diversity = window, mix, variance, diversity
        self._drawn = 0

    def next(self) -> Draw:
        """One prompt of the next window."""
        window = [self._tasks.next() for _ in range(self._window)]
        scores = np.array([self._score(prompt) for prompt in window])
        chosen = window[pick(f"{self._seed}/variance_aware/{self._drawn}", draw_weights(scores, self._mix).tolist())]
        self._drawn += 1
        return Draw(chosen)

    def state(self) -> Mapping[str, Any]:
        """Also the number of draws."""
        return {**super().state(), "drawn": self._drawn}

    def _restore(self, state: Mapping[str, Any]) -> None:
        super()._restore(state)
        self._drawn = int(state["drawn"])

    def _score(self, prompt: Prompt) -> float:
        score = self._variance * self._rates.variance(prompt)
        return score + self._diversity * self._rates.diversity(prompt) if self._diversity else score


class Gvm(_Learning):
    """Every prompt of the task stream in its order; rollouts go where they reduce the gradient's variance most.

    A round is `groups_per_step` prompts and has `groups_per_step * group_size` rollouts in all.

    Source: GVM-RAFT, arXiv 2505.02391 (see `allocate`). Differs: no probe of 8 samples for each prompt of each round;
    p_i and G_i are running estimates, of the source for prompts that were never asked; G_i is a proxy that needs no
    backward pass (`learners.prompt_stats`); no prompt gets fewer than `least` rollouts, the paper's get none where
    p_i = 0. With one procedural source whose prompts do not repeat, all estimates and so all shares are equal.
    """

    name = "gvm"

    def __init__(
        self,
        tasks: TaskStream,
        *,
        seed: int,
        groups_per_step: int,
        group_size: int,
        least: int = 2,
        alpha: float = 1e-3,
        beta: float = 2.0,
        remember: int = REMEMBER,
    ) -> None:
        """`least` >= 2 rollouts for every prompt is the floor of exploration; `alpha` and `beta` as in `allocate`."""
        super().__init__(tasks, seed=seed, groups_per_step=groups_per_step, group_size=group_size, remember=remember)
        problems = []
        if not 2 <= least <= group_size:
            problems.append(f"actors.select.least = {least}: wanted at least 2, at most group_size = {group_size}")
        if alpha < 0 or beta < 1:
            problems.append(f"actors.select.alpha = {alpha}, beta = {beta}: wanted alpha >= 0 and beta >= 1")
        if problems:
            raise ConfigError(problems)
        self._least, self._alpha, self._beta = least, alpha, beta
        self._begin: Mapping[str, Any] = tasks.state()
        self._round: list[Draw] = []
        self._at = 0

    def next(self) -> Draw:
        """The next prompt of the round, with its share of the rollouts."""
        if self._at == len(self._round):
            self._begin = self._tasks.state()
            prompts = [self._tasks.next() for _ in range(self._groups_per_step)]
            rates = np.array([self._rates.rate(prompt) for prompt in prompts])
            gradients = np.array([self._rates.gradient(prompt) for prompt in prompts])
            budget = self._groups_per_step * self._group_size
            nums = allocate(rates, gradients, budget, least=self._least, alpha=self._alpha, beta=self._beta)
            self._round, self._at = [Draw(p, n) for p, n in zip(prompts, nums, strict=True)], 0
        self._at += 1
        return self._round[self._at - 1]

    def state(self) -> Mapping[str, Any]:
        """The task stream's position is that of the round's beginning."""
        nums = [draw.num for draw in self._round]
        return {**super().state(), "tasks": self._begin, "nums": nums, "at": self._at}

    def _restore(self, state: Mapping[str, Any]) -> None:
        super()._restore(state)
        self._begin = state["tasks"]
        self._round = [Draw(self._tasks.next(), int(num)) for num in state["nums"]]
        self._at = int(state["at"])


class Curriculum(_Learning):
    """Task sources from easy to hard, in the recipe's order: on to the next one when the present one is solved well.

    Source: none in particular; curricula by pass rate are common, with thresholds of each one's own. Stages only go
    forward. The share `keep` goes to the sources before the present one, by their weights in the recipe, so that they
    are not forgotten; the first stage has none.
    """

    name = "curriculum"

    def __init__(
        self,
        tasks: TaskStream,
        *,
        seed: int,
        groups_per_step: int,
        group_size: int,
        threshold: float = 0.7,
        keep: float = 0.2,
        groups: int = 16,
    ) -> None:
        """On at a running pass rate of `threshold` in (0, 1), once the weight of the groups seen (1 each, fading) is at
        least `groups`, up to 48."""
        super().__init__(tasks, seed=seed, groups_per_step=groups_per_step, group_size=group_size, remember=0)
        problems = []
        if not 0 < threshold < 1:
            problems.append(f"actors.select.threshold = {threshold}: wanted a pass rate between 0 and 1")
        if not 0 <= keep < 1:
            problems.append(f"actors.select.keep = {keep}: wanted a share, at least 0 and below 1")
        if not 1 <= groups <= MOST_GROUPS:
            problems.append(f"actors.select.groups = {groups}: wanted a number of groups, 1 to {MOST_GROUPS}")
        if problems:
            raise ConfigError(problems)
        self._threshold, self._keep, self._groups = threshold, keep, groups
        self.stage = 0
        """The present source."""

    def next(self) -> Draw:
        """A prompt of the present source, or of one before it."""
        return Draw(self._tasks.next(self._weights()))

    def learned(self, prompts: Sequence[PromptStats]) -> None:
        """Also moves on, by one source at a time."""
        super().learned(prompts)
        source = self._tasks.names[self.stage]
        solved = self._rates.rate_of_source(source) >= self._threshold
        if solved and self._rates.groups_of_source(source) >= self._groups:
            self.stage = min(self.stage + 1, len(self._tasks.names) - 1)

    def state(self) -> Mapping[str, Any]:
        """Also the stage."""
        return {**super().state(), "stage": self.stage}

    def _restore(self, state: Mapping[str, Any]) -> None:
        super()._restore(state)
        self.stage = int(state["stage"])

    def _weights(self) -> list[float]:
        weights, at = self._tasks.weights, self.stage
        earlier = sum(weights[:at])
        shares = [self._keep * weight / earlier for weight in weights[:at]]
        return [*shares, 1 - sum(shares), *[0.0] * (len(weights) - at - 1)]


def draw_weights(scores: Floats, mix: float) -> Floats:
    """Probabilities, float64 [N]: mix / N + (1 - mix) * score / sum of scores; uniform where all scores are 0.

    Source: MMR1, arXiv 2509.21268, which draws the two parts of a batch separately; this is the same in expectation.
    """
    num, total = len(scores), float(scores.sum())
    weighted = scores / total if total > 0 else np.full(num, 1 / num)
    return mix / num + (1 - mix) * weighted


SELECTIONS: dict[str, Callable[..., InOrder]] = {
    "in_order": InOrder,
    "variance_aware": VarianceAware,
    "gvm": Gvm,
    "curriculum": Curriculum,
}
