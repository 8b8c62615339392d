"""Benches of what the learner does between its steps: checkpoints, and how little of a publication is new."""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

from cluster.bench import Bench, Cell, Figure, Result
from swarm.config import LearnersSection

MODEL = "smollm2-135m-instruct"
LR = 1e-6
EVERY = int(LearnersSection.model_fields["checkpoint_every"].default)


def _learner() -> tuple[Any, Any]:
    """A learner on the bench's model, and what makes it groups of a step: (number, seed) -> groups of 8 x (48 + 16)."""
    from cluster.bench_speed_arm import Arm, make_groups
    from cluster.models import resolve

    budget = int(LearnersSection.model_fields["micro_tokens"].default)
    arm = Arm("ours", "float32", resolve(MODEL, say=lambda _: None), budget, EVERY)
    return arm.learner, lambda num, seed: make_groups(num, 16, "equal", arm.vocab, seed)


class Checkpoint(Bench):
    """Steps alone, then a save with the steps beside which its files are written, in turns, in one process."""

    name = "learn/checkpoint"
    goal = f"a checkpoint every {EVERY} steps costs the learner at most 5 % of its time"
    wall = ("6 min", "3 min")
    apart = True
    beside = 2
    """Steps while files are being written; what is not there after them is waited for."""

    def cells(self, quick: bool) -> Sequence[Cell]:
        return [{"saves": 5 if quick else 7, "groups": 8}]

    def run(self, cell: Cell) -> dict[str, Any]:
        learner, groups = _learner()
        out: dict[str, Any] = {"step_s": [], "capture_s": [], "beside_s": [], "wait_s": []}
        number = 0

        def steps(num: int) -> float:
            nonlocal number
            began = time.perf_counter()
            for _ in range(num):
                number += 1
                learner.step(number, groups(cell["groups"], number))
            return time.perf_counter() - began

        steps(1)  # allocates the moments
        for _ in range(cell["saves"]):
            out["step_s"].append(steps(self.beside) / self.beside)
            with tempfile.TemporaryDirectory(dir=".") as folder:
                began = time.perf_counter()
                learner.save(Path(folder))
                out["capture_s"].append(time.perf_counter() - began)
                out["beside_s"].append(steps(self.beside) / self.beside)
                began = time.perf_counter()
                learner.saved()
                out["wait_s"].append(time.perf_counter() - began)
                out["bytes"] = sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file())
        learner.close()
        return out

    def figures(self, results: Sequence[Result]) -> list[Figure]:
        values = results[0].values
        step = median(values["step_s"])
        # All that a save takes off the steps: the capture, what writing slows them by, and what is left to wait for.
        taken = [
            capture + self.beside * (beside - alone) + wait
            for capture, beside, alone, wait in zip(
                values["capture_s"], values["beside_s"], values["step_s"], values["wait_s"], strict=True
            )
        ]
        shares = [cost / (EVERY * step + cost) for cost in taken]
        return [
            Figure.of(f"share of learner time, every {EVERY} steps", shares, "<= 0.05", "steps of 8 x 8 x (48 + 16)"),
            Figure.of("seconds of a capture", values["capture_s"]),
            Figure.of("seconds that a save takes off the steps", taken),
            Figure.of("seconds of a step", values["step_s"]),
            Figure.of("bytes of a checkpoint", [values["bytes"]]),
        ]


class Delta(Bench):
    """One learner in float32; its weights in bfloat16 after each step against those before it."""

    name = "learn/delta"
    goal = f"at a learning rate of {LR:g} a step's delta has at most 25 % of the bytes of a whole publication"
    wall = ("6 min", "2 min")
    apart = True

    def cells(self, quick: bool) -> Sequence[Cell]:
        return [{"steps": 10 if quick else 50, "groups": 1}]

    def run(self, cell: Cell) -> dict[str, Any]:
        from swarm.weight_delta import apply, encode

        learner, groups = _learner()
        out: dict[str, Any] = {"changed": [], "bytes": [], "encode_s": []}
        before = _in_bfloat16(learner)
        for step in range(1, cell["steps"] + 1):
            learner.step(step, groups(cell["groups"], step))
            after = _in_bfloat16(learner)
            began = time.perf_counter()
            delta, changed = encode(before, after)
            out["encode_s"].append(time.perf_counter() - began)
            out["changed"].append(2 * changed / len(after))
            out["bytes"].append(len(delta) / len(after))
            apply(before, delta)
            if before != after:
                raise ValueError(f"step {step}: the delta does not give the weights that it was made of")
        learner.close()
        return out | {"whole_bytes": len(before)}

    def figures(self, results: Sequence[Result]) -> list[Figure]:
        values = results[0].values
        steps = len(values["bytes"])
        return [
            Figure.of("bytes of a delta over those of a whole set", values["bytes"], "<= 0.25", f"{steps} steps"),
            Figure.of("largest of them", [max(values["bytes"])], "<= 0.25"),
            Figure.of("share of bfloat16 elements that a step changes", values["changed"]),
            Figure.of("seconds to encode", values["encode_s"]),
            Figure.of("bytes of a whole set", [values["whole_bytes"]]),
        ]

    def plot(self, results: Sequence[Result], folder: Path) -> list[Path]:
        from matplotlib.figure import Figure as Drawing

        from cluster.plots import BLUE, GREY

        values = results[0].values
        drawing = Drawing(figsize=(8, 4.5), layout="constrained")
        axes = drawing.subplots()
        steps = range(1, len(values["bytes"]) + 1)
        axes.plot(steps, values["bytes"], color=BLUE, label="bytes of the delta, over a whole set's")
        axes.plot(steps, values["changed"], color=GREY, label="share of elements that changed")
        axes.set(xlabel="step", ylim=(0, None))
        axes.legend(frameon=False)
        path = folder / "delta.png"
        drawing.savefig(path, dpi=100)
        return [path]


class Pause(Bench):
    """Each set goes through two couriers of another host, whole and as a delta, and from both into one engine."""

    name = "learn/pause"
    goal = "a set that came as a delta pauses an engine no longer than one that came whole (but for 5 % of noise)"
    wall = ("3 min", "1 min")
    apart = True

    def cells(self, quick: bool) -> Sequence[Cell]:
        return [{"sets": 5 if quick else 20}]

    def run(self, cell: Cell) -> dict[str, Any]:
        import torch

        from actors.engine_transformers import TransformersEngine
        from cluster.courier import Courier
        from cluster.models import resolve
        from learners.policy import load
        from learners.publish import Publisher
        from swarm.types import PolicyVersion

        path = resolve(MODEL, say=lambda _: None)
        model = load(path)
        version = PolicyVersion("bench", 0, 0)
        publisher = Publisher(model, torch.bfloat16, seed=0)
        engine = TransformersEngine(str(path), dtype="bfloat16", max_context=64, seed=0, version=version)
        whole, patched = Courier(), Courier()
        out: dict[str, Any] = {f"{arm}_{what}": [] for arm in ("whole", "delta") for what in ("pause_s", "arrive_s")}
        generator = torch.Generator().manual_seed(0)

        def publish(step: int) -> Any:
            with torch.no_grad():  # as AdamW moves them: by about the learning rate
                for p in model.parameters():
                    p.add_(torch.randn(p.shape, generator=generator), alpha=LR)
            return publisher.publish(dict(model.named_parameters()), replace(version, step=step))

        def bring(arm: str, weights: Any) -> None:
            began = time.perf_counter()
            if arm == "whole":
                file = whole.hold(weights, whole.read(weights.path))
            else:
                file = patched.patch(weights, patched.read(weights.delta.path))
            out[f"{arm}_arrive_s"].append(time.perf_counter() - began)
            done = asyncio.run(engine.load(replace(weights, path=file, canary_tokens=(), canary_logprobs=())))
            out[f"{arm}_pause_s"].append(done.pause_s)

        first = publish(1)
        patched.hold(first, patched.read(first.path))
        for step in range(2, 2 + cell["sets"]):
            weights = publish(step)
            for arm in ("whole", "delta")[:: 1 if step % 2 else -1]:
                bring(arm, weights)
        for closing in (engine, whole, patched, publisher):
            closing.close()
        return out

    def figures(self, results: Sequence[Result]) -> list[Figure]:
        values = results[0].values
        pairs = list(zip(values["delta_pause_s"], values["whole_pause_s"], strict=True))
        note = "of the same set, without the canary; transformers engine, bfloat16"
        return [
            Figure.of(
                "pause of a set that came as a delta over one that came whole",
                [d / w for d, w in pairs],
                "<= 1.05",
                note,
            ),
            *(
                Figure.of(f"seconds {what}, {arm}", values[f"{arm}_{key}"])
                for key, what in (("pause_s", "of the pause"), ("arrive_s", "before it, until the file is there"))
                for arm in ("delta", "whole")
            ),
        ]


def _in_bfloat16(learner: Any) -> bytearray:
    """All parameters, in the order of the model."""
    import torch

    out = bytearray()
    with learner._engine.parameters(learner._model) as named:
        for value in named.values():
            out += value.to(torch.bfloat16).contiguous().view(-1).view(torch.uint8).numpy().data
    return out
