"""BENCHMARKS.md, and the README's table of rewards, from the committed results."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cluster.bench_headlines import README, written

REPORT = "BENCHMARKS.md"
HEAD = """# Benchmarks

Made by `swarm bench --write-report` from `tests/bench/results/`, the last whole run of each bench; do not edit. Values
are medians with their 95 % interval (of fewer than six repeats: the smallest and the largest). Run one with
`swarm bench NAME`.
"""


def report(results: Path) -> str:
    """The text for all results in a folder, by name."""
    found = sorted((json.loads(path.read_text()) for path in results.rglob("*.json")), key=lambda r: str(r["name"]))
    return "\n".join([HEAD, *(_section(result) for result in found)])


def write(root: Path, results: Path) -> Path:
    """Write the report of a checkout, and its README's table."""
    path, readme = root / REPORT, root / README
    path.write_text(report(results))
    readme.write_text(written(readme.read_text(), results))
    return path


def _section(result: Mapping[str, Any]) -> str:
    m, load = result["machine"], result["load"]
    commits = ", ".join(f"`{c}`" for c in result["commits"])
    flags = " ".join(m["flags"]) or "no vector flags"
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    rows = "\n".join(_row(figure) for figure in result["figures"])
    plots = "".join(f"\n![{plot}](tests/bench/results/{_folder(result)}{plot})\n" for plot in result["plots"])
    return f"""## {result["name"]}

{result["goal"]}

| figure | value | interval | goal | holds |
|---|---|---|---|---|
{rows}
{plots}
{result["date"][:10]}, {result["seconds"]:.0f} s, {m["cpu"]}, {m["cores"]} cores ({flags}), {result["threads"]} threads,
load {load["least"]} to {load["largest"]} before cells, commit {commits}; {versions}.
"""


def _folder(result: Mapping[str, Any]) -> str:
    family, slash, _ = result["name"].rpartition("/")
    return family + slash


def _row(figure: Mapping[str, Any]) -> str:
    goal, note = figure["goal"], f" ({figure['note']})" if figure["note"] else ""
    if figure["value"] is None:
        return f"| {figure['name']} | not measured{note} | | {goal} | |"
    holds = {None: "", True: "yes", False: "**no**"}[figure["holds"]]
    interval = f"{figure['low']:.4g} to {figure['high']:.4g}"
    return f"| {figure['name']}{note} | {figure['value']:.4g} | {interval} | {goal} | {holds} |"
