"""The recipe: one TOML file, one frozen model per section, every problem reported at once.

Sections carry the names of the packages. A part with options is a `Spec`: `loss = { name = "dapo", clip_high = 0.28 }`;
its options are checked against the part's keyword-only signature by `cluster.check`, which knows the registries.
Reading a recipe imports nothing heavy. Unknown keys, wrong types and values out of range become a `ConfigError` that
names file, key, value, what was wanted, and the nearest known key.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import tomli_w
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from swarm.errors import ConfigError

Count = Annotated[int, Field(ge=1)]
Natural = Annotated[int, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]


class Section(BaseModel):
    """Base of all sections: frozen, strict, no unknown keys; the string under a field is its documentation."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )


class Spec(Section):
    """A part by name, with its options beside the name."""

    name: str
    """Key in the registry of its kind."""
    options: dict[str, Any] = {}
    """Keyword arguments of the part."""

    @model_validator(mode="before")
    @classmethod
    def _gather(cls, data: Any) -> Any:
        if isinstance(data, str):
            return {"name": data}
        if isinstance(data, Mapping) and "options" not in data:
            known = set(cls.model_fields) - {"options"}
            own = {k: v for k, v in data.items() if k in known}
            return own | {"options": {k: v for k, v in data.items() if k not in known}}
        return data


class WeightedSpec(Spec):
    """A part with a weight among others of its kind."""

    weight: Positive = 1.0
    """Share (tasks) or factor (rewarders)."""


class ModelSection(Section):
    """The policy."""

    path: str
    """`smollm2-135m-instruct` or `tiny` (made on first use), a Hugging Face model folder, or a hub id."""
    dtype: Literal["auto", "bfloat16", "float32"] = "auto"
    """Of the engine's weights and of the learner's autocast; master weights are always float32. `auto` is bfloat16
    where both sides are on GPUs or on processors that multiply it natively, else float32."""


class ActorsSection(Section):
    """Prompts in, groups out."""

    num: Count = 1
    """Rollout actors."""
    engine: Spec = Spec(name="vllm")
    """Generation engine."""
    tasks: Annotated[list[WeightedSpec], Field(min_length=1)]
    """Task sources, mixed by weight."""
    system: str = ""
    """System message of every prompt; empty for none."""
    select: Spec = Spec(name="in_order")
    """Which prompts of the task sources are asked, and whether some get more of the rollouts than others."""
    resample: Annotated[float, Field(ge=0)] = 0.0
    """Groups whose rewards are all equal are set aside, and another prompt is asked in their place: at most so many per
    group trained, over the run, and for a single one until 8 times as many attempts (at least 8) were made, failed ones
    too; 0 trains on every group."""
    group_size: Annotated[int, Field(ge=2)] = 8
    """Rollouts per prompt."""
    temperature: Annotated[float, Field(gt=0, le=2)] = 1.0
    """Sampling temperature of training rollouts."""
    max_new_tokens: Count = 64
    """Completion length limit in tokens."""
    max_prompt_tokens: Count = 512
    """Longest prompt after the chat template; longer ones are refused and counted."""
    threads: Count = 1
    """Compute threads of each actor on CPU."""
    gpus: NotNegative = 0.0
    """GPUs each actor asks Ray for."""


class JudgeSection(Section):
    """A language model that rewarders ask."""

    name: Annotated[str, Field(min_length=1)]
    """What rewarders call it: `judge = "NAME"`."""
    model: str
    """Its name at the endpoint; without one, a model folder (or a known name) that this node serves. Verdicts are kept
    under the judge's name and this one: another model needs another of either."""
    endpoint: str = ""
    """Base URL of a server that speaks OpenAI's protocol (`http://HOST:PORT/v1`); empty: served by this node."""
    key_env: Annotated[str, Field(pattern="^([A-Z_][A-Z0-9_]*)?$")] = ""
    """Environment variable that holds the endpoint's key. A key has no other way in."""
    timeout_s: Positive = 30.0
    """Time limit of one request."""
    retries: Natural = 3
    """How often a request that failed is sent again, after growing pauses with jitter."""
    concurrent: Count = 16
    """Requests under way at once, of each reward worker."""
    per_minute: Natural = 0
    """Most requests a minute, of each reward worker; 0 for no limit."""
    budget_tokens: Natural = 0
    """Most tokens, asked and answered, of each reward worker in a run; beyond it the judge abstains. 0 for no limit. A
    worker that takes the place of a dead one goes on from what was spent at the last weight sync, and a resumed run
    from what was spent at its checkpoint."""
    engine: Spec = Spec(name="vllm")
    """Generation engine, where this node serves it."""
    threads: Count = 1
    """Compute threads, where this node serves it on a CPU."""
    gpus: NotNegative = 0.0
    """GPUs that it asks Ray for, where this node serves it."""
    backlog: Count = 64
    """Most groups that wait for it in each reward worker; the newest is judged first. Of more, the oldest leaves with
    an abstention, hence without a reward where no other rewarder gives one."""
    patience_s: NotNegative = 0.0
    """A group leaves likewise when it has no verdict after so many seconds; 0 to stay."""
    stand_in: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """While the judge is down a small scorer learned from its verdicts may answer, once it agrees with the judge on
    more than this share of unseen answers (above 0.5); its verdicts have the part `stand_in`. 0: never."""


class KnownRates(Section):
    """Error rates of a rewarder that are known before a run; a side that is left out is not known."""

    rewarder: str
    """Its label; `LABEL/appeal` for the judge that a cascade appeals to."""
    stratum: str = ""
    """As `stratify` names them; empty for every stratum that has no entry of its own."""
    false_accept: Share | None = None
    """P(accepted | wrong)."""
    false_reject: Share | None = None
    """P(rejected | right)."""
    trust: Positive = 100.0
    """Observations that they count for, beside those that are made."""


class ChannelsSection(Section):
    """What is known, and becomes known, of the rewarders' errors. Verdicts are then stamped with stratum and rates."""

    stratify: list[Literal["family", "length", "format", "language"]] = []
    """What divides questions and answers into strata, each with rates of its own; see `rewarders.channels`."""
    rates: list[KnownRates] = []
    """Given by hand."""
    certificate: str = ""
    """A certificate of these very rewarders (`swarm certify`), or a JSON file with counts of your own under `channels`,
    by rewarder and stratum."""
    gold: str = ""
    """Label of the rewarder whose verdicts are the truth about the others', where it gives any."""
    half_life: NotNegative = 0.0
    """Groups after which an observation counts half, in each reward worker; 0: it never fades."""
    least: Positive = 20.0
    """Observations, of right and of wrong answers each, below which a stratum takes the rates of all strata together,
    and without so many there either verdicts get no rates."""


class RewardersSection(Section):
    """Groups in, scores out."""

    num: Count = 1
    """Reward workers."""
    use: Annotated[list[WeightedSpec], Field(min_length=1)]
    """Rewarders; the reward is the weighted sum of their verdicts."""
    timeout_s: Positive = 10.0
    """Time limit of one rewarder on one group, in seconds; one that asks a judge has the limits of its judge."""
    retries: Natural = 1
    """How often a verdict `timeout` or `error` is asked again before the rollout is masked."""
    judges: list[JudgeSection] = []
    """Language models that rewarders ask."""
    store: str = ""
    """SQLite file with the verdicts given so far, on a local disk: nothing is judged twice. Empty for none."""
    sentinels: Annotated[float, Field(ge=0, le=1)] = 0.01
    """Groups of responses with known truth, as a share of the judged groups; 0 also ends the breaker and the search for
    new keys, which they feed. More are judged until each kind was tried once, for each kind that is accepted, and to
    try what may be keys (20 groups, and a tenth of the judged ones, in each reward worker)."""
    breaker: Annotated[float, Field(gt=0, lt=1)] = 0.2
    """A rewarder is left out while the false-accept rate of its worst family is surely above this."""
    require_certificate: bool = False
    """Run only with a passed certificate of these very rewarders (`swarm certify`)."""
    certificate: str = ""
    """Its file; empty: beside the recipe, as NAME.certificate.json."""
    channels: ChannelsSection | None = None
    """How often rewarders err, for `learners.noise` and for reports."""

    @property
    def served(self) -> list[JudgeSection]:
        """Those that this node serves."""
        return [judge for judge in self.judges if not judge.endpoint]


class LoraSection(Section):
    """Adapters that are trained in the place of the model (LoRA)."""

    rank: Count = 16
    """Of the adapters' product."""
    alpha: Positive = 32.0
    """The product is scaled by alpha / rank."""
    targets: Literal["all-linear"] | list[str] = "all-linear"
    """Linear layers that get adapters: all but the head, or names as in the model (`q_proj`)."""


class LimitsSection(Section):
    """An update beyond these ends the run as diverged (exit code 3), with the weights of the update before."""

    grad_norm: Positive = 1000.0
    """Largest gradient norm, before clipping."""
    entropy_nats: NotNegative = 1e-4
    """Smallest mean entropy of the trained tokens, estimated from their log-probabilities."""
    ess_frac: Annotated[float, Field(ge=0, lt=1)] = 0.02
    """Smallest effective sample size, as a share of the trained tokens."""


class LearnersSection(Section):
    """Scored groups in, weights out."""

    steps: Count
    """Learner steps of the run."""
    groups_per_step: Count = 8
    """Groups in a batch."""
    max_lag: Natural = 1
    """Largest age of a token when it is trained on, in learner steps; 0 is synchronous."""
    loss: Spec = Spec(name="dapo")
    """Policy loss. With one update per step and `proximal = "start"` ratios are 1 and nothing is clipped."""
    advantage: Spec = Spec(name="group_norm")
    """How rewards become advantages."""
    truncation: Spec = Spec(name="keep")
    """What a rollout that ran into the token limit is worth."""
    proximal: Literal["start", "interpolated", "behaviour"] = "start"
    """The policy that ratios are taken to: the weights at the start of the step; an interpolation between those that
    sampled and those being trained, by lag; or those that sampled."""
    correction: Spec = Spec(name="truncated")
    """Weight of a token for having been sampled by other weights than the proximal policy."""
    noise: Spec = Spec(name="none")
    """Correction of verdicts for their rewarders' error rates, see `rewarders.channels`."""
    on_failure: Literal["mask", "ipw"] = "mask"
    """What becomes of a rollout that no rewarder could judge. It leaves its group in both; with `ipw` those of its
    length that were judged count for it too (inverse-propensity weights)."""
    kl_coef: NotNegative = 0.0
    """Weight of the KL penalty to the initial policy, of which a frozen copy is then kept."""
    kl_estimator: Literal["k1", "k2", "k3"] = "k3"
    """Of the KL penalty."""
    entropy_coef: NotNegative = 0.0
    """Weight of an entropy bonus, per nat and token."""
    lora: LoraSection | None = None
    """Train adapters instead of the model."""
    limits: LimitsSection = LimitsSection()
    """Where training counts as diverged."""
    updates_per_step: Count = 1
    """Optimiser updates per batch (the batch is split by groups)."""
    lr: Positive = 1e-6
    """Peak learning rate."""
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    """Of the learning rate, after warm-up, over the steps of the run."""
    warmup_steps: Natural = 0
    """Learner steps of linear warm-up."""
    weight_decay: NotNegative = 0.0
    """AdamW's decoupled weight decay."""
    betas: Annotated[list[Annotated[float, Field(ge=0, lt=1)]], Field(min_length=2, max_length=2)] = [0.9, 0.95]
    """AdamW's moments."""
    grad_clip: Positive = 1.0
    """Largest gradient norm."""
    micro_tokens: Count = 8192
    """Tokens of one forward pass, each prompt of a group counted once (padded ones for models that cannot share)."""
    ranks: Count = 1
    """Processes that train together, each on its share of a batch; with GPUs each takes `gpus` of its own."""
    zero_stage: Annotated[int, Field(ge=0, le=3)] = 0
    """DeepSpeed ZeRO stage: what the ranks divide among them. 0 nothing, 1 moments and master weights, 2 also
    gradients, 3 also the weights."""
    offload: bool = False
    """Keep master weights and moments in the memory of the host (ZeRO 1 to 3)."""
    checkpoint_every: Count = 50
    """Learner steps between checkpoints; one is always written at the end."""
    keep_checkpoints: Annotated[int, Field(ge=2)] = 2
    """Newest checkpoints to keep; at least two, so that a broken one has a predecessor."""
    threads: Count = 2
    """Compute threads of each rank of the learner on CPU."""
    gpus: NotNegative = 0.0
    """GPUs each rank of the learner asks Ray for."""


class EvalSection(Section):
    """Held-out questions, answered greedily."""

    questions: Count = 200
    """Asked before and after the run."""
    live_questions: Natural = 50
    """Asked while the run goes on; 0 for none."""
    live_samples: Count = 1
    """Answers to each live question: 1 is greedy, more are sampled at the recipe's temperature."""
    every: Count = 10
    """Learner steps between live evaluations."""
    use: list[WeightedSpec] = []
    """Rewarders of evaluations, where those of training are noisy or are not about being right; empty: the same."""


class ClusterSection(Section):
    """Where the processes are."""

    placement: Literal["ray", "inline"] = "ray"
    """`ray`: one process per worker; `inline`: all in this process, for tests and very small nodes."""
    address: str = ""
    """A running Ray cluster (`auto` or HOST:PORT); empty starts a local one of its own."""
    runs: str = "runs"
    """Folder of run folders; shared between driver and learner."""
    give_up_after: Count = 24
    """Groups that may fail in a row before the run stops as starved."""


class RunConfig(Section):
    """A whole recipe."""

    name: str = Field(default="run", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """Of the run; its folder is this name and a number."""
    seed: Natural = 0
    """Of task order, sampling and initialisation."""
    model: ModelSection
    actors: ActorsSection
    rewarders: RewardersSection
    learners: LearnersSection
    eval: EvalSection = EvalSection()
    cluster: ClusterSection = ClusterSection()

    def to_toml(self) -> str:
        """The resolved recipe, which `load` reads back to an equal object."""
        return tomli_w.dumps(_flatten(self.model_dump()))


def _flatten(value: Any) -> Any:
    """Dumped sections with each Spec's options beside its name again."""
    if isinstance(value, list):
        return [_flatten(item) for item in value]
    if not isinstance(value, dict):
        return value
    out = {k: _flatten(v) for k, v in value.items() if k != "options" and v is not None}  # TOML has no null
    return out | dict(value.get("options", {}))


def load(path: Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Read a recipe and apply `key=value` overrides. Raises ConfigError with all problems."""
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        near = nearest(path.name, [p.name for p in path.parent.glob("*.toml")] if path.parent.is_dir() else [])
        raise ConfigError(f"{path}: no such recipe{near}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read as a recipe: {error}") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: not valid TOML: {error}") from None
    problems = [p for text in overrides if (p := _override(data, text))]
    if problems:
        raise ConfigError(problems)
    return parse(data, str(path))


def parse(data: Mapping[str, Any], place: str) -> RunConfig:
    """Check a recipe that is already a mapping; `place` names it in messages."""
    try:
        return RunConfig.model_validate(data)
    except ValidationError as error:
        raise ConfigError([_explain(place, e) for e in error.errors()]) from None


def nearest(word: str, known: Sequence[str]) -> str:
    """`; did you mean "x"?`, or the known names where none is near, or nothing where there are none."""
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    if close:
        return f'; did you mean "{close[0]}"?'
    return f"; known: {', '.join(sorted(known))}" if known else ""


def _override(data: dict[str, Any], text: str) -> str | None:
    key, equals, value = text.partition("=")
    if not equals or not key:
        return f"--set {text}: wanted key=value, for instance learners.max_lag=0"
    try:
        parsed = tomllib.loads(f"v = {value}")["v"]
    except tomllib.TOMLDecodeError:
        parsed = value  # a bare word is a string: --set model.path=tiny
    *parents, last = key.strip().split(".")
    at: Any = data
    for part in parents:
        at = at.setdefault(part, {})
        if not isinstance(at, dict):
            return f"--set {text}: {part} is not a table in the recipe"
    at[last] = parsed
    return None


_WANTED = {
    "int_type": "a whole number",
    "float_type": "a number",
    "string_type": "a string",
    "list_type": "a list",
    "bool_type": "true or false",
}
"""Words of ours for what pydantic words for programmers."""

SECRET = re.compile("key|secret|passw|credential|authorization|token$", re.IGNORECASE)
"""In names of settings of which a wrong value is not repeated: it may be a key in the wrong place."""


def _explain(place: str, error: Any) -> str:
    loc = [str(p) for p in error["loc"]]
    key, doc, given = ".".join(loc), _doc(loc), _brief(error["input"])
    if SECRET.search(loc[-1]):
        given = "(not shown)"
    if error["type"] == "extra_forbidden":
        return f"{place}: {key} = {given}: unknown key{nearest(loc[-1], _keys_at(loc[:-1]))}"
    if error["type"] == "missing":
        wanted = f"wanted: {doc}" if doc else f"wanted a table [{key}]"
        return f"{place}: {key}: missing; {wanted}"
    context, kind = error.get("ctx", {}), error["type"]
    if kind == "model_type":
        wanted = "a name, or a table with a name" if context["class_name"].endswith("Spec") else f"a table [{key}]"
    elif loc[-1] == "key_env":
        wanted = "the name of a variable, in capitals"
    elif kind in ("too_short", "too_long"):
        bound = context.get("min_length", context.get("max_length"))
        wanted = f"a list of at {'least' if kind == 'too_short' else 'most'} {bound}"
    else:
        wanted = _WANTED.get(kind) or error["msg"].removeprefix("Input should be ").removeprefix("String should match ")
    return f"{place}: {key} = {given}: wanted {wanted}" + (f" ({doc})" if doc else "")


def _brief(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _section_at(loc: Sequence[str]) -> type[BaseModel] | None:
    at: type[BaseModel] | None = RunConfig
    for part in loc:
        if part.isdigit():
            continue
        info = at.model_fields.get(part) if at else None
        kind = info.annotation if info else None
        for inner in [kind, *getattr(kind, "__args__", ())]:
            if isinstance(inner, type) and issubclass(inner, BaseModel):
                at = inner
                break
        else:
            return None
    return at


def _keys_at(loc: Sequence[str]) -> list[str]:
    section = _section_at(loc)
    return list(section.model_fields) if section else []


def _doc(loc: Sequence[str]) -> str:
    section = _section_at(loc[:-1])
    info = section.model_fields.get(loc[-1]) if section else None
    return (info.description or "").replace("\n", " ").rstrip(".") if info else ""
