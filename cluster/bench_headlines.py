"""The README's table of rewards: of every bench of rewards the figures that answer its question.

results --headlines--> the lines between the two comments in README.md
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

README = "README.md"
BEGIN, END = "<!-- from the results of reward benches: `swarm bench --write-report` -->", "<!-- end of results -->"

HEADLINES: Sequence[tuple[str, str, str]] = (
    ("reward/training", "clean: held-out accuracy", "trained on clean verdicts: held-out accuracy"),
    ("reward/training", "strata, none: share of clean's accuracy", "noise by stratum, uncorrected: share of it"),
    ("reward/training", "strata, one pair: share of clean's accuracy", "corrected by one pair of rates: share of it"),
    ("reward/training", "strata, backward: share of clean's accuracy", "corrected by stratum: share of it"),
    (
        "reward/training",
        "strata, backward, longer: share of clean's accuracy",
        "corrected by stratum, 2.5 times the steps: share of it",
    ),
    ("reward/training", "key, open: accuracy over clean's", "a key is accepted, unguarded: accuracy over clean's"),
    ("reward/training", "key, guarded: accuracy over clean's", "a key is accepted, guarded: accuracy over clean's"),
    ("reward/training", "flips 40 %: held-out accuracy", "40 % flips, 1/J times the steps: accuracy"),
    ("reward/training", "flips 50 %: held-out accuracy", "50 % flips, as many steps: accuracy"),
    *(
        ("reward/training", f"SmolLM2, {arm}: held-out accuracy", f"SmolLM2, {what}: accuracy")
        for arm, what in (
            ("clean", "clean"),
            ("strata, none", "noise by family, uncorrected"),
            ("strata, backward", "noise by family, corrected"),
            ("key, open", "a key is accepted, unguarded"),
            ("key, guarded", "a key is accepted, guarded"),
        )
    ),
    (
        "reward/flips",
        "flips 40%, rate scaled: held-out accuracy",
        "40 % flips, 1/J times the steps, J times the rate",
    ),
    ("reward/gradient", "relative bias, backward, leave_one_out, rates by prompt", "bias of the corrected gradient"),
    (
        "reward/gradient",
        "cosine to the clean gradient, uncorrected, leave_one_out, rates by prompt",
        "cosine to the clean gradient, rates by prompt, uncorrected",
    ),
    (
        "reward/gradient",
        "cosine to the clean gradient, backward, leave_one_out, rates by prompt",
        "the same, corrected",
    ),
    (
        "reward/gradient",
        "largest change by correcting, backward, z-score, rates equal",
        "largest change of a z-scored advantage by correcting (none: refused)",
    ),
    ("reward/phase", "accuracy after 400 steps, J = 0.2", "a bandit's accuracy at J = 0.2"),
    ("reward/phase", "accuracy after 400 steps, J = -0.1", "at J = -0.1"),
    ("reward/false_positive", "plain: final accuracy", "a wrong answer is always accepted: accuracy"),
    ("reward/false_positive", "watched: final accuracy", "the same with sentinels"),
    (
        "reward/false_positive",
        "watched, late hole: most steps until then",
        "steps until a late hole is flagged, worst run",
    ),
    (
        "reward/appeals",
        "error, corrected, true accepts 0.95, false 0.05",
        "error of the false reject rate from appeals to an erring judge",
    ),
    ("reward/crowd", "mean error of rates, 3 judges, n = 10000", "Dawid-Skene: mean error of rates, 10,000 items"),
    ("reward/crowd", "alarm, a key fools two", "colluding judges are caught by sentinels: share of runs"),
    (
        "reward/accuracy",
        "95 % interval covers, prediction-powered, rates 0.1 and 0.2",
        "coverage of 95 % intervals: prediction-powered",
    ),
    ("reward/accuracy", "95 % interval covers, Rogan-Gladen, rates 0.1 and 0.2", "Rogan-Gladen"),
    ("reward/accuracy", "95 % interval covers, Rogan-Gladen, rates 0.3 and 0.3", "Rogan-Gladen, rates of 0.3"),
    ("reward/failures", "error of accuracy, failures as 0", "timeouts by length: error of accuracy, scored 0"),
    ("reward/failures", "error of accuracy, ipw", "inverse-propensity weights"),
    ("reward/ensembles", "shared errors: share of streams with an alarm", "an ensemble of one family is told: share"),
    ("reward/attacks", "math_verify: master keys accepted", "math_verify: master keys accepted"),
    (
        "reward/attacks",
        "math_verify: equivalent rewrites accepted",
        "math_verify: right answers in other words accepted",
    ),
    ("reward/attacks", "code: code exploits accepted", "code: exploits accepted"),
    (
        "reward/sandbox",
        "ms that a sandbox takes more than a bare subprocess",
        "ms that a sandbox takes more than a bare process",
    ),
    (
        "reward/sandbox",
        "verdicts lost to killed sandboxes, of the rollouts asked",
        "verdicts lost to killed sandboxes",
    ),
    (
        "reward/verifiers",
        "math: verdicts per processor second over those of math-verify alone",
        "verdicts per core, math path over math-verify alone",
    ),
    (
        "reward/verifiers",
        "math: share of the rate lost to 1 % power towers",
        "share of it lost to 1 % power towers",
    ),
    ("reward/judge_plane", "max_lag 8, judge: generation against no judge", "generation beside a judge of 2 s a call"),
    (
        "reward/judge_plane",
        "max_lag 8, judge: more time with nothing to do for the engine than without",
        "share of time that such a judge keeps the engine waiting",
    ),
)
"""Bench, figure, and how the README calls it."""


def headlines(results: Path) -> str:
    """The table. A bench without results has one line that says so."""
    rows = ["| | value | interval | repeats | goal | holds | `swarm bench` |", "|---|---|---|---|---|---|---|"]
    for name in dict.fromkeys(bench for bench, _, _ in HEADLINES):
        path = results / f"{name}.json"
        if not path.exists():
            rows.append(f"| not run yet | | | | | | {name} |")
            continue
        result = json.loads(path.read_text())
        found = {figure["name"]: figure for figure in result["figures"]}
        rows += [_row(result, found[figure], label) for bench, figure, label in HEADLINES if bench == name]
    return "\n".join(rows)


def written(text: str, results: Path) -> str:
    """The README with this table between its two comments. Raises ValueError where they are not there."""
    head, begin, rest = text.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{README}: the comments {BEGIN} and {END} are not there, in this order")
    return f"{head}{begin}\n{headlines(results)}\n{end}{tail}"


def _row(result: Mapping[str, Any], figure: Mapping[str, Any], label: str) -> str:
    holds = {None: "", True: "yes", False: "**no**"}[figure["holds"]]
    value, low, high = (f"{figure[key]:.4g}" for key in ("value", "low", "high"))
    model = "smollm2" if figure["name"].startswith("SmolLM2") else "tiny"
    repeats = _repeats(c["cell"] for c in result["cells"] if c["cell"].get("model", model) == model)
    return f"| {label} | {value} | {low} to {high} | {repeats} | {figure['goal']} | {holds} | {result['name']} |"


def _repeats(cells: Iterable[Mapping[str, Any]]) -> str:
    """How often each arm was measured, as its cells say."""
    cells = list(cells)
    for key in ("seed", "round"):
        if places := {c[key] for c in cells if key in c}:
            return f"{len(places)} {key}{'s' if len(places) > 1 else ''}"
    for key in ("seeds", "repeats"):
        if counts := {c[key] for c in cells if key in c}:
            return f"{min(counts)}{'' if len(counts) == 1 else f' to {max(counts)}'}"
    return ""
