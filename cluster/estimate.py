"""How much memory each process of a recipe will take, from the recipe and two small reads of the model folder.

Nothing heavy is imported: the shape comes from config.json, the number of parameters from the headers of the
safetensors files. An estimate is meant to be within a third, and rather too high than too low; what was measured of a
run stands in its summary.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.models import BUILTIN, cache_folder
from cluster.registries import all_rewarders
from learners.losses import WITH_REFERENCE
from swarm.config import JudgeSection, RunConfig

GIB = 2**30

DRIVER_GIB = 0.4
"""The driver: Python, pyarrow, Ray client, task sources, at the end matplotlib, scipy. Measured in training: 0.32."""
RAY_GIB = 0.35
"""A local Ray (measured: 0.34): its control service, raylet, agents and log monitor, without the object store."""
OBJECT_STORE_GIB = 0.05
"""What groups in flight take in Ray's store: kilobytes each; only touched pages of the store count."""
ENGINE_GIB: Mapping[str, float] = {"vllm": 1.3, "transformers": 0.5}
"""An engine process without weights and cache: Python, torch, the engine's own buffers. Measured for vllm: 2.05 GiB in
all, with 0.25 of weights and 0.5 of cache."""
LEARNER_GIB = 0.7
"""A learner process without tensors: Python, torch, DeepSpeed, transformers. Measured between steps, with weights,
gradients, moments and the copy: 2.94 GiB for 135M parameters, of which 2.25 are those."""
REWARDER_GIB = 0.25
"""A reward worker: Python, pyarrow, scorers. Measured: 0.24."""
CHILD_GIB = 0.1
"""A killable child process of a reward worker, where a rewarder uses one. Measured: 0.09."""
KILLABLE = {"math_verify", "reasoning_gym", "function", "pattern", "json_schema", "bleu"}
"""Rewarders that judge in such a child."""
GPU_HOST_GIB = 1.0
"""Memory of the host that a process with a CUDA context takes in addition."""

REDUCE_BUCKET = 4 * 50_000_000
"""Bytes of gradients that DeepSpeed gathers before it reduces them, under ZeRO 2 and 3."""

PUBLISHED_SETS = 2
"""Sets of weights in /dev/shm: the newest and the one before it. Where actors are on another host, it has as many."""
DELTA_SHARE = 0.25
"""Of a set in bfloat16: what tells its changes. Measured at a learning rate of 1e-6: 0.007; it grows with the rate."""
PROMPT_TOKENS = 64
"""Tokens of a prompt that the estimate assumes where the recipe allows more: the limit is rarely what is used."""
SAVED_HIDDEN, SAVED_MIDDLE = 10, 4
"""Activations that a layer keeps for the backward pass, per token: about ten vectors of the hidden size (inputs of
norms, projections and residuals, queries, keys, values) and four of the middle size, in the dtype of autocast."""
SAVED_FLOAT = 4
"""Of those of the hidden size, how many are kept in float32 as well: norms and residuals do not autocast."""
LOGITS = 1 << 26
"""Logits in float32 that a forward pass keeps at most (`learners.head.KEEP`); beyond, it makes them twice."""
ALLOCATOR = 1.15
"""Memory that the allocator keeps beyond what is in use."""


@dataclass(frozen=True, slots=True)
class Shape:
    """The sizes of a causal language model."""

    parameters: int
    hidden: int
    middle: int
    layers: int
    vocab: int
    kv_width: int
    """Key-value heads times the size of a head."""


KNOWN: Mapping[str, Shape] = {
    "smollm2-135m-instruct": Shape(134_515_008, 576, 1536, 30, 49_152, 192),
    "tiny": Shape(3_000_000, 256, 768, 4, 320, 256),
}
"""Built-in models before they are made; the tiny one roughly."""


@dataclass(frozen=True, slots=True)
class Row:
    """One process, or several equal ones."""

    process: str
    gib: float
    why: str
    where: str = "memory"
    """`memory`, `shared memory` (/dev/shm, which is memory too) or `GPU`."""


def estimate(config: RunConfig, model_folder: Path | None) -> list[Row]:
    """Memory per process. Without a model folder a built-in model's known size is used; of other models only the
    processes without weights are counted, and the rows say so. Raises ValueError for a folder that is no model."""
    shape = shape_of(model_folder) if model_folder else KNOWN.get(config.model.path)
    ray = config.cluster.placement == "ray"
    rows = [Row("driver", DRIVER_GIB, "Python, Ray's client, task sources")]
    if ray and not config.cluster.address:
        rows.append(Row("Ray", RAY_GIB + OBJECT_STORE_GIB, "control service, raylet, groups in the object store"))
    rows += _actors(config, shape)
    rows += _learner(config, shape)
    rewarders = config.rewarders
    names = [spec.name for _, spec in all_rewarders(config)]
    children, scorers = sum(name in KILLABLE for name in names), names.count("reward_model")
    one = REWARDER_GIB + CHILD_GIB * children + ENGINE_GIB["transformers"] * scorers
    why = "Python, scorers" + (f", {children} killable child process{'es' * (children > 1)}" if children else "")
    why += f", {scorers} reward model{'s' * (scorers > 1)} without weights" if scorers else ""
    rows.append(Row(_times("reward worker", rewarders.num), one * rewarders.num, why))
    rows += [_judge(judge, _width(config)) for judge in rewarders.served]
    if shape:
        size = shape.parameters * _width(config) / GIB
        if config.learners.lora:
            size = 4 * _trained(config, shape) / GIB
        delta = DELTA_SHARE * size if config.model.dtype == "bfloat16" and not config.learners.lora else 0.0
        why = f"{PUBLISHED_SETS} sets of {size:.2f} GiB" + (", and what changed between them" if delta else "")
        rows.append(Row("published weights", PUBLISHED_SETS * size + delta, why, "shared memory"))
    return rows


def total_gib(rows: list[Row], *where: str) -> float:
    """Sum over the rows of these places."""
    return sum(row.gib for row in rows if row.where in where)


def checkpoint_gib(config: RunConfig, shape: Shape) -> float:
    """One checkpoint: float32 weights and two moments."""
    return 12 * _trained(config, shape) / GIB


def local_folder(path: str) -> Path | None:
    """Where the recipe's model already lies on this machine; None where it is still to be made or fetched."""
    folder = cache_folder() / "models" / path if path in BUILTIN else Path(path).expanduser()
    return folder if (folder / "config.json").is_file() else None


def shape_of(folder: Path) -> Shape:
    """Sizes of a Hugging Face model folder. Raises ValueError where it has none that can be read."""
    try:
        config = _text_config(folder)
        hidden = int(config.get("hidden_size") or config["n_embd"])
        heads = int(config.get("num_attention_heads") or config["n_head"])
        return Shape(
            parameters=sum(map(parameters_in, sorted(folder.glob("*.safetensors")))),
            hidden=hidden,
            middle=int(config.get("intermediate_size") or config.get("n_inner") or 4 * hidden),
            layers=int(config.get("num_hidden_layers") or config["n_layer"]),
            vocab=int(config["vocab_size"]),
            kv_width=int(config.get("num_key_value_heads") or heads) * int(config.get("head_dim") or hidden // heads),
        )
    except (OSError, KeyError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"{folder}: cannot tell the model's size: {type(error).__name__}: {error}") from None


def context_of(folder: Path) -> int | None:
    """Tokens that a model folder's positions reach; None where it does not say."""
    try:
        config = _text_config(folder)
        longest = config.get("max_position_embeddings") or config.get("n_positions")
        return int(longest) if longest else None
    except (OSError, TypeError, AttributeError, ValueError):
        return None  # said where the folder is checked


def _text_config(folder: Path) -> dict[str, Any]:
    """A model folder's configuration, or its part on text where it has several."""
    config: dict[str, Any] = json.loads((folder / "config.json").read_text())
    part: dict[str, Any] = config.get("text_config", config)
    return part


def parameters_in(path: Path) -> int:
    """Elements of all tensors of a safetensors file, from its header. Raises ValueError where there is none."""
    with open(path, "rb") as file:
        start = file.read(8)
        if len(start) < 8:
            raise ValueError(f"{path.name} is cut short")
        header: dict[str, Any] = json.loads(file.read(struct.unpack("<Q", start)[0]))
    return sum(math.prod(tensor["shape"]) for name, tensor in header.items() if name != "__metadata__")


def _actors(config: RunConfig, shape: Shape | None) -> list[Row]:
    a = config.actors
    name = _times("actor", a.num)
    runtime = ENGINE_GIB.get(a.engine.name, max(ENGINE_GIB.values()))
    if shape is None:
        return [Row(name, runtime * a.num, f"{a.engine.name} alone; the model's size is not known yet")]
    # The sum of the model and its adapters is made twice: the present one, and the last good one.
    weights = shape.parameters * _width(config) * (3 if config.learners.lora else 1) / GIB
    if a.engine.name == "vllm":
        cache = float(a.engine.options.get("kv_cache_gib", 1.0))
        cache_why = "KV cache as configured"
    else:
        rollouts = a.group_size * int(a.engine.options.get("max_num_seqs", 256) // a.group_size or 1)
        tokens = rollouts * (min(a.max_prompt_tokens, PROMPT_TOKENS) + a.max_new_tokens)
        cache = 2 * shape.layers * shape.kv_width * tokens * _width(config) / GIB
        cache_why = f"KV cache of {rollouts} sequences"
    why = f"{weights:.2f} weights in {config.model.dtype}, {cache:.2f} {cache_why}, {{host:.2f}} {a.engine.name}"
    if a.gpus:
        return [
            Row(name, (runtime + GPU_HOST_GIB) * a.num, f"{a.engine.name} and CUDA"),
            Row(name, (weights + cache) * a.num, why.partition(", {host")[0], "GPU"),
        ]
    return [Row(name, (weights + cache + runtime) * a.num, why.format(host=runtime))]


def _judge(judge: JudgeSection, width: int) -> Row:
    """A judge that this node serves. One that runs on a GPU is counted there whole."""
    folder, engine = local_folder(judge.model), judge.engine
    shape = shape_of(folder) if folder else KNOWN.get(judge.model)
    runtime = ENGINE_GIB.get(engine.name, max(ENGINE_GIB.values()))
    weights = shape.parameters * width / GIB if shape else 0.0
    cache = float(engine.options.get("kv_cache_gib", 1.0)) if engine.name == "vllm" else 0.0
    why = f"{weights:.2f} weights, {cache:.2f} KV cache, {runtime:.2f} {engine.name}"
    if not shape:
        why += "; the model's size is not known yet"
    return Row(f"judge {judge.name}", weights + cache + runtime, why, "GPU" if judge.gpus else "memory")


def _learner(config: RunConfig, shape: Shape | None) -> list[Row]:
    s = config.learners
    if shape is None:
        return [Row("learner", LEARNER_GIB, "DeepSpeed alone; the model's size is not known yet")]
    n = shape.parameters
    t = _trained(config, shape)
    lower = config.model.dtype == "bfloat16"
    share = t / s.ranks  # of what ZeRO divides; it keeps its partition beside the module's own weights
    buffer = 12 * t / s.ranks if s.checkpoint_every < s.steps else 0
    parts = {
        "float32 weights": 4 * n + (4 * share if s.zero_stage else 0),
        "gradients": 4 * t if s.zero_stage < 2 else min(4 * t, 4 * share + REDUCE_BUCKET),
        "Adam moments": 8 * share if s.zero_stage else 8 * t,
        "copy for checkpoints": 0 if s.gpus else buffer,
        "copy to publish": 2 * n if lower and not s.gpus and not s.lora else 0,
        "autocast copies": 2 * n if lower else 0,
        "reference": (6 if lower else 4) * n if s.kl_coef or s.loss.name in WITH_REFERENCE else 0,
        "activations": ALLOCATOR * _activation_bytes(config, shape),
        "logits": ALLOCATOR * 4 * min(LOGITS, shape.vocab * _loss_tokens(config)),
    }
    host, process = LEARNER_GIB, "learner" if s.ranks == 1 else f"{s.ranks} learner ranks"
    if s.gpus:
        on_host = buffer + _width(config) * n
        if s.offload:
            on_host += 12 * share
            parts |= {"float32 weights": 4 * n, "Adam moments": 0}
        words = "DeepSpeed, CUDA, copies to publish and for checkpoints" + (", offloaded state" if s.offload else "")
        rows = [Row(process, s.ranks * (host + GPU_HOST_GIB + on_host / GIB), words)]
        return [*rows, Row(process, s.ranks * sum(parts.values()) / GIB, _listed(parts), "GPU")]
    each = host + sum(parts.values()) / GIB
    return [Row(process, s.ranks * each, f"{_listed(parts)}, {host:.2f} DeepSpeed" + (" each" if s.ranks > 1 else ""))]


def _listed(parts: Mapping[str, float]) -> str:
    return ", ".join(f"{size / GIB:.2f} {name}" for name, size in parts.items() if size)


def _trained(config: RunConfig, shape: Shape) -> int:
    """Parameters that have a gradient."""
    lora = config.learners.lora
    return min(shape.parameters, _adapter_parameters(lora.rank, shape)) if lora else shape.parameters


def _adapter_parameters(rank: int, shape: Shape) -> int:
    """Of adapters beside every linear layer of a gated transformer."""
    h, kv, m = shape.hidden, shape.kv_width, shape.middle
    return rank * shape.layers * (4 * h + 2 * (h + kv) + 3 * (h + m))


def _group_tokens(config: RunConfig) -> int:
    """Tokens of a group's forward pass: the prompt once, and each completion without its last token."""
    a = config.actors
    return min(a.max_prompt_tokens, PROMPT_TOKENS) + a.group_size * (a.max_new_tokens - 1)


def _micro_tokens(config: RunConfig) -> int:
    """Tokens of the largest forward pass: the budget, or the whole batch where that is smaller; at least one row."""
    a, s = config.actors, config.learners
    row = min(a.max_prompt_tokens, PROMPT_TOKENS) + a.max_new_tokens
    if s.loss.name in WITH_REFERENCE:
        row = _group_tokens(config)  # it compares the rollouts of a group, which is not cut
    return max(row, min(s.micro_tokens, _group_tokens(config) * math.ceil(s.groups_per_step / s.updates_per_step)))


def _loss_tokens(config: RunConfig) -> int:
    """Tokens of that pass that have logits: the completions."""
    a = config.actors
    return _micro_tokens(config) * a.group_size * a.max_new_tokens // _group_tokens(config)


def _activation_bytes(config: RunConfig, shape: Shape) -> float:
    width = _width(config)
    extra = 4 if width == 2 else 0
    layer = width * (SAVED_HIDDEN * shape.hidden + SAVED_MIDDLE * shape.middle) + extra * SAVED_FLOAT * shape.hidden
    return float(_micro_tokens(config) * shape.layers * layer)


def _width(config: RunConfig) -> int:
    return 2 if config.model.dtype == "bfloat16" else 4


def _times(name: str, number: int) -> str:
    return name if number == 1 else f"{number} {name}s"
