"""`swarm eval`: pass@1 and pass@k with intervals, of a run's newest checkpoint or of any model."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from cluster import build
from cluster.check import check
from cluster.export import export_run
from cluster.models import resolve
from cluster.statistics import mean_interval, pass_at_k, proportion
from swarm import evaluation
from swarm.config import RunConfig
from swarm.errors import ConfigError
from swarm.journal import RunFolder


def evaluate(
    what: Path,
    *,
    console: Console,
    recipe: Path | None = None,
    questions: int = 200,
    samples: int = 8,
    ks: Sequence[int] = (),
    temperature: float | None = None,
    overrides: Sequence[str] = (),
) -> dict[str, Any]:
    """Ask held-out questions `samples` times each. Raises ConfigError for what cannot be evaluated."""
    ks = sorted(set(ks) or {1, samples})
    if ks[-1] > samples:
        raise ConfigError(f"--k {ks[-1]}: needs at least as many answers to a question; --samples is {samples}")
    if temperature == 0 and samples > 1:
        raise ConfigError("--temperature 0: greedy answers are all equal; give --samples 1")
    with tempfile.TemporaryDirectory(prefix="swarm-eval-") as scratch:
        if (what / "config.toml").is_file():
            config = check(what / "config.toml", overrides)
            step = export_run(RunFolder.open(what), Path(scratch) / "model")["step"]
            model = Path(scratch) / "model"
        elif recipe is None:
            raise ConfigError(f"{what}: not a run folder; for a model, name tasks and rewarders with --recipe RECIPE")
        else:
            config, step = check(recipe, overrides), None
            model = resolve(str(what), say=console.print)
        prompts = build.make_stream(config).held_out(questions)
        if not prompts:
            raise ConfigError("actors.tasks: there is no held-out question")
        console.print(f"asking {len(prompts)} held-out questions, {samples} answers each")
        outcomes = asyncio.run(_ask(_at(config, temperature), model, prompts, samples, console))
    first = [o.num_correct / o.num for o in outcomes]
    passes = {}
    for k in ks:
        values = [pass_at_k(o.num_correct, o.num, k) for o in outcomes]
        mean, low, high = mean_interval(values)
        if samples == 1:  # shares of single trials have an exact interval
            low, high = proportion(sum(o.num_correct for o in outcomes), len(outcomes))
        passes[f"pass@{k}"] = {"value": mean, "low": low, "high": high}
    return {
        "what": str(what),
        "step": step,
        "questions": len(outcomes),
        "samples": samples,
        "temperature": config.actors.temperature if temperature is None else temperature,
        "solved_share": sum(f > 0 for f in first) / len(first),
        "failures": [o.failure for o in outcomes if o.failure],
        **passes,
    }


def show(console: Console, result: dict[str, Any]) -> None:
    """The result as a small table."""
    at = "" if result["step"] is None else f", step {result['step']}"
    table = Table(title=f"{result['what']}{at}: {result['questions']} held-out questions")
    for column in ("figure", "value", "95 % interval"):
        table.add_column(column)
    for name, figure in result.items():
        if name.startswith("pass@"):
            table.add_row(name, f"{figure['value']:.3f}", f"{figure['low']:.3f} to {figure['high']:.3f}")
    console.print(table)
    console.print(f"{result['samples']} answers each at temperature {result['temperature']:g}")
    if result["failures"]:
        count, last = len(result["failures"]), result["failures"][-1]
        console.print(f"{count} questions had no answer and count as wrong; the last: {last}")


async def _ask(
    config: RunConfig, model: Path, prompts: Sequence[Any], samples: int, console: Console
) -> list[evaluation.Outcome]:
    def notice(kind: str, **facts: Any) -> None:
        if kind != "ready":
            console.print(f"{kind}: " + ", ".join(str(v) for v in facts.values()))

    async with build.crew_for(config, model, notice, with_learner=False) as crew:
        return await evaluation.evaluate(crew, prompts, num=samples, greedy=config.actors.temperature == 0)


def _at(config: RunConfig, temperature: float | None) -> RunConfig:
    if temperature is None:
        return config
    return config.model_copy(update={"actors": config.actors.model_copy(update={"temperature": temperature})})
