"""A small model that has learned one thing: to answer `yes` to whatever it is asked. A judge for tests."""

from __future__ import annotations

from pathlib import Path

from tests.cluster.small import make_model

STEPS = 300


def make_yes_model(folder: Path) -> Path:
    """The small model, trained for some seconds."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    make_model(folder, context=4096)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    net = AutoModelForCausalLM.from_pretrained(folder)
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-2)
    answer = [*tokenizer("yes", add_special_tokens=False)["input_ids"], 257]
    for step in range(STEPS):
        asked = [{"role": "user", "content": f"{step}? " * (1 + step % 40)}]
        prompt = tokenizer.apply_chat_template(asked, add_generation_prompt=True, return_dict=True)["input_ids"]
        logits = net(torch.tensor([[*prompt, *answer]])).logits[0, len(prompt) - 1 : -1]
        torch.nn.functional.cross_entropy(logits, torch.tensor(answer)).backward()
        optimizer.step()
        optimizer.zero_grad()
    net.save_pretrained(folder)
    return folder
