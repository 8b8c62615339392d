"""Generation with plain transformers, for machines without vLLM: a running batch with one key-value cache.

Rows are padded on the left. New requests are prefilled as a batch of their own and joined to the running one; finished
rows are cut out. Weights can change between any two tokens. Unless `keep_cache` is set the cache is dropped then, and
the next step computes every running row again from its first token.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from actors import staging
from actors.engine_thread import EngineThread, Request
from swarm.roles import Completion
from swarm.types import Finish, PolicyVersion, Span
from swarm.weights import Tensor


@dataclass(slots=True)
class _Row:
    request: Request
    generator: Any
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    steps: list[int] = field(default_factory=list)

    @property
    def ids(self) -> list[int]:
        return self.request.tokens + self.tokens


class TransformersEngine(EngineThread):
    """`AutoModelForCausalLM` behind :class:`swarm.roles.Engine`, on a GPU where this process sees one."""

    def __init__(
        self,
        model: str,
        *,
        dtype: str,
        max_context: int,
        seed: int,
        version: PolicyVersion,
        max_num_seqs: int = 64,
        max_batched_tokens: int = 8192,
        keep_cache: bool = False,
        eos_ids: Sequence[int] = (),
    ) -> None:
        """`max_context` is prompt and completion together, in tokens; `max_batched_tokens` bounds the padded prompt
        tokens of one prefill; `eos_ids` default to those of the model folder."""
        self._max_batched_tokens = max_batched_tokens
        super().__init__(
            model,
            dtype=dtype,
            max_context=max_context,
            seed=seed,
            version=version,
            max_num_seqs=max_num_seqs,
            keep_cache=keep_cache,
            eos_ids=eos_ids,
        )

    def _open(self) -> None:
        import torch
        from transformers import AutoModelForCausalLM

        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        net = AutoModelForCausalLM.from_pretrained(self._model, dtype=getattr(torch, self._dtype))
        self._net = net.to(self._device).eval()
        self._wanted = staging.manifest(self._model, self._dtype)
        self._vocab = net.get_input_embeddings().num_embeddings
        self._step_now = self.version.step
        self._new: list[_Row] = []  # not in the cache yet
        self._rows: list[_Row] = []  # rows of the cache, in its order
        self._scores: list[Request] = []
        self._cache: Any = None
        self._mask: Any = None  # bool [B, L]: which cache positions are tokens, not padding

    def _start(self, request: Request) -> None:
        import torch

        if request.score_from is not None or request.choices is not None:
            self._scores.append(request)
            return
        generator = torch.Generator(self._device).manual_seed(request.seed)
        self._new.append(_Row(request, generator))

    def _advance(self) -> list[tuple[str, Completion | np.ndarray]]:
        import torch

        with torch.inference_mode():
            done: list[tuple[str, Completion | np.ndarray]] = [(r.id, self._score(r)) for r in self._scores]
            self._scores.clear()
            if self._rows:
                self._decode()
            if self._new:
                self._prefill()
            ended = [self._ended_by(row) for row in self._rows]
            done += [(row.request.id, _completion(row, end)) for row, end in zip(self._rows, ended, strict=True) if end]
            self._keep([i for i, end in enumerate(ended) if end is None])
        return done

    def _decode(self) -> None:
        """One token for every row of the cache."""
        import torch

        last = torch.tensor([[row.tokens[-1]] for row in self._rows], device=self._device)
        places = self._mask.sum(1, keepdim=True)
        self._mask = torch.nn.functional.pad(self._mask, (0, 1), value=True)
        out = self._net(
            input_ids=last, attention_mask=self._mask, position_ids=places, past_key_values=self._cache, use_cache=True
        )
        self._sample(self._rows, out.logits[:, -1])

    def _prefill(self) -> None:
        """A first token for as many new rows as fit, which then join the cache."""
        import torch
        from transformers import DynamicCache

        width, fit = 0, 0
        for row in self._new:
            width = max(width, len(row.ids))
            if fit and (fit + 1) * width > self._max_batched_tokens:
                break
            fit += 1
        rows, self._new = self._new[:fit], self._new[fit:]
        width = max(len(row.ids) for row in rows)
        ids = torch.zeros(len(rows), width, dtype=torch.long)
        mask = torch.zeros(len(rows), width, dtype=torch.bool)
        for i, row in enumerate(rows):
            ids[i, width - len(row.ids) :] = torch.tensor(row.ids)
            mask[i, width - len(row.ids) :] = True
        ids, mask = ids.to(self._device), mask.to(self._device)
        places = (mask.long().cumsum(1) - 1).clamp(min=0)
        out = self._net(
            input_ids=ids,
            attention_mask=mask,
            position_ids=places,
            past_key_values=DynamicCache(),  # plain layers also for sliding windows: rows are joined and cut
            use_cache=True,
            logits_to_keep=1,
        )
        self._sample(rows, out.logits[:, -1])
        if self._rows:
            self._cache, self._mask = _join(self._cache, self._mask, out.past_key_values, mask)
        else:
            self._cache, self._mask = out.past_key_values, mask
        self._rows = self._rows + rows

    def _sample(self, rows: list[_Row], logits: Any) -> None:
        """Append one token to each row. Exponential races: argmax of p/e with e ~ Exp(1) is a draw from p."""
        import torch

        heat = torch.tensor([row.request.temperature for row in rows], device=logits.device)[:, None]
        logprobs = torch.log_softmax(logits.float() / torch.where(heat > 0, heat, 1.0), -1)
        race = logprobs.exp()
        for i, row in enumerate(rows):
            if row.request.temperature > 0:
                race[i] /= torch.empty_like(race[i]).exponential_(generator=row.generator)
        chosen = race.argmax(-1)
        taken = logprobs.gather(1, chosen[:, None])[:, 0].tolist()
        for row, token, logprob in zip(rows, chosen.tolist(), taken, strict=True):
            row.tokens.append(token)
            row.logprobs.append(logprob)
            row.steps.append(self._step_now)

    def _score(self, request: Request) -> np.ndarray:
        import torch

        ids = torch.tensor([request.tokens], device=self._device)
        if request.choices is not None:
            logits = self._net(input_ids=ids, logits_to_keep=1).logits[0, -1].float()
            return torch.log_softmax(logits, -1)[request.choices].cpu().numpy()
        keep = len(request.tokens) - (request.score_from or 0) + 1
        logits = self._net(input_ids=ids, logits_to_keep=keep).logits[0, :-1].float()
        targets = ids[0, request.score_from :]
        return torch.log_softmax(logits, -1).gather(1, targets[:, None])[:, 0].cpu().numpy()

    def _ended_by(self, row: _Row) -> Finish | None:
        if row.tokens[-1] in self._eos_ids:
            return Finish.STOP
        return Finish.LENGTH if len(row.tokens) >= row.request.max_new_tokens else None

    def _keep(self, index: list[int]) -> None:
        """Cut the cache down to these rows, and to the width that the longest of them needs."""
        import torch

        if len(index) == len(self._rows):
            return
        self._rows = [self._rows[i] for i in index]
        if not index:
            self._cache = self._mask = None
            return
        self._cache.batch_select_indices(torch.tensor(index, device=self._device))
        self._mask = self._mask[index]
        spare = int(self._mask.any(0).long().argmax())  # leading columns that are padding in every row
        if spare:
            self._mask = self._mask[:, spare:]
            for layer in self._cache.layers:
                layer.keys, layer.values = layer.keys[:, :, spare:], layer.values[:, :, spare:]

    def _drop(self, ids: Sequence[str]) -> None:
        gone = set(ids)
        self._scores = [r for r in self._scores if r.id not in gone]
        self._new = [row for row in self._new if row.request.id not in gone]
        self._keep([i for i, row in enumerate(self._rows) if row.request.id not in gone])

    def _pause(self, clear_cache: bool) -> None:
        if clear_cache:
            self._new = self._rows + self._new
            self._rows, self._cache, self._mask = [], None, None

    def _replace(self, tensors: Mapping[str, Tensor], version: PolicyVersion) -> None:
        import torch

        staging.check_manifest(tensors, self._wanted)
        with torch.no_grad():
            for name, parameter in self._net.named_parameters():
                tensor = tensors[name]
                if tensor.data.nbytes:
                    source = torch.frombuffer(tensor.data, dtype=parameter.dtype).view(tensor.shape)
                    parameter.copy_(source)
        self._step_now = version.step

    def _resume(self) -> None:
        pass

    def _shut(self) -> None:
        self._cache = self._mask = None
        del self._net


def _completion(row: _Row, finish: Finish) -> Completion:
    spans: list[Span] = []
    for i, step in enumerate(row.steps):
        if spans and spans[-1].step == step:
            spans[-1] = Span(step, spans[-1].start, i + 1)
        else:
            spans.append(Span(step, i, i + 1))
    return Completion(np.array(row.tokens, np.int32), np.array(row.logprobs, np.float32), tuple(spans), finish)


def _join(cache: Any, mask: Any, new_cache: Any, new_mask: Any) -> tuple[Any, Any]:
    """One cache of both, padded on the left to the same width; the first is changed and returned."""
    import torch

    width = max(mask.shape[1], new_mask.shape[1])

    def pad(x: Any, dim: int) -> Any:
        lack = width - x.shape[dim]
        return torch.nn.functional.pad(x, (0, 0) * (x.dim() - 1 - dim) + (lack, 0)) if lack else x

    for old, new in zip(cache.layers, new_cache.layers, strict=True):
        old.keys = torch.cat([pad(old.keys, 2), pad(new.keys, 2)])
        old.values = torch.cat([pad(old.values, 2), pad(new.values, 2)])
    return cache, torch.cat([pad(mask, 1), pad(new_mask, 1)])
