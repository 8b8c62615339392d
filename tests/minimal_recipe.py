"""The least that a recipe must say: what tests of single settings start from."""

MINIMAL = """
[model]
path = "tiny"
[actors]
tasks = [{ name = "reasoning_gym", family = "gcd" }]
[rewarders]
use = ["exact"]
[learners]
steps = 5
"""
