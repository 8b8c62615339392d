"""Scored groups in, weights out.

    groups -> rewards -> advantages -> batching -> policy (forward) -> losses -> engine_deepspeed (update) -> weights

`learner.Learner` joins them. `losses` and `advantages` are the registries; neither imports torch.
"""
