"""The nouns. Small frozen records that every package shares; nothing here imports anything heavy.

Token arrays are numpy; their shapes use P = prompt tokens, C = completion tokens, G = rollouts in a group.
`swarm.schema` turns a :class:`Group` into one Arrow record batch and back without loss.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

import numpy as np


@dataclass(frozen=True, slots=True, order=True)
class PolicyVersion:
    """Which weights: comparable only within one learner and one lineage."""

    learner: str
    lineage: int
    step: int

    def lag_behind(self, now: PolicyVersion) -> int | None:
        """Learner steps from this version to `now`, or None where the two are not comparable."""
        if (self.learner, self.lineage) != (now.learner, now.lineage):
            return None
        return now.step - self.step


@dataclass(frozen=True, slots=True)
class Span:
    """Completion tokens `start <= i < end` were sampled by the weights of learner step `step`."""

    step: int
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Prompt:
    """One question with its task data. `id` is a digest of the content: the same question has the same id."""

    id: str
    text: str
    """The question as the user message of a chat (or as plain text where the model has no chat template)."""
    answer: str | None = None
    source: str = ""
    """Name of the task source, for routing and for tables."""
    task: Mapping[str, Any] = field(default_factory=dict)
    """What a rewarder needs: for reasoning-gym `family`, `seed`, `size`, `index`, `config`; for tables every column."""
    system: str = ""


@dataclass(frozen=True, slots=True)
class Draw:
    """What a prompt stream gives: a prompt, and how many rollouts it is to get."""

    prompt: Prompt
    num: int = 0
    """0: the recipe's group size."""


class Finish(StrEnum):
    """Why a completion ended."""

    STOP = "stop"
    LENGTH = "length"


class Status(StrEnum):
    """What a verdict is. Only `SCORED` carries a value."""

    SCORED = "scored"
    ABSTAINED = "abstained"
    TIMEOUT = "timeout"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class Segment:
    """One judged step of a rollout: completion tokens `start <= i < end`."""

    start: int
    end: int
    value: float


@dataclass(frozen=True, slots=True)
class Rates:
    """How often a rewarder is wrong, as far as it is known: both in [0, 1]."""

    false_accept: float
    """P(accepted | wrong): p0 of arXiv 2510.00915."""
    false_reject: float
    """P(rejected | right): p1."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one rewarder says of one rollout: a finite value, or no value and the cause."""

    rewarder: str
    status: Status
    value: float | None = None
    cause: str = ""
    seconds: float = 0.0
    segments: tuple[Segment, ...] = ()
    """The value of single steps, in order and without overlap, where the rewarder judges steps."""
    parts: Mapping[str, float] = field(default_factory=dict)
    """What the value was made of, by name: tests, criteria, the answers of a rule and of the judge above it."""
    version: str = ""
    """Which rewarder exactly, with its options; equal versions give equal verdicts."""
    stratum: str = ""
    """The kind of question and answer for which `rates` were estimated."""
    rates: Rates | None = None
    """Of this rewarder on this stratum, as known when it judged; None where nobody estimated them."""
    waited_s: float = 0.0
    """Before the rewarder looked at it; with `seconds` the age of a label."""

    def __post_init__(self) -> None:
        scored = self.status is Status.SCORED
        if scored != (self.value is not None):
            raise ValueError(f"verdict of {self.rewarder!r}: status {self.status} with value {self.value!r}")
        if self.value is not None and not np.isfinite(self.value):
            raise ValueError(f"verdict of {self.rewarder!r}: value {self.value!r} is not finite")
        if not all(np.isfinite(part) for part in self.parts.values()):
            raise ValueError(f"verdict of {self.rewarder!r}: parts {dict(self.parts)} are not finite")
        edges = [edge for s in self.segments for edge in (s.start, s.end)]
        if edges != sorted(edges) or not all(s.start < s.end and np.isfinite(s.value) for s in self.segments):
            raise ValueError(f"verdict of {self.rewarder!r}: segments {self.segments} overlap, or are not finite")


@dataclass(frozen=True, slots=True)
class Rollout:
    """One completion of a prompt."""

    tokens: np.ndarray
    """int32 [C]; includes the end-of-sequence token where the model wrote one."""
    logprobs: np.ndarray
    """float32 [C], natural log, under the distribution that sampled (temperature included)."""
    spans: tuple[Span, ...]
    """Contiguous and complete over [0, C)."""
    text: str
    finish: Finish
    loss_mask: np.ndarray
    """bool [C]; False for tokens that the policy did not choose (tools, environments)."""
    verdicts: tuple[Verdict, ...] = ()

    @property
    def steps(self) -> np.ndarray:
        """int64 [C]: the learner step whose weights sampled each token."""
        out = np.empty(len(self.tokens), np.int64)
        for span in self.spans:
            out[span.start : span.end] = span.step
        return out


@dataclass(frozen=True, slots=True)
class Group:
    """The G rollouts of one prompt; the unit that is generated, scored, pooled, shared and centred."""

    id: str
    ticket: int
    attempt: int
    prompt: Prompt
    prompt_tokens: np.ndarray
    """int32 [P]"""
    rollouts: tuple[Rollout, ...]
    learner: str
    lineage: int
    temperature: float
    cache_kept: bool
    """Whether the engine kept its key-value cache across weight updates (then later tokens mix two versions)."""
    generate_s: float = 0.0

    def with_verdicts(self, verdicts: list[tuple[Verdict, ...]]) -> Group:
        """The same group with the verdicts of each rollout, in order."""
        rollouts = tuple(replace(r, verdicts=v) for r, v in zip(self.rollouts, verdicts, strict=True))
        return replace(self, rollouts=rollouts)

    @property
    def oldest_step(self) -> int:
        """The oldest weights that sampled any of its tokens."""
        return min(span.step for rollout in self.rollouts for span in rollout.spans)


@dataclass(frozen=True, slots=True)
class Labels:
    """How a group came by its verdicts."""

    age_s: float | None
    """Of the oldest value that waited for a judge: from the group's arrival at the rewarder to the verdict."""
    backlog: int = 0
    """Groups that waited for judges in its reward worker when it was scored."""
    displaced: int = 0
    """Rollouts that a judge did not get to."""
    stood_in: int = 0
    """Rollouts with the verdict of a stand-in."""


@dataclass(frozen=True, slots=True)
class GroupFacts:
    """What the driver may know of a group without touching its tokens."""

    id: str
    ticket: int
    prompt_id: str
    source: str
    num_rollouts: int
    num_tokens: int
    mean_length: float
    oldest_step: int
    newest_step: int
    rewards: tuple[float | None, ...] = ()
    """One per rollout after scoring: the weighted sum of its verdicts, None where there is none."""
    correct: tuple[bool | None, ...] = ()
    """One per rollout after scoring: whether it is right (`swarm.scores.correct`), None where nobody knows."""
    causes: tuple[str, ...] = ()
    """Why rollouts have no reward, for the counters."""
    notices: tuple[Mapping[str, Any], ...] = ()
    """Events of the reward worker since its last group, for the journal."""
    judged: Mapping[str, int] = field(default_factory=dict)
    """What the reward worker asked of judges since the last group that it scored, as metrics: of that group, of those
    under way, of sentinels and evaluations. Empty without judges."""
    labels: Labels | None = None
    """Once it is scored."""
    bytes: int = 0


@dataclass(frozen=True, slots=True)
class Handle:
    """A group by reference: `ref` is opaque to the loop (a Ray reference, or the record batch itself inline)."""

    ref: Any
    facts: GroupFacts


CANARY_TOKENS = 24
"""Tokens that engine and learner compare after a load; a context holds at least these."""


@dataclass(frozen=True, slots=True)
class Delta:
    """What a published set changed in the one that the same process published before it, see `swarm.weight_delta`."""

    base: str
    """Digest of the set that it applies to."""
    path: str
    """A file beside the set's own."""
    bytes: int
    changed: int
    """Elements whose bits differ."""
    elements: int
    """Elements of the set."""
    seconds: float
    """What it took the learner to find and write them."""


@dataclass(frozen=True, slots=True)
class Weights:
    """A published set of weights: where it lies on its host and what it must be."""

    version: PolicyVersion
    path: str
    """A safetensors file on a RAM-backed file system of the learner's host."""
    digest: str
    """Over those of the tensors, in file order, see `swarm.weights`."""
    bytes: int
    canary_tokens: tuple[int, ...] = ()
    """A fixed token sequence that each engine scores after a load."""
    canary_logprobs: tuple[float, ...] = ()
    """The learner's log-probabilities (nats, temperature 1) of canary tokens 1.. given those before; one fewer."""
    adapter_scale: float | None = None
    """Set where the file holds LoRA adapters only: a host adds scale * B A to the weights of the model folder."""
    tensors: Mapping[str, str] = field(default_factory=dict)
    """Digest of each tensor by name, in file order."""
    delta: Delta | None = None
    """Where the engines' dtype is bfloat16 and there is a set before."""


@dataclass(frozen=True, slots=True)
class PromptStats:
    """What became known of one prompt by one group: what prompt selection learns from. Rewards are as they were given,
    before any correction or shaping, and masked rollouts are left out."""

    id: str
    source: str
    num: int
    """Rollouts with a reward."""
    mean: float
    """Of the rewards; nan where there are none."""
    variance: float
    """Of the rewards, divisor `num`; 0 where there are fewer than two."""
    gradient: float | None = None
    """A proxy of the gradient norm of one rollout (`learners.prompt_stats`); None where no learner saw the group."""
    diversity: float | None = None
    """Of the completions, in [0, 1] (`learners.prompt_stats`); None likewise."""


@dataclass(frozen=True, slots=True)
class StepReport:
    """What a learner says of one step. `metrics` keys are `stage/quantity_unit`."""

    step: int
    num_rollouts: int
    num_tokens: int
    """Completion tokens of the batch that was consumed (also those that needed no compute)."""
    num_trained_tokens: int
    """Completion tokens that entered a gradient."""
    seconds: float
    metrics: Mapping[str, float] = field(default_factory=dict)
    prompts: tuple[PromptStats, ...] = ()
    """One per group of the batch, in order."""
    notices: tuple[Mapping[str, Any], ...] = ()
    """Events for the journal, each of a kind once in a run."""
