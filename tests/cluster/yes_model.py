"""A small model that has learned one thing: to answer `yes` to whatever it is asked. A judge for tests."""

from __future__ import annotations

from pathlib import Path

from cluster.model_tiny import make_tokenizer

STEPS = 300


def make_yes_model(folder: Path) -> Path:
    """A two-layer Llama over bytes with a chat template, trained for some seconds."""
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    folder.mkdir(parents=True)
    make_tokenizer(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=261,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=4096,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=257,
        pad_token_id=256,
    )
    net = LlamaForCausalLM(config)
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
