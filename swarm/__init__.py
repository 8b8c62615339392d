"""Distributed, asynchronous actor-learner reinforcement learning for language models.

`swarm` holds the shared nouns (`types`), roles (`roles`), errors, configuration, Arrow schema, pool, ledger and the
loop. It imports none of `actors`, `rewarders`, `learners` and `cluster`, and nothing heavy. Start reading at `loop`.
"""

__version__ = "0.1.0"
