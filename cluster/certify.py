"""`swarm certify`: a recipe's rewarders against suites of known truth, and the file that `swarm run` may ask for."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from cluster.build import make_stream
from cluster.check_noise import certify_command
from cluster.models import resolve
from cluster.served_judge import served_here, served_name
from rewarders.certificate import Limits, certificate, examine, problem_of, rates_problem
from rewarders.chat import ChatModel, Reply
from rewarders.endpoint import Endpoint
from rewarders.registry import build
from rewarders.suites import is_askable
from rewarders.version import present_version
from swarm.config import RunConfig
from swarm.errors import ConfigError
from swarm.roles import Rewarder


def certify(recipe: Path, config: RunConfig, *, items: int, limits: Limits, out: Path | None, console: Console) -> Any:
    """Examine the rewarders of a recipe on its first `items` held-out questions, and write the certificate to where
    `swarm run` looks for it, or to `out`.

    Raises ConfigError where there is nothing to examine them with, or no place for the file."""
    path = out or path_of(recipe, config)
    if path.is_dir() or not path.parent.is_dir():
        raise ConfigError(f"{path}: cannot be written there; make its folder, or give another file with --out")
    prompts = [p for p in make_stream(config).held_out(items) if is_askable(p)]
    if len(prompts) < 2:
        raise ConfigError(
            f"{recipe}: {len(prompts)} held-out questions have an answer or tests; certify needs at least two"
        )
    with _made(config, {judge.name: _Named(judge.name) for judge in config.rewarders.served}):
        pass  # keys and options are looked at before a judge's model is loaded
    with served_here(config, console.print) as served, _made(config, served) as made:
        found = asyncio.run(_examined(made, config, prompts, console))
        versions = {rewarder.name: present_version(rewarder) for rewarder in made}
    about = {"recipe": str(recipe), "questions": len(prompts), "tasks": tasks_of(config)}
    result = certificate(found, versions, limits, about)
    path.write_text(json.dumps(result, indent=1) + "\n")
    return result | {"path": str(path)}


async def _examined(made: Sequence[Rewarder], config: RunConfig, prompts: Any, console: Console) -> dict[str, Any]:
    r = config.rewarders
    found = {}
    for rewarder, spec in zip(made, r.use, strict=True):
        if getattr(rewarder, "about_truth", True):
            console.print(f"{rewarder.name}: {len(prompts)} questions")
            found[rewarder.name] = await examine(rewarder, spec, prompts, timeout_s=r.timeout_s, seed=config.seed)
        else:
            console.print(f"{rewarder.name}: does not judge truth; not examined")
    return found


@contextmanager
def _made(config: RunConfig, served: Mapping[str, ChatModel]) -> Iterator[list[Rewarder]]:
    """The recipe's rewarders, closed at the end, however far it came, and so are the judges with an endpoint; `served`
    are those without. Raises ConfigError for a rewarder that cannot be made."""
    with ExitStack() as closing:
        try:
            endpoints = {section.name: Endpoint(section) for section in config.rewarders.judges if section.endpoint}
        except ValueError as error:
            raise ConfigError(str(error)) from None
        for endpoint in endpoints.values():
            closing.callback(endpoint.close)
        try:
            made = build(config.rewarders.use, config.rewarders.timeout_s, {**endpoints, **served})
        except (ValueError, TypeError) as error:
            raise ConfigError(f"rewarders: {error}") from None
        for rewarder in made:
            closing.callback(rewarder.close)
        yield made


@dataclass(slots=True)
class _Named:
    """A judge that is not asked, only named."""

    name: str

    async def ask(self, messages: Any, *, max_tokens: int, choices: Sequence[str] = ()) -> Reply:
        raise ConnectionError(f"{self.name} is not served here")

    def close(self) -> None:
        """Nothing to release."""


def versions_of(config: RunConfig) -> dict[str, str]:
    """Of the recipe's rewarders, by label, without asking any judge."""
    named = {j.name: _Named(served_name(j, resolve(j.model))) for j in config.rewarders.served}
    with _made(config, named) as made:
        return {rewarder.name: present_version(rewarder) for rewarder in made}


def require(recipe: Path, config: RunConfig, overrides: Sequence[str] = (), path: Path | None = None) -> Path | None:
    """The certificate of a recipe that asks for one (`rewarders.require_certificate`), as changed by `overrides`; None
    where it asks for none. `path` is where it is, if elsewhere than the recipe says.

    Raises ConfigError where it is missing, stale, of another recipe, changed or refused; also where the error rates of
    a certificate (`rewarders.channels.certificate`) are those of other rewarders."""
    r = config.rewarders
    rates = r.channels.certificate if r.channels else ""
    versions = versions_of(config) if rates or r.require_certificate else {}
    if rates and (problem := rates_problem(Path(rates), versions, certify_command(recipe, overrides, rates=rates))):
        raise ConfigError(f"rewarders.channels.certificate: {problem}")
    if not r.require_certificate:
        return None
    found = path or path_of(recipe, config)
    make = certify_command(recipe, overrides, str(path or ""))
    if problem := problem_of(found, versions, tasks_of(config), make):
        raise ConfigError(problem)
    return found


def path_of(recipe: Path, config: RunConfig) -> Path:
    """As the recipe says, or beside it: `mine.toml` has `mine.certificate.json`."""
    named = config.rewarders.certificate
    return Path(named) if named else recipe.with_suffix(".certificate.json")


def tasks_of(config: RunConfig) -> Any:
    """What questions are asked, as JSON: the task sources with their options. Their weights are no matter."""
    sources = [{"name": spec.name, "options": spec.options} for spec in config.actors.tasks]
    return json.loads(json.dumps(sources, default=str))


def show(console: Console, result: dict[str, Any]) -> None:
    """Figures by family, holes and the verdict."""
    for label, found in result["rewarders"].items():
        if not found["examined"]:
            continue
        table = Table(title=f"{label} ({found['version']}): {found['items']} items")
        for column in ("family", "truth", "items", "wrongly", "rate", "95 % interval", "unscored"):
            table.add_column(column, no_wrap=column != "family")
        for f in found["families"]:
            counts = (str(f["items"]), str(f["wrongly"]), f"{f['rate']:.3f}", f"{f['low']:.3f} to {f['high']:.3f}")
            shown = (escape(f["family"]), "right" if f["right"] else "wrong", *counts, str(f["unscored"]))
            table.add_row(*shown, style="red" if not f["right"] and f["wrongly"] else None)
        console.print(table)
        for hole in found["holes"]:
            text = escape(f"{hole['text']!r} for {hole['answer']!r} was worth {hole['value']:.3g} ({hole['family']})")
            console.print(f"hole: {text}", highlight=False)
        if j := found["j"]:
            console.print(f"J = {j['value']:.3f} ({j['low']:.3f} to {j['high']:.3f})")
        for fault in found["faults"]:
            console.print(f"refused: {escape(fault)}", style="red", highlight=False)
    console.print(f"{'passed' if result['passed'] else 'refused'}; written to {result['path']}")
