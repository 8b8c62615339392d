"""`swarm doctor`: what a recipe needs, and what is missing on this machine. Imports nothing heavy,
and starts nothing but a sandbox, where programs are to be judged.

An `error` keeps the run from starting, a `warning` may spoil it, a `note` is worth knowing.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import platform
import shutil
import socket
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import click
import psutil
from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import SpecifierSet
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from cluster.estimate import GIB, KNOWN, Row, checkpoint_gib, context_of, estimate, local_folder, shape_of, total_gib
from cluster.precision import native_bfloat16, on_gpus
from cluster.registries import all_rewarders
from rewarders.endpoint import key_problem
from rewarders.process import ChildFailure
from rewarders.sandbox import look
from swarm.config import RunConfig
from swarm.errors import ConfigError

PROJECT = "swarm"
"""Name of the installed distribution: its metadata holds the pins."""
REACH_S = 2.0
"""How long an address may take to answer."""
SPARE_GIB = 1.0
"""Disk that should be left beside the checkpoints, for rollouts and logs."""
RAY_ADDRESS_FILE = Path("/tmp/ray/ray_current_cluster")  # noqa: S108 - where Ray writes what `auto` means
SHM = Path("/dev/shm")  # noqa: S108 - only asked for its size
OBJECT_STORE_GIB = 0.25
"""What a local Ray of ours may put into /dev/shm (`cluster.ray_node`)."""
STYLES = {"error": "bold red", "warning": "yellow", "note": "bright_black"}


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is missing or worth knowing."""

    level: Literal["error", "warning", "note"]
    text: str


@dataclass(frozen=True, slots=True)
class Machine:
    """What this machine has, as far as doctor asks; sizes in GiB."""

    cores: int
    memory_gib: float
    free_gib: float
    shm_free_gib: float | None
    """None where there is no /dev/shm."""
    gpus: int
    bfloat16: bool = True
    """Whether the processor multiplies it natively."""

    @classmethod
    def here(cls) -> Machine:
        """This machine. A container's memory limit counts as its memory."""
        memory = psutil.virtual_memory()
        limit = _memory_limit() or memory.total
        return cls(
            cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
            memory_gib=min(limit, memory.total) / GIB,
            free_gib=min(limit, memory.available) / GIB,
            shm_free_gib=shutil.disk_usage(SHM).free / GIB if SHM.is_dir() else None,
            gpus=_count_gpus(),
            bfloat16=native_bfloat16(),
        )


def demand(config: RunConfig, model_folder: Path) -> None:
    """Raise ConfigError with everything that keeps this recipe from running here."""
    if problems := [p.text for p in missing(config, model_folder) if p.level == "error"]:
        raise ConfigError(problems)


def report(config: RunConfig, console: Console, as_json: bool = False) -> bool:
    """Print the estimate and the problems; True where nothing keeps the recipe from running. With `as_json` one JSON
    object goes to stdout instead: `{memory: [...], total_gib, problems: [...], healthy}`."""
    folder = local_folder(config.model.path)
    rows: list[Row] = []
    problems = missing(config, folder)
    with suppress(ValueError):  # a broken model folder is among the problems
        rows = estimate(config, folder)
    healthy = not any(p.level == "error" for p in problems)
    if as_json:
        facts = {"memory": [asdict(row) for row in rows], "total_gib": total_gib(rows, "memory", "shared memory")}
        click.echo(json.dumps(facts | {"problems": [asdict(p) for p in problems], "healthy": healthy}))
    else:
        show(console, rows, problems)
    return healthy


def show(console: Console, rows: list[Row], problems: list[Problem]) -> None:
    """Both tables on a terminal."""
    table = Table(title="memory, estimated", title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False, expand=True)
    table.add_column("process", no_wrap=True)
    table.add_column("where", no_wrap=True)
    table.add_column("GiB", justify="right", no_wrap=True)
    table.add_column("why", ratio=1)
    for row in rows:
        table.add_row(row.process, row.where, f"{row.gib:.2f}", row.why)
    table.add_section()
    together = f"{total_gib(rows, 'memory', 'shared memory'):.2f}"
    table.add_row("together", "memory", together, "shared memory included", style="bold")
    console.print(table)
    console.print()
    for problem in problems:
        line = Text.assemble((f"{problem.level:<8}", STYLES[problem.level]), problem.text)
        console.print(line)
    if not any(p.level == "error" for p in problems):
        console.print(Text("nothing is missing: the recipe can run here", "green"))


def missing(config: RunConfig, model_folder: Path | None = None, machine: Machine | None = None) -> list[Problem]:
    """All problems, errors first. `machine` is this one unless given."""
    machine = machine or Machine.here()
    found = [
        *_packages(config),
        *_cores(config, machine),
        *_gpus(config, machine),
        *_precision(config, machine),
        *_context(config, model_folder),
        *_memory(config, model_folder, machine),
        *_disk(config, model_folder),
        *_address(config),
        *_sandbox(config),
        *_keys(config),
    ]
    return sorted(found, key=lambda p: list(STYLES).index(p.level))


def _keys(config: RunConfig) -> list[Problem]:
    """Of judges; hosts beside this one need the variables in their own environment."""
    wanted = [(judge.name, key_problem(judge.key_env)) for judge in config.rewarders.judges if judge.key_env]
    return [Problem("error", f"rewarders.judges, {name}: {problem}") for name, problem in wanted if problem]


def _packages(config: RunConfig) -> list[Problem]:
    found = []
    if config.actors.engine.name == "vllm" and importlib.util.find_spec("vllm") is None:
        text = (
            'actors.engine = "vllm": vLLM is not installed; install swarm[cpu] or swarm[gpu], or run with '
            "--set actors.engine=transformers (slower, needs nothing more)"
        )
        found.append(Problem("error", text))
    if any(task.name == "datasets" for task in config.actors.tasks) and importlib.util.find_spec("datasets") is None:
        found.append(
            Problem("error", "actors.tasks: a `datasets` task needs the package datasets: install swarm[data]")
        )
    try:
        pins = importlib.metadata.requires(PROJECT) or []
        python = importlib.metadata.metadata(PROJECT)["Requires-Python"]
    except importlib.metadata.PackageNotFoundError:
        return [*found, Problem("warning", "swarm is not installed, so versions cannot be compared with its pins")]
    if python and platform.python_version() not in SpecifierSet(python):
        found.append(Problem("error", f"Python {platform.python_version()}: wanted {python}"))
    return found + [problem for pin in pins if (problem := _pin_problem(pin))]


def _pin_problem(pin: str) -> Problem | None:
    """One requirement of the project against what is installed. Extras are checked only where they are installed."""
    try:
        wanted = Requirement(pin)
    except InvalidRequirement:
        return None
    optional = wanted.marker is not None and "extra" in str(wanted.marker)
    if wanted.marker is not None and not optional and not wanted.marker.evaluate():
        return None
    try:
        have = importlib.metadata.version(wanted.name)
    except importlib.metadata.PackageNotFoundError:
        text = f"package {wanted.name} is not installed; wanted {wanted.specifier}"
        return None if optional else Problem("error", text)
    if wanted.specifier.contains(have, prereleases=True):
        return None
    return Problem("warning", f"package {wanted.name} is {have}; wanted {wanted.specifier}")


def _cores(config: RunConfig, machine: Machine) -> list[Problem]:
    a, s = config.actors, config.learners
    judges = sum(judge.threads for judge in config.rewarders.served)
    wanted = a.num * a.threads + s.ranks * s.threads + config.rewarders.num + judges
    if config.cluster.address or wanted <= machine.cores:
        return []
    text = (
        f"{wanted} threads on {machine.cores} cores ({a.num} x {a.threads} actors, {config.rewarders.num} reward "
        f"workers, {s.ranks} x {s.threads} learner{f', {judges} judges' if judges else ''}): they share the cores; "
        "waiting ones sleep"
    )
    return [Problem("note" if wanted <= 3 * machine.cores else "warning", text)]


def _gpus(config: RunConfig, machine: Machine) -> list[Problem]:
    a, s = config.actors, config.learners
    wanted = a.num * a.gpus + s.ranks * s.gpus + sum(judge.gpus for judge in config.rewarders.served)
    if config.cluster.address or wanted <= machine.gpus:
        return []
    asked = f"actors.gpus = {a.gpus:g} x {a.num}, learners.gpus = {s.gpus:g} x {s.ranks}"
    text = f"{asked}: {wanted:g} GPUs asked, {machine.gpus} here"
    return [Problem("error", f"{text}; set them to 0 to run on CPU")]


def _precision(config: RunConfig, machine: Machine) -> list[Problem]:
    if config.model.dtype != "bfloat16" or config.cluster.address or on_gpus(config) or machine.bfloat16:
        return []
    text = 'model.dtype = "bfloat16": this processor has no instructions for it and takes about 50 times as long'
    return [Problem("warning", f'{text}; set it to "float32"')]


def _context(config: RunConfig, folder: Path | None) -> list[Problem]:
    a, longest = config.actors, context_of(folder) if folder else None
    wanted = a.max_prompt_tokens + a.max_new_tokens
    if longest is None or wanted <= longest:
        return []
    text = (
        f"actors.max_prompt_tokens = {a.max_prompt_tokens} and actors.max_new_tokens = {a.max_new_tokens} make "
        f"{wanted} tokens, the model's context is {longest}; lower one of them"
    )
    return [Problem("error", text)]


def _memory(config: RunConfig, folder: Path | None, machine: Machine) -> list[Problem]:
    try:
        rows = estimate(config, folder)
    except ValueError as error:
        return [Problem("error", str(error))]
    if config.cluster.address:
        return []  # the cluster's hosts are not this machine
    found = []
    shared, whole = total_gib(rows, "shared memory"), total_gib(rows, "memory", "shared memory")
    if folder is None and config.model.path not in KNOWN:
        found.append(Problem("note", f"model {config.model.path!r} is not here yet: its memory is not in the estimate"))
    hint = "lower learners.micro_tokens, actors.num or the KV cache (kv_cache_gib), or take a smaller model"
    if whole > machine.memory_gib:
        text = f"about {whole:.1f} GiB of memory needed, the machine has {machine.memory_gib:.1f}; {hint}"
        found.append(Problem("error", text))
    elif whole > machine.free_gib:
        text = f"about {whole:.1f} GiB of memory needed, {machine.free_gib:.1f} are free now; {hint}"
        found.append(Problem("warning", text))
    return found + _shared_memory(config, shared, machine)


def _shared_memory(config: RunConfig, shared: float, machine: Machine) -> list[Problem]:
    if machine.shm_free_gib is None:
        return [Problem("warning", f"there is no {SHM}: weights are published through the disk, which is slower")]
    free = f"{SHM} has {machine.shm_free_gib:.2f} GiB free"
    if shared > machine.shm_free_gib:
        text = f"{free}, published weights need {shared:.2f}; make it larger (in Docker: --shm-size)"
        return [Problem("error", text)]
    both = shared + OBJECT_STORE_GIB
    if config.cluster.placement == "ray" and both > machine.shm_free_gib:
        text = f"{free}, published weights and Ray's object store want {both:.2f} (in Docker: --shm-size)"
        return [Problem("warning", text)]
    return []


def _disk(config: RunConfig, folder: Path | None) -> list[Problem]:
    runs = Path(config.cluster.runs).expanduser().absolute()
    there = next(p for p in (runs, *runs.parents) if p.exists())
    if not os.access(there, os.W_OK | os.X_OK):
        return [Problem("error", f"cluster.runs = {config.cluster.runs!r}: {there} cannot be written to")]
    try:
        shape = shape_of(folder) if folder else KNOWN.get(config.model.path)
    except ValueError:
        return []  # said with the memory
    if shape is None:
        return []
    one, free = checkpoint_gib(config, shape), shutil.disk_usage(there).free / GIB
    kept = config.learners.keep_checkpoints
    needed = one * (kept + 1)  # one more while it is written
    if needed > free:
        text = f"{free:.1f} GiB free, {kept} checkpoints and the next one need {needed:.1f}"
        return [Problem("error", f"disk of {runs}: {text}; lower learners.keep_checkpoints, or set cluster.runs")]
    if needed + SPARE_GIB > free:
        return [Problem("warning", f"disk of {runs}: {free:.1f} GiB free, checkpoints take up to {needed:.1f} of it")]
    return []


def _address(config: RunConfig) -> list[Problem]:
    address = config.cluster.address
    if not address:
        return []
    target = address
    if address == "auto":
        target = os.environ.get("RAY_ADDRESS", "") or _started_here()
        if not target:
            return [
                Problem(
                    "error", 'cluster.address = "auto": no Ray cluster runs here; start one with `ray start --head`'
                )
            ]
    host, colon, port = target.removeprefix("ray://").rpartition(":")
    if not colon or not port.isdigit():
        return [Problem("error", f'cluster.address = "{address}": wanted auto or HOST:PORT')]
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=REACH_S).close()
    except (OSError, OverflowError) as error:
        return [Problem("error", f'cluster.address = "{address}": {target} does not answer ({error})')]
    return []


def _sandbox(config: RunConfig) -> list[Problem]:
    """What the programs that `code` judges would run in."""
    where = next((key for key, spec in all_rewarders(config) if spec.name == "code"), None)
    if where is None:
        return []
    try:
        way = look()
    except ChildFailure as failure:
        return [Problem("error", f"{where}, rewarder code: {failure}")]
    if way.lacks:
        return [Problem("warning", f"{where}, rewarder code: {way.lacks}")]
    return [Problem("note", f"{where}, rewarder code: programs run in bubblewrap ({way.bubblewrap})")]


def _started_here() -> str:
    try:
        return RAY_ADDRESS_FILE.read_text().strip()
    except OSError:
        return ""


def _memory_limit() -> int | None:
    """Of this container, in bytes; None where there is none."""
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            text = Path(path).read_text().strip()
        except OSError:
            continue
        return int(text) if text.isdigit() else None
    return None


def _count_gpus() -> int:
    """NVIDIA devices that this process may use, without loading CUDA."""
    devices = [p for p in Path("/dev").glob("nvidia*") if p.name.removeprefix("nvidia").isdigit()]
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return len(devices)
    return min(len(devices), len([v for v in visible.split(",") if v.strip() not in ("", "-1")]))
