"""Runs in the child process of `reward_model`: a sequence classifier from transformers, on a device of its own."""

from __future__ import annotations

import importlib
import re
from typing import Any


class Scorer:
    """Called with a question and answers: for each {"score"}, or {"tokens", "most"} where it is too long."""

    def __init__(
        self,
        folder: str,
        dtype: str,
        device: str,
        max_tokens: int,
        truncate: bool,
        probability: bool,
        batch: int,
        threads: int,
    ) -> None:
        self._torch: Any = importlib.import_module("torch")
        transformers: Any = importlib.import_module("transformers")
        self._torch.set_num_threads(threads)
        self._tokenizer: Any = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
        model: Any = transformers.AutoModelForSequenceClassification.from_pretrained(
            folder, dtype=getattr(self._torch, dtype), local_files_only=True
        )
        self._labels = int(model.config.num_labels)
        if self._labels not in (1, 2):
            raise ValueError(f"{folder}: a classifier with {self._labels} labels; wanted 1 (a score) or 2 (bad, good)")
        added = self._tokenizer.added_tokens_decoder.values()
        special = {*self._tokenizer.all_special_tokens, *(token.content for token in added if token.special)}
        self._special = re.compile("|".join(map(re.escape, sorted(special, key=len, reverse=True))) or "(?!)")
        if self._tokenizer.pad_token_id is None:
            self._tokenizer.pad_token = self._tokenizer.eos_token
        if model.config.pad_token_id is None:
            model.config.pad_token_id = self._tokenizer.pad_token_id
        self._model = model.to(device).eval()
        self._device, self._batch = device, batch
        positions = int(getattr(model.config, "max_position_embeddings", 0) or 2**20)
        positions = min(positions, int(self._tokenizer.model_max_length))
        self._most = min(max_tokens or positions, positions)
        self._truncate, self._probability = truncate, probability

    def __call__(self, job: dict[str, Any]) -> list[dict[str, Any]]:
        rows = [self._encoded(job["system"], job["question"], answer) for answer in job["answers"]]
        lengths = [len(row["input_ids"]) for row in rows]
        found: list[dict[str, Any]] = [{"tokens": n, "most": self._most} for n in lengths]
        kept = [i for i, n in enumerate(lengths) if n <= self._most or self._truncate]
        kept.sort(key=lengths.__getitem__)  # rows of like length pad little
        for start in range(0, len(kept), self._batch):
            part = kept[start : start + self._batch]
            for i, score in zip(part, self._scores([rows[i] for i in part]), strict=True):
                found[i] = {"score": score}
        return found

    def _encoded(self, system: str, question: str, answer: str) -> dict[str, list[int]]:
        answer = answer.encode("utf-8", "replace").decode()  # lone surrogates are in no vocabulary
        # An answer must not end itself and go on in somebody else's name.
        answer = self._special.sub(lambda found: f"{found[0][:1]} {found[0][1:]}", answer)
        if not self._tokenizer.chat_template:
            return dict(self._tokenizer(f"{system}\n{question}".strip(), answer))
        messages = [{"role": "system", "content": system}] if system else []
        messages += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
        text = self._tokenizer.apply_chat_template(messages, tokenize=False)
        return dict(self._tokenizer(text, add_special_tokens=False))

    def _scores(self, rows: list[dict[str, list[int]]]) -> list[float]:
        torch = self._torch
        cut = [{key: values[: self._most] for key, values in row.items()} for row in rows]
        # On the right: a classifier finds its last token by the padding.
        inputs = self._tokenizer.pad(cut, padding=True, padding_side="right", return_tensors="pt").to(self._device)
        with torch.inference_mode():
            logits = self._model(**inputs).logits.double()
        scores = logits[:, 0] if self._labels == 1 else logits[:, 1] - logits[:, 0]
        if self._probability:
            scores = torch.sigmoid(scores)
        return [float(score) for score in scores]
