"""Benches of the learner."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Any

from cluster.bench import Bench, Cell, Figure, Result
from cluster.bench_child import Child
from cluster.precision import native_bfloat16
from swarm.config import LearnersSection

MODEL = "smollm2-135m-instruct"
NO_BFLOAT16 = "this processor has no bfloat16 instructions: a step would take about 50 times as long"

SHAPES: dict[str, dict[str, Any]] = {
    "48 + 16": {"groups": 8, "completion": 16, "lengths": "equal", "rows": (4, 8, 16)},
    "48 + 256": {"groups": 1, "completion": 256, "lengths": "equal", "rows": (2, 4, 8)},
    "48 + 256, log-normal": {"groups": 1, "completion": 256, "lengths": "lognormal", "rows": (2, 4, 8)},
}  # fmt: skip
"""Prompt + completion tokens; rows of a micro-batch that the plain step may choose from."""
PROMPT, SIZE = 48, 8
GOALS = {
    ("float32", "48 + 16"): ">= 2.5",
    ("bfloat16", "48 + 16"): ">= 1.8",
    ("float32", "48 + 256"): ">= 1.15",
    ("float32", "48 + 256, log-normal"): ">= 1.3",
}
MEMORY_GOAL = "<= 0.7"
GRADIENT_GOAL = "<= 0.001"


class Speed(Bench):
    """Both arms live at the same time in processes of their own and take turns, a step each, so that whatever else the
    machine does meets both. Ours has the default budget of tokens in a micro-batch. After a first step that is not
    counted, the plain arm tries several micro-batches and keeps the fastest for the race. Memory, which does not vary,
    is measured once against that one, against plain's of one group each, and against plain's with our budget."""

    name = "learn/speed"
    goal = "the learner trains faster than a plain padded Hugging Face step, in less memory, with the same gradient"
    wall = ("20 min", "15 min")

    def cells(self, quick: bool) -> Sequence[Cell]:
        repeats = 3 if quick else 5
        return [{"dtype": dtype, "shape": shape, "repeats": repeats} for dtype, shape in GOALS]

    def run(self, cell: Cell) -> dict[str, Any]:
        from cluster.models import resolve

        if cell["dtype"] == "bfloat16" and not native_bfloat16():
            return {"missing": NO_BFLOAT16}
        model, shape = resolve(MODEL), SHAPES[cell["shape"]]
        budget = int(LearnersSection.model_fields["micro_tokens"].default)
        same = min(budget // (PROMPT + shape["completion"]), SIZE * shape["groups"])
        step = {"do": "step"} | {k: shape[k] for k in ("groups", "completion", "lengths")}
        with ExitStack() as stack:
            arms = (
                Child("cluster.bench_speed_arm", arm, cell["dtype"], model, budget, threads=self.threads)
                for arm in ("plain", "ours")
            )
            plain, ours = map(stack.enter_context, arms)
            off = _gradient_difference(plain, ours, step | {"rows": shape["rows"][0]})
            for arm in (plain, ours):
                arm.ask(step | {"rows": shape["rows"][0]})  # it also allocates AdamW's moments
            tried = {rows: plain.ask(step | {"rows": rows})["seconds"] for rows in shape["rows"]}
            rows = min(tried, key=lambda r: tried[r])
            pairs = [(plain.ask(step | {"rows": rows}), ours.ask(step)) for _ in range(cell["repeats"])]
            memory = step | {"do": "memory"}
            peaks = {
                "ours": [ours.ask(memory)["peak_bytes"]],
                "plain": [plain.ask(memory | {"rows": rows})["peak_bytes"]],
                "by_group": [plain.ask(memory | {"rows": SIZE})["peak_bytes"]],
                "same_budget": [plain.ask(memory | {"rows": same})["peak_bytes"]],
            }
        return {
            "plain_rows": rows,
            "same_budget_rows": same,
            "peak_bytes": peaks,
            "tried_s": tried,
            "gradient_difference": off,
            "tokens": pairs[0][0]["tokens"],
            "plain_seconds": [p["seconds"] for p, _ in pairs],
            "ours_seconds": [o["seconds"] for _, o in pairs],
            "plain_cpu_s": [p["cpu_s"] for p, _ in pairs],
            "ours_cpu_s": [o["cpu_s"] for _, o in pairs],
        }

    def figures(self, results: Sequence[Result]) -> list[Figure]:
        out = []
        for result in results:
            dtype, shape, values = result.cell["dtype"], result.cell["shape"], result.values
            what, goal = f"{shape}, {dtype}", GOALS[result.cell["dtype"], result.cell["shape"]]
            if "missing" in values:
                out.append(Figure.missing(f"tokens/s over plain, {what}", goal, values["missing"]))
                continue
            seconds = list(zip(values["plain_seconds"], values["ours_seconds"], strict=True))
            work = [p / o for p, o in zip(values["plain_cpu_s"], values["ours_cpu_s"], strict=True)]
            peaks = values["peak_bytes"]
            memory = {arm: [o / p for o, p in zip(peaks["ours"], peaks[arm], strict=True)] for arm in peaks}
            rows = f"plain in micro-batches of {values['plain_rows']} rows"
            by_group, as_many = (f"plain in micro-batches of {n} rows" for n in (SIZE, values["same_budget_rows"]))
            exact = GRADIENT_GOAL if dtype == "float32" else ""
            out += [
                Figure.of(f"tokens/s over plain, {what}", [p / o for p, o in seconds], goal, rows),
                Figure.of(f"peak memory over fastest plain's, {what}", memory["plain"], MEMORY_GOAL, rows),
                Figure.of(f"peak memory over plain's by group, {what}", memory["by_group"], MEMORY_GOAL, by_group),
                Figure.of(f"peak memory over plain's at our budget, {what}", memory["same_budget"], "", as_many),
                Figure.of(f"peak bytes, {what}", peaks["ours"]),
                Figure.of(f"plain's processor time over ours, {what}", work),
                Figure.of(f"tokens/s, {what}", [values["tokens"] / o for _, o in seconds]),
                Figure.of(f"plain tokens/s, {what}", [values["tokens"] / p for p, _ in seconds]),
                Figure.of(f"gradient off plain's, {what}", [values["gradient_difference"]], exact),
            ]
        return out

    def plot(self, results: Sequence[Result], folder: Path) -> list[Path]:
        from matplotlib.figure import Figure as Drawing

        from cluster.plots import BLUE, GREY

        measured = [r for r in results if "missing" not in r.values]
        drawing = Drawing(figsize=(8, 4.5), layout="constrained")
        axes = drawing.subplots()
        for place, result in enumerate(measured):
            for shift, arm, colour in ((-0.18, "plain", GREY), (0.18, "ours", BLUE)):
                speed = result.values["tokens"] / median(result.values[f"{arm}_seconds"])
                axes.bar(place + shift, speed, 0.34, color=colour, label=arm if place == 0 else None)
        axes.set_xticks(range(len(measured)), [f"{r.cell['shape']}\n{r.cell['dtype']}" for r in measured])
        axes.set_ylabel("completion tokens/s of a learner step")
        axes.legend(frameon=False)
        path = folder / "speed.png"
        drawing.savefig(path, dpi=100)
        return [path]


def _gradient_difference(plain: Child, ours: Child, step: dict[str, Any]) -> float:
    """Norm of the difference of both arms' first gradients, over the norm of the plain one."""
    from safetensors.numpy import load_file

    with tempfile.TemporaryDirectory() as folder:
        found = []
        for name, child in (("plain", plain), ("ours", ours)):
            file = Path(folder) / f"{name}.safetensors"
            child.ask(step | {"do": "gradient", "file": str(file)})
            found.append(load_file(file))
    wanted, got = found
    if wanted.keys() != got.keys():
        raise ValueError(f"the arms train different parameters: {sorted(wanted.keys() ^ got.keys())}")
    off = sum(float(((wanted[n] - got[n]) ** 2).sum()) for n in wanted)
    return float((off / sum(float((g**2).sum()) for g in wanted.values())) ** 0.5)
