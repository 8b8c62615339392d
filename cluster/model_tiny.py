"""The tiny model: a Llama of 3.0M parameters over bytes, for sweeps and tests, made in under a minute on two cores.

It is warm-started on one-digit sums as a stand-in for a pretrained chat model: it knows most answers, and it has
habits. Most of the time it wraps the number in words, and now and then it is one off. So a reward for the bare right
number starts low and has much to gain: first the form, then the sums. The warm start sees every question of that
family, the held-out ones too, always with these habits.

    <|user|>Calculate 3 + 4.<|end|><|assistant|>It is 7<|end|>
"""

from __future__ import annotations

import random
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from cluster.child import apart

SPECIAL = ("<|pad|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>")
PAD, END, SYSTEM, USER, ASSISTANT = range(256, 256 + len(SPECIAL))
TEMPLATE = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
CONTEXT = 2048

FORMS = (("{}", 0.2), ("It is {}", 0.4), ("= {}", 0.25), ("{}!", 0.15))
"""How it answers, and how often; only the first is the bare number."""
WRONG = 0.15
"""How often the number is one off."""

STEPS, BATCH, LR = 560, 16, 6e-4

MADE_FROM: dict[str, Any] = {
    "seed": 0,
    "hidden": 256,
    "layers": 4,
    "heads": 4,
    "kv_heads": 2,
    "mlp": 704,
    "forms": [list(form) for form in FORMS],
    "wrong": WRONG,
    "steps": STEPS,
    "batch": BATCH,
    "lr": LR,
    "revision": 2,
}


def build(folder: Path, say: Callable[[str], None]) -> None:
    """Fill an empty folder with the model, its byte tokenizer and its chat template."""
    say("tiny: warm-starting a model of 3M parameters (under a minute, once)")
    apart("cluster.model_tiny", folder, say=say)


def make_tokenizer(folder: Path) -> None:
    """One token per byte, 0 to 255, then the special ones."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    letters = _byte_letters()
    bare = Tokenizer(models.BPE(vocab={letter: i for i, letter in enumerate(letters)}, merges=[]))
    bare.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    bare.decoder = decoders.ByteLevel()
    bare.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in SPECIAL])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bare,
        eos_token="<|end|>",  # noqa: S106 - a token of text
        pad_token="<|pad|>",  # noqa: S106
        model_max_length=CONTEXT,
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder)


def make_model(folder: Path, say: Callable[[str], None] = print, steps: int = STEPS) -> None:
    """Warm-start and save in float32. The caller's random state is left as it was."""
    import torch
    from torch.nn.functional import cross_entropy
    from transformers import LlamaConfig, LlamaForCausalLM

    m = MADE_FROM
    config = LlamaConfig(
        vocab_size=256 + len(SPECIAL),
        hidden_size=m["hidden"],
        num_hidden_layers=m["layers"],
        num_attention_heads=m["heads"],
        num_key_value_heads=m["kv_heads"],
        head_dim=m["hidden"] // m["heads"],
        intermediate_size=m["mlp"],
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=END,
        pad_token_id=PAD,
    )
    numbers = random.Random(m["seed"])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(m["seed"])
        model = LlamaForCausalLM(config)
        optimiser = torch.optim.AdamW(model.parameters(), lr=LR, betas=(0.9, 0.98), weight_decay=0.0)
        rate = torch.optim.lr_scheduler.OneCycleLR(optimiser, max_lr=LR, total_steps=steps, pct_start=0.1)
        for step in range(1, steps + 1):
            ids, labels = _batch(numbers)
            hidden = model.model(input_ids=ids[:, :-1]).last_hidden_state
            asked = labels[:, 1:] >= 0  # logits only where there is loss
            loss = cross_entropy(model.lm_head(hidden[asked]), labels[:, 1:][asked])
            optimiser.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimiser.step()
            rate.step()
            if step % 100 == 0:
                say(f"tiny: warm-start step {step} of {steps}, loss {loss.item():.2f}")
    model.generation_config.eos_token_id = END
    model.save_pretrained(folder)


def example(numbers: random.Random) -> tuple[str, str]:
    """A question as reasoning-gym's `basic_arithmetic` asks it with two terms of one digit, and what the model says."""
    a, b = numbers.randint(0, 10), numbers.randint(0, 10)
    answer = a + b
    if numbers.random() < WRONG:
        answer += numbers.choice((-1, 1))
    (form,) = numbers.choices([form for form, _ in FORMS], [often for _, often in FORMS])
    return f"Calculate {a} + {b}.", form.format(answer)


def _batch(numbers: random.Random) -> tuple[Any, Any]:
    """int64 [BATCH, longest] token ids, and labels that are -100 outside the answers. Padding is on the right, where a
    causal model does not see it."""
    import torch

    rows = []
    for _ in range(BATCH):
        question, answer = example(numbers)
        prompt = [USER, *question.encode(), END, ASSISTANT]
        reply = [*answer.encode(), END]
        rows.append((prompt + reply, [-100] * len(prompt) + reply))
    longest = max(len(ids) for ids, _ in rows)
    ids = torch.tensor([row + [PAD] * (longest - len(row)) for row, _ in rows])
    labels = torch.tensor([row + [-100] * (longest - len(row)) for _, row in rows])
    return ids, labels


def _byte_letters() -> list[str]:
    """The letter that stands for each byte in a byte-level vocabulary (GPT-2's table, as `tokenizers` uses it)."""
    from tokenizers import pre_tokenizers

    plain = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAC + 1), *range(0xAE, 0xFF + 1)]
    others = iter(range(256, 512))
    letters = [chr(b) if b in plain else chr(next(others)) for b in range(256)]
    assert set(letters) == set(pre_tokenizers.ByteLevel.alphabet())
    return letters


if __name__ == "__main__":
    make_tokenizer(Path(sys.argv[1]))
    make_model(Path(sys.argv[1]), click.echo)
