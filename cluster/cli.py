"""The `swarm` command. Heavy packages are imported inside the commands: `--help` and bad input answer at once."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from swarm import __version__
from swarm.errors import ConfigError, SwarmError

Command = Callable[..., Any]


def fails_plainly(command: Command) -> Command:
    """Errors of our own tree become their message on stderr and their exit code; bugs keep their traceback."""

    @wraps(command)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        try:
            return command(*args, **kwargs)
        except* SwarmError as errors:
            error = _leaf(errors)
            for line in str(error).splitlines():
                click.echo(f"swarm: {line}", err=True)
            sys.exit(error.exit_code)

    return wrapped


def _leaf(error: BaseException) -> SwarmError:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    assert isinstance(error, SwarmError)
    return error


RECIPE = click.argument("recipe", type=click.Path(path_type=Path))
SET = click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Change one setting; repeatable.")
JSON = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="swarm")
def group() -> None:
    """Reinforcement learning for language models with asynchronous actors and learners."""


def main() -> None:
    """The console script. Some reasoning-gym families iterate over sets, so that their questions depend on the
    interpreter's hash seed: it is fixed before anything else happens, by starting over once."""
    if "PYTHONHASHSEED" not in os.environ:
        os.environ["PYTHONHASHSEED"] = "0"
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])  # noqa: S606 - this program itself
    group()


@group.command(epilog="Example: swarm run cluster/recipes/cpu.toml --set learners.max_lag=0")
@RECIPE
@SET
@click.option("--out", type=click.Path(path_type=Path), help="Run folder; default: a new one under cluster.runs.")
@JSON
@fails_plainly
def run(recipe: Path, overrides: tuple[str, ...], out: Path | None, as_json: bool) -> None:
    """Train as RECIPE says. Ctrl-C finishes the step and checkpoints; twice stops now."""
    from cluster.certify import require
    from cluster.check import check
    from swarm.journal import RunFolder

    config = check(recipe, overrides)
    certificate = require(recipe, config, overrides)
    folder = RunFolder.create_at(out) if out else RunFolder.create(Path(config.cluster.runs), config.name)
    folder.config.write_text(config.to_toml())
    if certificate:
        (folder.root / "certificate.json").write_bytes(certificate.read_bytes())
    _train(folder, as_json, resume=False)


@group.command(epilog="Example: swarm resume runs/cpu-1")
@click.argument("run_folder", type=click.Path(path_type=Path))
@JSON
@fails_plainly
def resume(run_folder: Path, as_json: bool) -> None:
    """Go on with a run that was stopped or killed, from its newest whole checkpoint."""
    from cluster.certify import require
    from cluster.check import check
    from swarm.journal import RunFolder

    folder = RunFolder.open(run_folder)
    require(folder.config, check(folder.config), path=folder.root / "certificate.json")
    _train(folder, as_json, resume=True)


@group.command("eval", epilog="Example: swarm eval runs/cpu-1 --samples 8 --k 1 --k 8")
@click.argument("what", type=click.Path(path_type=Path))
@click.option("--recipe", type=click.Path(path_type=Path), help="Tasks and rewarders, where WHAT is a model folder.")
@click.option("--questions", type=click.IntRange(min=1), default=200, show_default=True, help="Held-out questions.")
@click.option("--samples", type=click.IntRange(min=1), default=8, show_default=True, help="Answers to each question.")
@click.option(
    "--k", "ks", type=click.IntRange(min=1), multiple=True, help="Report pass@k; repeatable. Default: 1 and --samples."
)
@click.option("--temperature", type=click.FloatRange(min=0.0, max=2.0), help="Default: the recipe's; 0 is greedy.")
@SET
@JSON
@fails_plainly
def evaluate(what: Path, as_json: bool, **options: Any) -> None:
    """pass@1 and pass@k on held-out questions, of a RUN's newest checkpoint or of a MODEL folder or name."""
    from cluster.evaluate import evaluate as measure
    from cluster.evaluate import show

    console = Console(stderr=as_json)
    result = measure(what, console=console, **options)
    click.echo(json.dumps(result)) if as_json else show(console, result)


@group.command(epilog="Example: swarm export runs/cpu-1 my-model")
@click.argument("run_folder", type=click.Path(path_type=Path))
@click.argument("target", type=click.Path(path_type=Path))
@click.option("--adapters", is_flag=True, help="Of a LoRA run, the adapters alone, as peft reads them.")
@JSON
@fails_plainly
def export(run_folder: Path, target: Path, adapters: bool, as_json: bool) -> None:
    """Write the newest checkpoint as a Hugging Face model folder that transformers and vLLM load."""
    from cluster.export import export_run
    from swarm.journal import RunFolder

    result = export_run(RunFolder.open(run_folder), target, adapters)
    click.echo(json.dumps(result) if as_json else f"step {result['step']} written to {target}")


@group.command(epilog="Example: swarm replay runs/cpu-1 --since 50")
@click.argument("run_folder", type=click.Path(path_type=Path))
@click.option("--since", type=click.IntRange(min=0), default=0, help="Begin at the checkpoint of this step.")
@click.option("--steps", type=click.IntRange(min=1), help="Stop after so many steps.")
@JSON
@fails_plainly
def replay(run_folder: Path, since: int, steps: int | None, as_json: bool) -> None:
    """Train again on the recorded batches and compare the weights of every step, bit for bit. Ends with 1 where one
    differs, and names it and its first tensor that does."""
    from cluster.replay import replay as train_again
    from cluster.replay import verdict
    from swarm.journal import RunFolder

    console = Console(stderr=as_json)
    result = train_again(RunFolder.open(run_folder), console=console, since=since, steps=steps)
    if as_json:
        click.echo(json.dumps(result))
    if result["differs"]:
        raise SwarmError(verdict(result))
    console.print(verdict(result))


@group.command(epilog="Example: swarm rescore runs/cpu-1 --set \"rewarders.use=['math_verify']\"")
@click.argument("run_folder", type=click.Path(path_type=Path))
@SET
@click.option(
    "--rates",
    "questions",
    type=click.IntRange(min=2),
    metavar="N",
    help="Also estimate how often each of several rewarders errs, without gold: from their votes, and from known right "
    "and wrong answers to N of the run's questions.",
)
@JSON
@fails_plainly
def rescore(run_folder: Path, overrides: tuple[str, ...], questions: int | None, as_json: bool) -> None:
    """Judge a run's recorded rollouts again, with its rewarders or others, and say what would have changed. The new
    verdicts are written beside the old ones; nothing is trained."""
    from cluster.rescore import rescore as judge_again
    from cluster.rescore import show
    from swarm.journal import RunFolder

    console = Console(stderr=as_json)
    result = judge_again(RunFolder.open(run_folder), console=console, overrides=overrides, questions=questions or 0)
    click.echo(json.dumps(result)) if as_json else show(console, result)


@group.command(epilog="Example: swarm doctor cluster/recipes/cpu.toml")
@RECIPE
@SET
@JSON
@fails_plainly
def doctor(recipe: Path, overrides: tuple[str, ...], as_json: bool) -> None:
    """Say what RECIPE needs and what is missing here, before anything heavy starts."""
    from cluster.check import check
    from cluster.doctor import report

    healthy = report(check(recipe, overrides), Console(stderr=as_json), as_json)
    sys.exit(0 if healthy else 2)


@group.command(epilog="Example: swarm certify cluster/recipes/cpu.toml --items 50")
@RECIPE
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="Default: where `swarm run` looks: beside RECIPE, or `rewarders.certificate`.",
)
@click.option("--items", type=click.IntRange(min=2), default=100, show_default=True, help="Held-out questions.")
@click.option("--least-j", type=click.FloatRange(0, 1), default=0.5, show_default=True, help="Of J's lower bound.")
@click.option(
    "--worst-family",
    type=click.FloatRange(0, 1),
    default=0.05,
    show_default=True,
    help="Largest share of a family of wrong responses that may be accepted.",
)
@SET
@JSON
@fails_plainly
def certify(recipe: Path, out: Path | None, overrides: tuple[str, ...], as_json: bool, **options: Any) -> None:
    """Have RECIPE's rewarders judge responses whose truth is known, and write a certificate. Ends with 1 where it is
    refused. A recipe with `rewarders.require_certificate = true` runs with a passed one only."""
    from cluster.certify import certify as examine
    from cluster.certify import show
    from cluster.check import check
    from rewarders.certificate import Limits

    console = Console(stderr=as_json)
    limits = Limits(options["least_j"], options["worst_family"])
    config = check(recipe, overrides)
    result = examine(recipe, config, items=options["items"], limits=limits, out=out, console=console)
    click.echo(json.dumps(result)) if as_json else show(console, result)
    if not result["passed"]:
        faults = [f"{label}: {fault}" for label, found in result["rewarders"].items() for fault in found["faults"]]
        raise SwarmError(f"{recipe}: refused: {'; '.join(faults) or 'no rewarder judges truth'}")


@group.command(epilog="Example: swarm bench learn/speed --quick")
@click.argument("name", required=False)
@click.option("--quick", is_flag=True, help="A smaller one, of 10 minutes or less.")
@click.option("--out", type=click.Path(path_type=Path), help="Folder of results; default: the checkout's.")
@click.option("--fresh", is_flag=True, help="Measure again what an interrupted run has measured.")
@click.option("--write-report", is_flag=True, help="Make BENCHMARKS.md from the committed results.")
@JSON
@fails_plainly
def bench(name: str | None, as_json: bool, write_report: bool, **options: Any) -> None:
    """Measure what BENCHMARKS.md says, by NAME; without one, list what there is. An interrupted bench goes on."""
    from cluster import bench_report
    from cluster.bench import RESULTS, ROOT, carry_out
    from cluster.benches import BENCHES
    from swarm.config import nearest

    if name is not None:
        if name not in BENCHES:
            raise ConfigError(f"bench {name!r}: no such bench{nearest(name, list(BENCHES))}")
        path = carry_out(BENCHES[name](), say=lambda text: click.echo(text, err=as_json), **options)
        if as_json:
            click.echo(path.read_text())
    if write_report:
        if not (ROOT / RESULTS).parent.is_dir():
            raise ConfigError(f"{(ROOT / RESULTS).parent}: no such folder; the report is made in a checkout")
        click.echo(f"written to {bench_report.write(ROOT, ROOT / RESULTS)}", err=as_json)
    if name is None and not write_report:
        found = [{"name": b.name, "goal": b.goal, "wall": b.wall[0], "quick": b.wall[1]} for b in BENCHES.values()]
        lines = [f"{b['name']:<18} {b['wall']:>8}, quick {b['quick']:>8}   {b['goal']}" for b in found]
        click.echo(json.dumps(found) if as_json else "\n".join(lines))


def _train(folder: Any, as_json: bool, resume: bool) -> None:
    from cluster.check import check
    from cluster.doctor import missing
    from cluster.models import resolve
    from cluster.plots import write_plots
    from cluster.run import train
    from cluster.summary import print_summary, write_summary
    from cluster.view import make_view
    from swarm.journal import Journal

    console = Console(stderr=as_json)
    config = check(folder.config)
    with folder.locked():
        view = make_view(console, config.learners.steps)
        journal = Journal(folder, [view])
        try:
            with view:
                journal.event("phase", text=f"model {config.model.path}")
                model = resolve(config.model.path, say=lambda text: journal.event("phase", text=text))
                problems = missing(config, model)
                for problem in problems:
                    journal.event("phase", text=f"{problem.level}: {problem.text}")
                if errors := [problem.text for problem in problems if problem.level == "error"]:
                    raise ConfigError(errors)
                asyncio.run(train(config, model, folder, journal, resume))
        except BaseException as error:
            journal.event("stopped", cause=f"{type(error).__name__}: {error}")
            raise
        finally:
            journal.close()
            if folder.read("metrics.jsonl"):
                write_plots(folder)  # first: the summary links the plots that are there
                summary = write_summary(folder)
                click.echo(json.dumps(summary)) if as_json else print_summary(console, summary)
