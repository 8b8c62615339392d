"""One arm of `learn/speed` in a process of its own: `python -m cluster.bench_speed_arm ARM DTYPE`.

The arms get the same groups: random token ids, random rewards, and log-probabilities near those of the model at the
start, so that no importance weight is extreme. `plain` is what somebody writes with transformers and torch alone:

    rows in the order of the groups, padded to the longest of their micro-batch -> logits of all positions
    -> log-probabilities of the completions -> the same loss -> backward -> clip -> fused AdamW

`ours` is `PolicyLearner.step`, which also keeps metrics.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cluster.bench_child import resident_bytes, serve, start_peak, stop_peak
from learners import engine_deepspeed
from learners.learner import PolicyLearner
from learners.policy import load
from swarm.config import LearnersSection, Spec
from swarm.types import Finish, Group, PolicyVersion, Prompt, Rollout, Span, Status, Verdict

PROMPT, SIZE = 48, 8
LR, BETAS, CLIP, CAP = 1e-6, (0.9, 0.95), 1.0, 2.0
SPREAD = 0.8
"""Of the logarithm of lengths. The longest allowed is what the name of a shape says; the median is a third of it."""


def make_groups(num: int, completion: int, lengths: str, vocab: int, seed: int = 0) -> list[Group]:
    """Groups of 8 with different rewards in each; `lengths` is `equal` or `lognormal`."""
    rng = np.random.default_rng(seed)
    return [_group(rng, i, completion, lengths, vocab) for i in range(num)]


def _group(rng: np.random.Generator, number: int, completion: int, lengths: str, vocab: int) -> Group:
    sizes = np.full(SIZE, completion)
    if lengths == "lognormal":
        drawn = np.exp(np.log(completion / 3) + SPREAD * rng.standard_normal(SIZE))
        sizes = np.clip(np.rint(drawn), 1, completion).astype(int)
    rewards = [float(x) for x in rng.permutation([1.0] * (SIZE // 2) + [0.0] * (SIZE - SIZE // 2))]
    rollouts = tuple(
        Rollout(
            tokens=rng.integers(0, vocab, size).astype(np.int32),
            logprobs=(-np.log(vocab) + 0.1 * rng.standard_normal(size)).astype(np.float32),
            spans=(Span(0, 0, int(size)),),
            text="",
            finish=Finish.STOP,
            loss_mask=np.ones(size, bool),
            verdicts=(Verdict("bench", Status.SCORED, reward),),
        )
        for size, reward in zip(sizes, rewards, strict=True)
    )
    prompt = Prompt(id=f"p{number}", text="")
    tokens = rng.integers(0, vocab, PROMPT).astype(np.int32)
    return Group(f"g{number}", number, 0, prompt, tokens, rollouts, "bench", 0, 1.0, cache_kept=False)


class Plain:
    """A training step of transformers and torch alone."""

    def __init__(self, model: Path, lower: torch.dtype | None) -> None:
        self.model, self._lower = load(model), lower
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=LR, betas=BETAS, weight_decay=0.0, fused=True)

    def gradient(self, groups: Sequence[Group], rows: int) -> None:
        """Add the gradient of the batch, `rows` rollouts at a time."""
        flat: list[tuple[np.ndarray, Rollout, float]] = []
        for group in groups:
            rewards = np.array([rollout.verdicts[0].value for rollout in group.rollouts], float)
            advantages = (rewards - rewards.mean()) / (rewards.std(ddof=1) + 1e-4)
            pairs = zip(group.rollouts, advantages.tolist(), strict=True)
            flat += [(group.prompt_tokens, rollout, advantage) for rollout, advantage in pairs]
        total = sum(len(rollout.tokens) for _, rollout, _ in flat)
        for start in range(0, len(flat), rows):
            (self._loss(flat[start : start + rows]) / total).backward()

    def _loss(self, rows: Sequence[tuple[np.ndarray, Rollout, float]]) -> Tensor:
        width = max(len(rollout.tokens) for _, rollout, _ in rows)
        ids = torch.zeros(len(rows), PROMPT + width, dtype=torch.long)
        behaviour, advantages = torch.zeros(len(rows), width), torch.zeros(len(rows), width)
        mask = torch.zeros(len(rows), PROMPT + width)
        for i, (prompt, rollout, advantage) in enumerate(rows):
            end = len(rollout.tokens)
            ids[i, : PROMPT + end] = torch.from_numpy(np.concatenate([prompt, rollout.tokens]))
            behaviour[i, :end], advantages[i, :end] = torch.from_numpy(rollout.logprobs), advantage
            mask[i, : PROMPT + end] = 1.0
        with torch.autocast("cpu", self._lower) if self._lower else nullcontext():
            logits = self.model(input_ids=ids, attention_mask=mask, use_cache=False).logits
        chosen = logits[:, PROMPT - 1 : -1].float().transpose(1, 2)
        new = -torch.nn.functional.cross_entropy(chosen, ids[:, PROMPT:], reduction="none")
        ratio = (new - new.detach()).exp()
        weight = (new.detach() - behaviour).exp().clamp(max=CAP)
        surrogate = torch.minimum(ratio * advantages, ratio.clamp(1 - 0.2, 1 + 0.28) * advantages)
        return -(weight * surrogate * mask[:, PROMPT:]).sum()

    def update(self) -> None:
        """Clip and step."""
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), CLIP)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)


class Arm:
    """Answers `{do: "step", ...}` with seconds, `{do: "memory", ...}` with the peak of what the step keeps and needs
    (weights, gradients, AdamW's moments and its own; not the libraries), and `{do: "gradient", ...}` by saving the
    gradient of the step that comes next."""

    def __init__(self, arm: str, dtype: str, model: Path, micro_tokens: int, checkpoint_every: int = 10_000) -> None:
        lower = torch.bfloat16 if dtype == "bfloat16" else None
        self._plain, self.learner, self._steps = None, None, 0
        if arm == "ours":
            engine_deepspeed.quietly("cpu")  # imports it; otherwise the learner's loading would
        self._baseline = resident_bytes()
        if arm == "plain":
            self._plain = Plain(model, lower)
            self.vocab = int(self._plain.model.config.vocab_size)
            self._parameters = dict(self._plain.model.named_parameters())
        else:
            section = LearnersSection(
                steps=10_000,
                checkpoint_every=checkpoint_every,  # by default only at the end: the plain step has no buffer for it
                lr=LR,
                betas=list(BETAS),
                grad_clip=CLIP,
                correction=Spec(name="truncated", options={"cap": CAP}),
                micro_tokens=micro_tokens,
            )
            version = PolicyVersion("bench", 0, 0)
            self.learner = PolicyLearner(
                model,
                dtype=dtype,
                section=section,
                reward_weights={"bench": 1.0},
                seed=0,
                version=version,
                max_tokens=10_000,
            )
            self.vocab = int(self.learner._model.config.vocab_size)
            self._parameters = dict(self.learner._model.named_parameters())

    def answer(self, request: Mapping[str, Any]) -> dict[str, Any]:
        groups = make_groups(request["groups"], request["completion"], request["lengths"], self.vocab)
        if request["do"] == "gradient":
            return self._gradient(groups, request["rows"], Path(request["file"]))
        if request["do"] == "memory":
            start_peak()  # not where time counts: it gives freed memory back, and the step has to ask for it again
        began, cpu = time.perf_counter(), time.process_time()
        if self._plain is not None:
            self._plain.gradient(groups, request["rows"])
            self._plain.update()
        else:
            assert self.learner is not None
            self._steps += 1
            self.learner.step(self._steps, groups)
        seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
        tokens = sum(len(rollout.tokens) for group in groups for rollout in group.rollouts)
        return {"seconds": seconds, "cpu_s": cpu, "tokens": tokens, "peak_bytes": stop_peak() - self._baseline}

    def _gradient(self, groups: Sequence[Group], rows: int, file: Path) -> dict[str, Any]:
        """Of the first step, before any update: float32 tensors by name."""
        if self._plain is not None:
            self._plain.gradient(groups, rows)
            self._save(file)
            self._plain.optimizer.zero_grad(set_to_none=True)
            return {}
        assert self.learner is not None
        engine = self.learner._engine
        update = engine.update

        def keep(lr: float, limit: float = math.inf) -> float:
            self._save(file)
            engine.forget()
            return 0.0

        engine.update = keep  # type: ignore[method-assign]
        self._steps += 1
        self.learner.step(self._steps, groups)
        engine.update = update  # type: ignore[method-assign]
        return {}

    def _save(self, file: Path) -> None:
        from safetensors.torch import save_file

        save_file({n: p.grad.float() for n, p in self._parameters.items() if p.grad is not None}, file)


if __name__ == "__main__":
    serve(Arm(sys.argv[1], sys.argv[2], Path(sys.argv[3]), int(sys.argv[4])).answer)
