"""A summary in words: as Markdown for `summary.md`, and on a terminal. Both are made of the same rows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from cluster.figures import clock, printable
from swarm.journal import RunFolder

Row = tuple[str, str]
NOTHING = "not known"
SIDES = ("before", "after")
LONGEST_ANSWER = 160
"""Characters of a question or answer that are shown."""


def accuracy_rows(summary: Mapping[str, Any]) -> list[Row]:
    """Held-out accuracy before and after, with intervals."""
    rows = []
    for when in SIDES:
        found = summary["accuracy"][when]
        if found is None:
            rows.append((when, "not measured"))
            continue
        interval = f"95 % interval {found['low']:.3f} to {found['high']:.3f}"
        text = f"{found['accuracy']:.3f} ({interval}, {found['questions']} questions)"
        if found["unanswered"]:
            text += f"; {found['unanswered']} had no answer and count as wrong"
        rows.append((when, text))
        if c := found.get("corrected"):
            interval = f"95 % interval {c['low']:.3f} to {c['high']:.3f}"
            rows.append((f"{when}, corrected", f"{c['value']:.3f} ({interval}, {c['label']})"))
    return rows


def rows(summary: Mapping[str, Any]) -> list[Row]:
    """Everything else, in the order of interest."""
    s = summary
    time, reward, memory, machine = s["time"], s["reward"], s["memory"]["peak_bytes"], s["machine"]
    load = " ".join(map(str, machine["load_1_5_15_min"] or ["not known"]))
    planned = f" of {s['planned_steps']}" if s["planned_steps"] else ""
    resumed = f", in {time['processes']} processes" if time["processes"] > 1 else ""
    out: list[Row] = [
        ("learner steps", f"{s['steps']}{planned}"),
        ("sampled reward", f"{_float(reward['first'])} in the first 5 steps, {_float(reward['last'])} in the last 5"),
        *_debiased(reward),
        ("wall time", f"{clock(time['wall_s'])} (first step done at {_clock(time['first_step_s'])}){resumed}"),
        ("learner's time", _shares(time["learner"])),
        ("actors' time", _shares(time["actors"])),
        ("reward workers", _shares(time["rewarders"])),
        ("trained tokens/s", _trained(s["throughput"])),
        ("generated tokens/s", _float(s["throughput"]["tokens_per_s"], 1)),
        ("peak memory", f"{memory / 2**30:.2f} GiB (PSS of all processes)" if memory else NOTHING),
        ("sync pauses", _pauses(s["sync"])),
        ("lag", _lag(s["lag"])),
        ("length bias", _bias(s["length_bias"])),
        ("prompts", _prompts(s["prompts"])),
        ("failures", _counts(s["failures"]) or "none"),
        ("deaths", _counts(s["deaths"]) or "none"),
        ("checkpoints", _checkpoints(s["checkpoints"])),
    ]
    out += [
        (f"sentinels, {name}", _sentinels(found, s["breakers"].get(name, 0))) for name, found in s["sentinels"].items()
    ]
    out += [
        (f"no verdict, {name}", f"{a['without']} of {a['of']} verdicts had no value ({a['times']} x): {a['cause']}")
        for name, a in s["unscored"].items()
    ]
    out += [("new lineage", f"{new['lineage']} from step {new['step']}: {new['cause']}") for new in s["lineages"]]
    out.append(("machine", f"{machine['cores']} cores, load {load} (1, 5, 15 min)"))
    out.append(("run folder", s["run"]))
    return out


def _debiased(reward: Mapping[str, float | None]) -> list[Row]:
    """Steps in which a verdict had no rates are left out."""
    if reward["last_debiased"] is None:
        return []
    first, last = (_float(reward[f"{when}_debiased"]) for when in ("first", "last"))
    return [("the same, corrected", f"{first} and {last}, each step by the error rates known or measured until then")]


def markdown(summary: Mapping[str, Any], folder: RunFolder) -> str:
    """The whole summary; plots are shown where they are there."""
    lines = [
        f"# {summary['name'] or folder.root.name}",
        "",
        "## Held-out accuracy",
        "",
        *_table(accuracy_rows(summary)),
    ]
    if summary["samples"]:
        lines += ["", "## Sample answers", ""]
        lines += ["| question | right answer | before | after |", "|---|---|---|---|"]
        for sample in summary["samples"]:
            cells = [sample["question"], sample["answer"], *(_marked(sample[w]) for w in SIDES)]
            lines.append("| " + " | ".join(_cell(c) for c in cells) + " |")
    lines += ["", "## The run", "", *_table(rows(summary))]
    plots = [name for name in ("reward", "accuracy", "lag", "throughput") if (folder.plots / f"{name}.png").exists()]
    if plots:
        lines += ["", "## Plots", "", *(f"![{name}](plots/{name}.png)" for name in plots)]
    return "\n".join(lines) + "\n"


def show(console: Console, summary: Mapping[str, Any]) -> None:
    """The whole summary on a terminal, or as plain text where there is none."""
    console.print()
    console.rule(Text(f"summary of {summary['name'] or 'the run'}"), align="left")
    grid = _grid()
    for name, text in accuracy_rows(summary):
        grid.add_row(Text(f"accuracy {name}"), Text(text, "bold green" if name == "after" else ""))
    console.print(grid)
    if summary["samples"]:
        table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, expand=True)
        table.add_column("question", ratio=5)
        table.add_column("right answer", ratio=2)
        table.add_column("before", ratio=4)
        table.add_column("after", ratio=4)
        for sample in summary["samples"]:
            cells = [_short(sample["question"]), _short(sample["answer"]), *(_marked(sample[w]) for w in SIDES)]
            styles = ["", "", *(_style(sample[w]) for w in SIDES)]
            shown = [Text(printable(c, console.encoding), s) for c, s in zip(cells, styles, strict=True)]
            table.add_row(*shown)
        console.print()
        console.print(table)
    grid = _grid()
    for name, text in rows(summary)[:-1]:
        grid.add_row(Text(name), Text(printable(text, console.encoding)))
    console.print(grid)
    console.print()
    # on a line of its own, unbroken, so that it can be copied
    console.print(Text.assemble(("run folder  ", "bold"), summary["run"]), soft_wrap=True)


def _grid() -> Table:
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="bold", no_wrap=True, min_width=18)
    grid.add_column()
    return grid


def _table(content: list[Row]) -> list[str]:
    return ["| | |", "|---|---|", *(f"| {name} | {_cell(text, None)} |" for name, text in content)]


def _cell(text: Any, longest: int | None = LONGEST_ANSWER) -> str:
    """Safe inside a Markdown table."""
    short = _short(text, longest)
    for mark, shown in (("&", "&amp;"), ("<", "&lt;"), ("|", "\\|"), ("*", "\\*"), ("_", "\\_"), ("`", "\\`")):
        short = short.replace(mark, shown)
    return short


def _short(text: Any, longest: int | None = LONGEST_ANSWER) -> str:
    line = printable("" if text is None else text)
    return line if longest is None or len(line) <= longest else line[: longest - 3] + "..."


def _marked(answer: Mapping[str, Any] | None) -> str:
    if answer is None:
        return NOTHING
    return f"{'right' if answer['correct'] else 'wrong'}: {_short(answer['text'])}"


def _style(answer: Mapping[str, Any] | None) -> str:
    return "" if answer is None else "green" if answer["correct"] else "red"


def _float(value: float | None, digits: int = 3) -> str:
    return NOTHING if value is None else f"{value:.{digits}f}"


def _clock(value: float | None) -> str:
    return NOTHING if value is None else clock(value)


def _shares(shares: Mapping[str, float] | None) -> str:
    return ", ".join(f"{name} {share:.1%}" for name, share in shares.items()) if shares else NOTHING


def _trained(speed: Mapping[str, Any]) -> str:
    text = _float(speed["trained_tokens_per_s"], 1)
    if speed["share_of_bound"] is not None:
        text += (
            f", {speed['share_of_bound']:.0%} of the work-conserving bound of {speed['work_conserving_bound']:.1f}"
            f" ({speed['cores']} cores, {sum(speed['cpu_s'].values()):.0f} s of processor time)"
        )
    return text


def _pauses(sync: Mapping[str, Any]) -> str:
    if not sync["count"]:
        return "no sync"
    text = f"median {sync['pause_median_s'] * 1e3:.0f} ms, worst {sync['pause_worst_s'] * 1e3:.0f} ms"
    text += f", {sync['count']} syncs"
    if sync["canary_mean_largest"] is not None:
        text += f"; canary off by {sync['canary_mean_largest']:.4f} nats on average, at worst"
    return text


def _lag(lag: Mapping[str, Any]) -> str:
    mean, largest, allowed = _float(lag["mean"], 2), _float(lag["largest"], 0), _float(lag["allowed"], 0)
    return f"mean {mean}, largest {largest}, allowed {allowed} learner steps"


def _bias(bias: Mapping[str, Any]) -> str:
    if bias["value"] is None:
        return NOTHING
    return f"{bias['value']:+.2%}  (95 % interval {bias['low']:+.2%} to {bias['high']:+.2%}, {bias['groups']} groups)"


def _prompts(counts: Mapping[str, int] | None) -> str:
    if counts is None:
        return NOTHING
    return (
        f"{counts['asked']} asked, {counts['trained']} trained on, {counts['waiting']} waiting, "
        f"{counts['lost']} lost, {counts['duplicated']} duplicated"
        + (f"; {counts['skipped']} flat groups skipped" if counts["skipped"] else "")
    )


def _sentinels(found: Mapping[str, Any], opened: int) -> str:
    text = (
        f"{found['accepted_wrong']} of {found['wrong']} wrong responses accepted, "
        f"{found['rejected_right']} of {found['right']} right ones rejected"
    )
    if (worst := found["worst"]) and worst["wrongly"]:
        text += f"; worst family: {worst['family']}, {worst['wrongly']} of {worst['items']}"
    if opened:
        text += f"; its breaker opened {opened} x"
    if found["quarantine"]:
        text += f"; in quarantine: {', '.join(map(repr, found['quarantine']))}"
    return text


def _counts(counts: Mapping[str, int]) -> str:
    return "; ".join(f"{number} x {name}" for name, number in counts.items())


def _checkpoints(found: Mapping[str, Any]) -> str:
    text = f"{found['written']} written"
    for kind in ("failed", "broken"):
        if found[kind]:
            text += f"; {len(found[kind])} {kind} (the last: {_short(found[kind][-1])})"
    return text
