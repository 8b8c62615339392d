"""Prompts in, groups out: task sources, the rollout actor and its engines."""
