"""`swarm certify`: a recipe's rewarders against suites of known truth, and the file that `swarm run` may ask for."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from cluster.build import make_stream
from rewarders.certificate import Limits, certificate, examine, problem_of
from rewarders.registry import build
from rewarders.suites import is_askable
from rewarders.versions import version_of
from swarm.config import RunConfig
from swarm.errors import ConfigError
from swarm.scores import labels


def certify(recipe: Path, config: RunConfig, *, items: int, limits: Limits, out: Path | None, console: Console) -> Any:
    """Examine the rewarders of a recipe on its first `items` held-out questions, and write the certificate.

    Raises ConfigError where there is nothing to examine them with."""
    prompts = [p for p in make_stream(config).held_out(items) if is_askable(p)]
    if len(prompts) < 2:
        raise ConfigError(
            f"{recipe}: {len(prompts)} held-out questions have an answer or tests; certify needs at least two"
        )
    found = asyncio.run(_examined(config, prompts, console))
    about = {"recipe": str(recipe), "questions": len(prompts)}
    result = certificate(found, versions(config), limits, about)
    path = out or default_path(recipe)
    path.write_text(json.dumps(result, indent=1) + "\n")
    return result | {"path": str(path)}


async def _examined(config: RunConfig, prompts: Any, console: Console) -> dict[str, Any]:
    r = config.rewarders
    made = build(r.use, r.timeout_s)
    try:
        found = {}
        for rewarder, spec in zip(made, r.use, strict=True):
            if getattr(rewarder, "about_truth", True):
                console.print(f"{rewarder.name}: {len(prompts)} questions")
                found[rewarder.name] = await examine(rewarder, spec, prompts, timeout_s=r.timeout_s, seed=config.seed)
            else:
                console.print(f"{rewarder.name}: does not judge truth; not examined")
        return found
    finally:
        for rewarder in made:
            rewarder.close()


def versions(config: RunConfig) -> dict[str, str]:
    """Of the recipe's rewarders, by label."""
    r = config.rewarders
    names = labels([spec.name for spec in r.use])
    return {label: version_of(spec, r.judges) for label, spec in zip(names, r.use, strict=True)}


def require(recipe: Path, config: RunConfig) -> Path | None:
    """The certificate of a recipe that asks for one (`rewarders.require_certificate`); None where it asks for none.

    Raises ConfigError where it is missing, stale or refused."""
    if not config.rewarders.require_certificate:
        return None
    path = Path(config.rewarders.certificate) if config.rewarders.certificate else default_path(recipe)
    if problem := problem_of(path, versions(config), f"swarm certify {recipe}"):
        raise ConfigError(problem)
    return path


def default_path(recipe: Path) -> Path:
    """Beside the recipe: `mine.toml` has `mine.certificate.json`."""
    return recipe.with_suffix(".certificate.json")


def show(console: Console, result: dict[str, Any]) -> None:
    """Figures by family, holes and the verdict."""
    for label, found in result["rewarders"].items():
        if not found["examined"]:
            continue
        table = Table(title=f"{label} ({found['version']}): {found['items']} items")
        for column in ("family", "truth", "items", "judged wrongly", "rate", "95 % interval", "unscored"):
            table.add_column(column)
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
